"""Convert a file, encoded bytes or an item of a dataset to one uint8 RGB image.

OpenCV decodes JPEG, up to twice as fast as Pillow and to the same pixels. Pillow reads the header
of every file and decodes all other formats: OpenCV multiplies an RGBA TIFF by its alpha, does not
read every GIF and, in some versions, ignores the orientation of a WebP.
"""

from __future__ import annotations

import io
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import one_line

# A closed list: Pillow would also pass EPS files to Ghostscript, and open videos and fonts.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_FILE_BYTES = 1 << 30  # a video or archive with an image's name must not fill the memory

# Pillow warns of damaged EXIF data and similar; a damaged image becomes an error row anyway.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DecodeError(Exception):
    """An image cannot be used. The message is one line, without the path, for an error row."""

    is_message = True


@contextmanager
def _reason() -> Iterator[None]:
    """Convert any error of the context, whatever its type, to a DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError:  # its text contains the address of an object
        raise DecodeError(f"damaged header, or none of {', '.join(FORMATS)}") from None
    except Exception as error:
        text = one_line(error, with_type=False)
        raise DecodeError(f"cannot be decoded: {text[:200]}") from error


def read_file(path: Path) -> bytes:
    """Read a regular file; symbolic links are followed.

    Raises:
        DecodeError: the file is missing, unreadable, empty, larger than MAX_FILE_BYTES, or no
            regular file (a pipe or device is never opened, because reading it could block).
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DecodeError(f"{status.st_size} bytes are too many for an image")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DecodeError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise DecodeError("empty file")
    return data


def check_size(size: int) -> None:
    """Check the size of a file in bytes.

    Raises:
        DecodeError: the file is empty or larger than MAX_FILE_BYTES.
    """
    if size > MAX_FILE_BYTES:
        raise DecodeError(f"{size} bytes are too many for an image")
    if not size:
        raise DecodeError("empty file")


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an encoded image to RGB, uint8, (H, W, 3), contiguous, rotated as its EXIF says.

    Sixteen bits become eight by dropping the low byte. Alpha and transparent palette entries are
    dropped, not blended, as in Pillow's `convert("RGB")` and so in torchvision's ImageFolder.
    Colour profiles are ignored. Only PNG has checksums: in other formats damaged pixels that are
    still valid for the decoder cannot be detected.

    Raises:
        DecodeError: the data is in none of FORMATS, has more than max_pixels pixels by its header
            (Pillow's own limit of 179 million applies too), holds several images (animation or
            pages, but not the previews in a phone's MPO), has 32-bit samples, or is truncated or
            damaged.
    """
    with _reason(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        _check_header(image, max_pixels)
        if image.format in ("JPEG", "MPO"):
            _check_jpeg_end(data)
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if pixels is not None:  # else Pillow decodes it, or raises an error with a reason
                return np.asarray(pixels, np.uint8)
        elif image.format == "PNG":  # Pillow compares checksums in verify() only
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        ImageOps.exif_transpose(image, in_place=True)
        return _from_pillow(image)


def _check_header(image: Image.Image, max_pixels: int) -> None:
    """Check, before decoding, that the file holds a single image of an allowed size."""
    width, height = image.size
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels, more than the {max_pixels} allowed")
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DecodeError(f"several images in one {image.format} (animation or pages)")


def _check_jpeg_end(data: bytes) -> None:
    """Check that an end-of-image marker follows the first start of scan of a JPEG.

    Decoders read the zeros of an incomplete copy as dark or grey blocks, and OpenCV before 4.11
    fills the rest of a truncated JPEG with stale memory. The segments before the scan are skipped,
    because a thumbnail in EXIF ends with the same marker. Inside the scan bytes 0xFF are stuffed
    (ITU-T T.81, B.1.1), so the marker cannot occur there.

    Raises:
        DecodeError: there is no such marker.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        fill = data[at + 1 : at + 2] == b"\xff"  # a marker may be preceded by any number of 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data.rfind(b"\xff\xd9", at) < 0:  # searched from the end, where it usually is
        raise DecodeError("truncated JPEG: no end-of-image marker")


def to_rgb(image: object) -> NDArray[np.uint8]:
    """Convert an image of a dataset to RGB, uint8, (H, W, 3), contiguous.

    Accepted are a PIL image (its EXIF orientation is not applied), and a numpy array or torch
    tensor of two dimensions, or of three with 1, 3 or 4 channels (a fourth, alpha, is dropped),
    of bool, uint8, uint16 (low byte dropped) or floats in [0, 1]. If a shape is ambiguous, arrays
    have their channels last and tensors first. The result may share the array's memory.

    Raises:
        DecodeError: anything else; floats outside [0, 1] are probably normalised already.
    """
    with _reason():
        if isinstance(image, Image.Image):
            return _from_pillow(image)
        torch = sys.modules.get("torch")  # if the item is a tensor, torch has been imported
        if torch is not None and isinstance(image, torch.Tensor):
            return _from_array(image.detach().cpu().numpy(), channels_first=True)
        if isinstance(image, np.ndarray):
            return _from_array(image, channels_first=False)
        raise DecodeError(
            f"a {type(image).__name__} is not a PIL image, a numpy array or a torch tensor"
        )


def _from_pillow(image: Image.Image) -> NDArray[np.uint8]:
    # Pillow's conversion clips 16-bit values at 255. Its 32-bit mode "I" holds 16 bits in a PGM.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return _from_array(np.array(image).astype(np.uint16), channels_first=False)
    if image.mode in ("I", "F"):
        raise DecodeError(f"32-bit samples (mode {image.mode}) have no agreed range")
    return _from_array(np.array(image.convert("RGB")), channels_first=False)


def _from_array(array: NDArray[Any], *, channels_first: bool) -> NDArray[np.uint8]:
    """Convert an array of any shape and type that `to_rgb` accepts to (H, W, 3) uint8."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise DecodeError(f"an array of shape {array.shape} is not an image")
    first, last = (array.shape[axis] in (1, 3, 4) for axis in (0, 2))
    if first and (channels_first or not last):
        array = np.moveaxis(array, 0, 2)
    elif not last:
        raise DecodeError(f"shape {array.shape} has no axis of 1, 3 or 4 channels")
    array = _eight_bits(array[:, :, :3])
    return np.ascontiguousarray(array if array.shape[2] == 3 else array.repeat(3, axis=2))


def _eight_bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return np.asarray(array * np.uint8(255), np.uint8)
    if array.dtype == np.uint16:
        return np.asarray(array >> 8, np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise DecodeError(f"samples of type {array.dtype}, not uint8, uint16, bool or float")
    low, high = float(array.min()), float(array.max())
    half_step = 0.5 / 255  # interpolation may overshoot a little
    if not (low > -half_step and high < 1 + half_step):  # this form refuses NaN too
        raise DecodeError(
            f"floats from {low:.3g} to {high:.3g} look normalised already; return the raw image"
        )
    return np.asarray(np.rint(array.clip(0, 1) * 255), np.uint8)
