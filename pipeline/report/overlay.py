"""Heatmaps in colour, on their pictures: what a person looks at. Pictures are (H, W, 3) RGB."""

from __future__ import annotations

from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.analysis.place_words import place_of_point
from pipeline.data.decode import to_rgb
from pipeline.data.pictures import WHOLE, Box, Rgb, Rgba
from pipeline.errors import ConfigError

Heatmap = NDArray[np.floating[Any]]


COLORMAP, ALPHA = "viridis", 0.5


_PREFIX = "COLORMAP_"


_LAYER, _PER_CELL = 112, 8
"""Longer side of a layer in pixels, at least, and at least so many for each cell of the heatmap."""


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
    """Name the place of a heatmap's maximum, such as "top left"; "nowhere" for a dead heatmap."""
    if not heatmap.max() > 0:
        return "nowhere"
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    return place_of_point(int(row), int(column), (heatmap.shape[0], heatmap.shape[1]))
