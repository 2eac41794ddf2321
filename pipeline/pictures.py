"""Heatmaps in colour, on their pictures: what a person looks at. Pictures are (H, W, 3) RGB."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from pipeline.decode import to_rgb
from pipeline.errors import ConfigError

Rgb = NDArray[np.uint8]
Rgba = NDArray[np.uint8]
Heatmap = NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of a picture; a model that pads sees beyond its edges."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
COLORMAP, ALPHA = "viridis", 0.5

_PREFIX = "COLORMAP_"
_QUALITY = 82
"""Of WebP, 1 to 100: no difference is seen."""
_DARK = 64
"""Level, of 255, that the brightest pixels of a picture must reach to be seen."""
_LAYER, _PER_CELL = 112, 8
"""Longer side of a layer in pixels, at least, and at least so many for each cell of the heatmap."""
_SMALL = 128
"""Longer side up to which pictures are kept without loss: every pixel of them will be seen."""


@cache
def colormap_code(name: str) -> int:
    """OpenCV's number of a colour map, by its name in any case.

    Raises:
        ConfigError: listing the names there are.
    """
    known = {
        key.removeprefix(_PREFIX).lower(): int(getattr(cv2, key))
        for key in dir(cv2)
        if key.startswith(_PREFIX)
    }
    if name.lower() not in known:
        raise ConfigError(f"report.colormap: {name!r} is none of {', '.join(sorted(known))}")
    return known[name.lower()]


def numbers(values: ArrayLike) -> Heatmap:
    """Numbers (float32) of an array, or of a tensor wherever it is."""
    taken: Any = values
    if hasattr(taken, "detach"):
        taken = taken.detach().cpu().float().numpy()
    return np.asarray(taken, np.float32)


def coloured(heat: Heatmap, colormap: str = COLORMAP) -> Rgb:
    """Heat (H, W) in [0, 1] in the colours of a colour map: (H, W, 3) uint8."""
    levels = np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(levels, colormap_code(colormap))
    return np.asarray(bgr[..., ::-1], np.uint8)


def seen_box(resize: Any, crop: Any, shape: tuple[int, ...]) -> Box:
    """What a model sees of a picture that is resized and then cropped around its centre.

    Args:
        resize: the shorter side in pixels, or (height, width).
        crop: (height, width).
        shape: of the picture, height and width first.

    Returns:
        As fractions of the picture; beyond 0 and 1 where the crop is larger than what it is taken
        from and black is added around it.
    """
    height, width = shape[:2]
    if isinstance(resize, int):  # the shorter side; the longer is rounded down, as torchvision does
        longer = int(resize * max(height, width) / min(height, width))
        resize = (resize, longer) if height <= width else (longer, resize)
    (y0, y1), (x0, x1) = map(_extent, resize, crop)
    return x0, y0, x1, y1


def _extent(side: int, crop: int) -> tuple[float, float]:
    """Where a centre crop begins and ends, as fractions of the side.

    torchvision adds the smaller half of what is lacking before, and rounds half a pixel to even.
    """
    first = -((crop - side) // 2) if crop > side else round((side - crop) / 2)
    return first / side, (first + crop) / side


def spread(heatmap: ArrayLike, shape: tuple[int, ...], seen: Box = WHOLE) -> NDArray[np.float32]:
    """A heatmap at its picture's own size, bilinear between the centres of its cells.

    Args:
        heatmap: (h, w) in [0, 1], at the layer's own grid.
        shape: of the picture, height and width first.
        seen: what of the picture the model saw; there is no heat elsewhere.

    Returns:
        (height, width) in [0, 1].
    """
    height, width = shape[:2]
    cells = np.clip(np.asarray(heatmap, np.float32), 0, 1)
    x0, x1 = (round(side * width) for side in (seen[0], seen[2]))
    y0, y1 = (round(side * height) for side in (seen[1], seen[3]))
    size = max(1, x1 - x0), max(1, y1 - y0)
    heat = np.asarray(cv2.resize(cells, size, interpolation=cv2.INTER_LINEAR))
    whole = np.zeros((height, width), np.float32)
    top, left = max(0, y0), max(0, x0)
    part = heat[top - y0 : height - y0, left - x0 : width - x0]
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part
    return whole


def opacity(heat: Heatmap) -> Heatmap:
    """How far heat (H, W) covers its picture, before alpha: cold places stay as they are, and from
    half heat on colour alone tells the heat.
    """
    return np.minimum(1, 2 * heat)


def layer(heat: Heatmap, colormap: str = COLORMAP) -> Rgba:
    """Heat (H, W) in [0, 1] as (H, W, 4) RGBA, to be laid over its picture in any strength.

    Laid over with an opacity of alpha, it makes what `overlay` makes.
    """
    levels = np.rint(opacity(heat) * 255).astype(np.uint8)
    return np.dstack([coloured(heat, colormap), levels])


def overlay(
    image: object,
    heatmap: ArrayLike,
    alpha: float = ALPHA,
    *,
    colormap: str = COLORMAP,
    seen: Box = WHOLE,
) -> Rgb:
    """A heatmap laid over its picture, at the picture's own size.

    A pixel is mixed with its colour in the share alpha * min(1, 2 * heat): cold places stay as they
    are, and from half heat on 1 - alpha of the picture remains.

    Args:
        image: as `decode.to_rgb` takes it: a PIL image, a uint8 array (H, W, 3) in RGB order, ...
        heatmap: (h, w) in [0, 1], as `explain` gives it; a tensor will do.
        alpha: opacity from heat 0.5 on, in [0, 1].
        colormap: name of an OpenCV colour map: viridis, inferno, turbo, jet, ...
        seen: what of the picture the model saw (Preprocess.seen), as fractions.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: an unknown colour map.
        DecodeError: what is no picture.
    """
    picture = to_rgb(image)
    heat = spread(numbers(heatmap), picture.shape, seen)
    weight = alpha * opacity(heat)[..., None]
    mixed = picture + weight * (coloured(heat, colormap).astype(np.float32) - picture)
    return np.rint(mixed).astype(np.uint8)


def for_display(image: Rgb, side: int) -> Rgb:
    """A picture whose longer side is at most `side` pixels; a smaller one stays as it is."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return image
    size = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def visible(image: Rgb) -> tuple[Rgb, float]:
    """A picture too dark to be seen, brightened, and by which factor; 1 for any other."""
    brightest = float(np.percentile(image, 99))
    if brightest >= _DARK:
        return image, 1.0
    factor = _DARK / max(brightest, 1)
    return np.clip(image * factor, 0, 255).astype(np.uint8), factor


def layer_picture(heatmap: ArrayLike, shape: tuple[int, ...], seen: Box, colormap: str) -> Rgba:
    """The layer of a heatmap (h, w) for a picture of a shape, as small as it can be kept.

    Between the centres of its cells a heatmap is linear, and so is what a browser makes of a small
    picture when it enlarges it.
    """
    height, width = shape[:2]
    longer = max(_LAYER, _PER_CELL * max(numbers(heatmap).shape))
    scale = longer / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return layer(spread(heatmap, size, seen), colormap)


def map_picture(heatmap: Heatmap, side: int, colormap: str) -> Rgb:
    """A heatmap (h, w) in [0, 1] without a picture, its longer side `side` pixels."""
    height, width = heatmap.shape
    scale = side / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return coloured(spread(heatmap, size), colormap)


def colour_bar(width: int, height: int, alpha: float, colormap: str) -> Rgb:
    """The legend: heat 0 to 1 from left to right, as it looks over a grey picture."""
    grey = np.full((height, width, 3), 160, np.uint8)
    return overlay(grey, np.linspace(0, 1, width)[None], alpha, colormap=colormap)


def place(heatmap: Heatmap) -> str:
    """Where a heatmap is hottest, in words: upper left, centre, lower edge; nowhere if dead."""
    if not heatmap.max() > 0:
        return "nowhere"
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    vertical = ("upper", "", "lower")[_third(int(row), heatmap.shape[0])]
    horizontal = ("left", "", "right")[_third(int(column), heatmap.shape[1])]
    if vertical and horizontal:
        return f"{vertical} {horizontal}"
    return f"{vertical or horizontal} edge" if vertical or horizontal else "centre"


def webp(image: Rgb | Rgba) -> bytes:
    """A picture (H, W, 3 or 4) as WebP; a small one without loss.

    By Pillow, which lets go of the interpreter's lock while it packs, and takes the fast way.
    """
    packed = io.BytesIO()
    small = max(image.shape[:2]) <= _SMALL and image.shape[2] == 3
    Image.fromarray(image).save(packed, "WEBP", quality=_QUALITY, method=1, lossless=small)
    return packed.getvalue()


def save(path: Path, image: Rgb | Rgba) -> None:
    """Write a picture as WebP.

    Raises:
        OSError: disk full, folder gone.
    """
    path.write_bytes(webp(image))


def _third(position: int, cells: int) -> int:
    return int((position + 0.5) / cells * 3)
