"""Heatmaps in colour, on their pictures: what a person looks at. Pictures are (H, W, 3) RGB."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]


Rgba = NDArray[np.uint8]


Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of a picture; a model that pads sees beyond its edges."""


WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


_QUALITY = 82
"""Of WebP, 1 to 100: no difference is seen."""


_DARK = 64
"""Level, of 255, that the brightest pixels of a picture must reach to be seen."""


_SMALL = 128
"""Longer side up to which pictures are kept without loss: every pixel of them will be seen."""


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
