"""Images prepared for display: the region a model sees, display size, brightness, WebP encoding.

An image is an array (H, W, 3) uint8 in RGB order.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rgb = NDArray[np.uint8]
"""Pixels (H, W, 3) in RGB order."""
Rgba = NDArray[np.uint8]
"""Pixels (H, W, 4); the fourth channel is the opacity."""
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 as fractions of an image; below 0 or above 1 where a model pads the image."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


_QUALITY = 82
"""WebP quality, 1 to 100; at 82 the loss is not visible."""
_DARK = 64
"""An image whose 99th percentile lies below this level (of 255) is brightened."""
_SMALL = 128
"""Longer side up to which encoding is lossless, because the page enlarges small images."""


def seen_box(resize: int | Sequence[int], crop: Sequence[int], shape: tuple[int, ...]) -> Box:
    """Compute the region of an image that a model sees after resizing and centre cropping.

    Args:
        resize: the shorter side in pixels, or (height, width).
        crop: (height, width) in pixels.
        shape: the shape of the image, height and width first.

    Returns:
        The region as fractions of the image. Values lie outside [0, 1] where the crop is larger
        than the resized image, which is then padded with black.
    """
    height, width = shape[:2]
    if isinstance(resize, int):  # the shorter side; the longer is rounded down, as torchvision does
        longer = int(resize * max(height, width) / min(height, width))
        resize = (resize, longer) if height <= width else (longer, resize)
    (y0, y1), (x0, x1) = map(_extent, resize, crop)
    return x0, y0, x1, y1


def _extent(side: int, crop: int) -> tuple[float, float]:
    """Return the start and the end of a centre crop as fractions of the side.

    The rounding is that of torchvision: padding puts the smaller half first, and cropping rounds
    half a pixel to even.
    """
    first = -((crop - side) // 2) if crop > side else round((side - crop) / 2)
    return first / side, (first + crop) / side


def shrink(image: Rgb, side: int) -> Rgb:
    """Scale an image down to a longer side of at most `side` pixels; never scale it up."""
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer <= side:
        return image
    size = (max(1, round(width * side / longer)), max(1, round(height * side / longer)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def brighten(image: Rgb) -> tuple[Rgb, float]:
    """Brighten an image that is too dark to see.

    Returns:
        The image and the factor; the same array and 1 where the image is bright enough.
    """
    brightest = float(np.percentile(image, 99))
    if brightest >= _DARK:
        return image, 1.0
    factor = _DARK / max(brightest, 1)
    return np.clip(image * factor, 0, 255).astype(np.uint8), factor


def encode_webp(image: Rgb | Rgba) -> bytes:
    """Encode an image (H, W, 3 or 4) as WebP; small RGB images are encoded without loss.

    Pillow releases the interpreter's lock while it encodes; method 1 is its second fastest.
    """
    buffer = io.BytesIO()
    small = max(image.shape[:2]) <= _SMALL and image.shape[2] == 3
    Image.fromarray(image).save(buffer, "WEBP", quality=_QUALITY, method=1, lossless=small)
    return buffer.getvalue()
