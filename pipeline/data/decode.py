"""From a file, encoded bytes or whatever a dataset returns to one uint8 RGB picture.

OpenCV decodes JPEG, up to twice as fast as Pillow and to the same pixels. Pillow reads the header
of every file and decodes the rest, where OpenCV multiplies an RGBA TIFF by its alpha, does not
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

# A closed list: Pillow would also hand EPS to Ghostscript, and take videos and fonts for pictures.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_FILE_BYTES = 1 << 30  # a film or an archive under a picture's name must not fill the memory

# Pillow warns of damaged EXIF and the like; what ends in an error row need not be said twice.
warnings.filterwarnings("ignore", module=r"PIL\.")


class DecodeError(Exception):
    """Why a picture cannot be used: one line in words, without the path, for an error row."""

    is_message = True


@contextmanager
def _reason() -> Iterator[None]:
    """Turn whatever goes wrong inside, libraries' errors of any type, into a DecodeError."""
    try:
        yield
    except DecodeError:
        raise
    except UnidentifiedImageError:  # its own text holds the address of an object
        raise DecodeError(f"damaged header, or none of {', '.join(FORMATS)}") from None
    except Exception as error:
        text = one_line(error, with_type=False)
        raise DecodeError(f"cannot be decoded: {text[:200]}") from error


def read_file(path: Path) -> bytes:
    """Return the bytes of a regular file; symbolic links are followed.

    Raises DecodeError for anything else (a pipe or a device is never opened, so nothing waits on
    it), for a file that is missing, unreadable, empty or larger than MAX_FILE_BYTES.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError("not a regular file")
        if status.st_size > MAX_FILE_BYTES:
            raise DecodeError(f"{status.st_size} bytes are too many for a picture")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DecodeError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not data:
        raise DecodeError("empty file")
    return data


def check_size(size: int) -> None:
    """Refuse a file that is empty or larger than MAX_FILE_BYTES.

    Raises:
        DecodeError: saying which.
    """
    if size > MAX_FILE_BYTES:
        raise DecodeError(f"{size} bytes are too many for a picture")
    if not size:
        raise DecodeError("empty file")


def decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an encoded picture to RGB, uint8, (H, W, 3), contiguous, turned upright by its EXIF.

    Sixteen bits become eight by dropping the low byte. Alpha and transparent palette entries are
    dropped, not blended, as in Pillow's `convert("RGB")` and so in torchvision's ImageFolder.
    Colour profiles are ignored.

    Raises DecodeError for what is no picture in one of FORMATS, has more than max_pixels pixels
    (told from the header, before any decoding; Pillow's own limit of 179 million stands beside
    it), holds several pictures (animation, pages; not the previews in a phone's MPO), has samples
    of 32 bits, or is truncated or damaged. Only PNG carries checksums: elsewhere damage amid the
    pixels may leave what is valid for the decoder, and then cannot be noticed.
    """
    with _reason(), Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        _check_header(picture, max_pixels)
        if picture.format in ("JPEG", "MPO"):
            _check_jpeg_end(data)
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            if pixels is not None:  # else Pillow may try, and find the words
                return np.asarray(pixels, np.uint8)
        elif picture.format == "PNG":  # Pillow compares checksums in verify() alone
            Image.open(io.BytesIO(data), formats=("PNG",)).verify()
        ImageOps.exif_transpose(picture, in_place=True)
        return _from_pillow(picture)


def _check_header(picture: Image.Image, max_pixels: int) -> None:
    """Refuse, before any decoding, a picture that is too large or not a single one."""
    width, height = picture.size
    if width * height > max_pixels:
        raise DecodeError(f"{width} x {height} pixels, more than the {max_pixels} allowed")
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise DecodeError(f"several pictures in one {picture.format} (animation or pages)")


def _check_jpeg_end(data: bytes) -> None:
    """Raise DecodeError unless an end-of-image marker follows the first start of scan.

    Decoders take the zeros of an incomplete copy for dark or grey blocks, and OpenCV before 4.11
    fills the rest of a truncated JPEG with stale memory. The segments before the scan are stepped
    over, as a thumbnail in EXIF ends with the same marker; later bytes 0xFF are stuffed
    (ITU-T T.81, B.1.1), so the marker cannot occur inside the scan.
    """
    at = 2
    while data[at : at + 1] == b"\xff" and data[at + 1 : at + 2] != b"\xda":
        fill = data[at + 1 : at + 2] == b"\xff"  # a marker may be preceded by any number of 0xFF
        at += 1 if fill else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if data.rfind(b"\xff\xd9", at) < 0:  # from the back, where it mostly stands
        raise DecodeError("truncated JPEG: no end-of-image marker")


def to_rgb(picture: object) -> NDArray[np.uint8]:
    """Bring what a dataset returns to RGB, uint8, (H, W, 3), contiguous.

    Taken are a PIL image as it stands (EXIF is not applied), and a numpy array or torch tensor of
    two dimensions, or of three with 1, 3 or 4 channels (a fourth, alpha, is dropped), of bool,
    uint8, uint16 (low byte dropped) or floats in [0, 1]. Where a shape can be read both ways,
    arrays have their channels last and tensors first. The result may share the array's memory.

    Raises DecodeError for anything else; floats outside [0, 1] are most likely normalised already.
    """
    with _reason():
        if isinstance(picture, Image.Image):
            return _from_pillow(picture)
        torch = sys.modules.get("torch")  # who holds a tensor has imported it
        if torch is not None and isinstance(picture, torch.Tensor):
            return _from_array(picture.detach().cpu().numpy(), channels_first=True)
        if isinstance(picture, np.ndarray):
            return _from_array(picture, channels_first=False)
        raise DecodeError(
            f"a {type(picture).__name__} is not a PIL image, a numpy array or a torch tensor"
        )


def _from_pillow(picture: Image.Image) -> NDArray[np.uint8]:
    # Pillow's own conversion clips 16 bits at 255. Its 32-bit "I" is 16 bits wide in a PGM.
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PPM"):
        return _from_array(np.array(picture).astype(np.uint16), channels_first=False)
    if picture.mode in ("I", "F"):
        raise DecodeError(f"32-bit samples (mode {picture.mode}) have no agreed range")
    return _from_array(np.array(picture.convert("RGB")), channels_first=False)


def _from_array(array: NDArray[Any], *, channels_first: bool) -> NDArray[np.uint8]:
    """Return (H, W, 3) uint8 from any shape and type that `to_rgb` names."""
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.size == 0:
        raise DecodeError(f"an array of shape {array.shape} is not a picture")
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
    if not (low > -half_step and high < 1 + half_step):  # so put, it refuses NaN as well
        raise DecodeError(
            f"floats from {low:.3g} to {high:.3g} look normalised already; return the raw picture"
        )
    return np.asarray(np.rint(array.clip(0, 1) * 255), np.uint8)
