"""Pictures of the report: heatmaps in colour, overlays, WebP files. Pictures are (H, W, 3) RGB."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ConfigError

Rgb = NDArray[np.uint8]
Heatmap = NDArray[np.floating[Any]]

_PREFIX = "COLORMAP_"
_QUALITY = 88  # of WebP, 1 to 100: no visible blocks around the colour edges of small pictures


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


def coloured(heatmap: Heatmap, colormap: str) -> Rgb:
    """A heatmap (h, w) in [0, 1] in the colours of a colour map, cell by cell: (h, w, 3)."""
    levels = np.rint(np.clip(heatmap, 0, 1) * 255).astype(np.uint8)
    bgr = cv2.applyColorMap(levels, colormap_code(colormap))
    return np.asarray(bgr[..., ::-1], np.uint8)


def overlay(image: Rgb, heatmap: Heatmap, alpha: float, colormap: str) -> Rgb:
    """A heatmap laid over its picture.

    A pixel is mixed with its colour in the share alpha * min(1, 2 * heat): cold places stay as they
    are, and from half heat on colour alone tells the heat and 1 - alpha of the picture remains.

    Args:
        image: (H, W, 3) uint8 RGB.
        heatmap: (h, w) in [0, 1], enlarged bilinearly to the picture.
        alpha: opacity from heat 0.5 on, in [0, 1].
        colormap: name of an OpenCV colour map.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ConfigError: an unknown colour map.
    """
    heat = _enlarged(heatmap, image.shape[1], image.shape[0])
    weight = alpha * np.minimum(1, 2 * heat)[..., None]
    mixed = image + weight * (coloured(heat, colormap).astype(np.float32) - image)
    return np.rint(mixed).astype(np.uint8)


def for_display(image: Rgb, side: int) -> Rgb:
    """A picture whose longer side is `side` pixels, a small one's the next multiple of its own.

    Pixels of small pictures stay sharp: what the model saw, not what smoothing makes of it.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= side:
        factor = -(-side // longer)
        return image.repeat(factor, axis=0).repeat(factor, axis=1)
    size = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def map_picture(heatmap: Heatmap, side: int, colormap: str) -> Rgb:
    """A heatmap (h, w) in [0, 1] without a picture, its longer side `side` pixels."""
    height, width = heatmap.shape
    scale = side / max(height, width)
    heat = _enlarged(heatmap, max(1, round(width * scale)), max(1, round(height * scale)))
    return coloured(heat, colormap)


def colour_bar(width: int, height: int, alpha: float, colormap: str) -> Rgb:
    """The legend: heat 0 to 1 from left to right, as it looks over a grey picture."""
    grey = np.full((height, width, 3), 160, np.uint8)
    return overlay(grey, np.linspace(0, 1, width, dtype=np.float32)[None], alpha, colormap)


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


def save(path: Path, image: Rgb) -> None:
    """Write a picture as WebP.

    Raises:
        OSError: disk full, folder gone.
    """
    _, data = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, _QUALITY])
    path.write_bytes(data.tobytes())


def _enlarged(heatmap: Heatmap, width: int, height: int) -> NDArray[np.float32]:
    heat = np.clip(heatmap, 0, 1).astype(np.float32)
    return np.asarray(cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR))


def _third(position: int, cells: int) -> int:
    return int((position + 0.5) / cells * 3)
