"""Colour maps, and drawing heatmaps: over an image, as a transparent layer, or alone.

Images are arrays (H, W, 3) uint8 in RGB order.
"""

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
"""Heat (h, w) in [0, 1], where 1 is the maximum of the heatmap."""

COLORMAP, ALPHA = "viridis", 0.5
"""The default colour map and the default opacity of heat."""
_PREFIX = "COLORMAP_"
_LAYER_SIDE, _CELL_SIDE = 112, 8
"""Minimum sizes of a layer in pixels: its longer side, and the side of one heatmap cell."""


@cache
def colormap_code(name: str) -> int:
    """Return the OpenCV number of a colour map; upper and lower case are the same.

    Raises:
        ConfigError: the name is unknown; the message lists the known names.
    """
    known = {
        key.removeprefix(_PREFIX).lower(): int(getattr(cv2, key))
        for key in dir(cv2)
        if key.startswith(_PREFIX)
    }
    if name.lower() not in known:
        raise ConfigError(f"report.colormap: {name!r} is none of {', '.join(sorted(known))}")
    return known[name.lower()]


def to_numpy(values: ArrayLike) -> Heatmap:
    """Convert an array, or a tensor on any device, to a float32 array."""
    array: Any = values
    if hasattr(array, "detach"):
        array = array.detach().cpu().float().numpy()
    return np.asarray(array, np.float32)


def apply_colormap(heat: Heatmap, colormap: str = COLORMAP) -> Rgb:
    """Map heat (H, W) in [0, 1] to the colours of a colour map: (H, W, 3) uint8 RGB."""
    levels = np.rint(np.clip(heat, 0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(levels, colormap_code(colormap))
    return np.asarray(bgr[..., ::-1], np.uint8)


def resize_heatmap(
    heatmap: ArrayLike, shape: tuple[int, ...], seen: Box = WHOLE
) -> NDArray[np.float32]:
    """Resize a heatmap to the size of its image, bilinear between the centres of its cells.

    Args:
        heatmap: (h, w) in [0, 1], on the grid of the target layer.
        shape: the shape of the image, height and width first.
        seen: the region of the image that the model saw; the heat outside it is 0.

    Returns:
        Heat (height, width) in [0, 1].
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
    """Compute the opacity min(1, 2 * heat) of heat (H, W), before it is multiplied by alpha."""
    return np.minimum(1, 2 * heat)


def draw_layer(heat: Heatmap, colormap: str = COLORMAP) -> Rgba:
    """Draw heat (H, W) in [0, 1] as a transparent layer (H, W, 4) RGBA.

    The layer over an image, with an opacity of alpha, equals the result of `overlay`.
    """
    levels = np.rint(opacity(heat) * 255).astype(np.uint8)
    return np.dstack([apply_colormap(heat, colormap), levels])


def overlay(
    image: object,
    heatmap: ArrayLike,
    alpha: float = ALPHA,
    *,
    colormap: str = COLORMAP,
    seen: Box = WHOLE,
) -> Rgb:
    """Draw a heatmap over its image, at the size of the image.

    The colour of the heat has the weight alpha * min(1, 2 * heat) in each pixel, the image has the
    rest: pixels without heat do not change, and alpha is the largest weight of the colour.

    Args:
        image: as `decode.to_rgb` takes it: a PIL image, a uint8 array (H, W, 3) in RGB order, ...
        heatmap: (h, w) in [0, 1], an array or a tensor, such as `explain` returns.
        alpha: opacity of heat of 0.5 and more, in [0, 1].
        colormap: name of an OpenCV colour map, such as viridis, inferno, turbo, jet.
        seen: the region of the image that the model saw, as fractions of the image.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: the colour map is unknown.
        DecodeError: `image` is no image.
    """
    pixels = to_rgb(image)
    heat = resize_heatmap(to_numpy(heatmap), pixels.shape, seen)
    weight = alpha * opacity(heat)[..., None]
    mixed = pixels + weight * (apply_colormap(heat, colormap).astype(np.float32) - pixels)
    return np.rint(mixed).astype(np.uint8)


def draw_small_layer(heatmap: ArrayLike, shape: tuple[int, ...], seen: Box, colormap: str) -> Rgba:
    """Draw the layer of a heatmap (h, w) for an image of a shape, at a reduced size.

    The browser enlarges the layer bilinearly, which is how a heatmap is interpolated between the
    centres of its cells.
    """
    height, width = shape[:2]
    longer = max(_LAYER_SIDE, _CELL_SIDE * max(to_numpy(heatmap).shape))
    scale = longer / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return draw_layer(resize_heatmap(heatmap, size, seen), colormap)


def draw_heatmap(heatmap: Heatmap, side: int, colormap: str) -> Rgb:
    """Draw a heatmap (h, w) in [0, 1] without its image; its longer side has `side` pixels."""
    height, width = heatmap.shape
    scale = side / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return apply_colormap(resize_heatmap(heatmap, size), colormap)


def draw_colour_bar(width: int, height: int, alpha: float, colormap: str) -> Rgb:
    """Draw the legend: heat from 0 (left) to 1 (right) over a grey image."""
    grey = np.full((height, width, 3), 160, np.uint8)
    return overlay(grey, np.linspace(0, 1, width)[None], alpha, colormap=colormap)


def hottest_place(heatmap: Heatmap) -> str:
    """Name the place of a heatmap's maximum, such as "top left"; "nowhere" for a dead heatmap."""
    if not heatmap.max() > 0:
        return "nowhere"
    row, column = np.unravel_index(int(heatmap.argmax()), heatmap.shape)
    return place_of_point(int(row), int(column), (heatmap.shape[0], heatmap.shape[1]))
