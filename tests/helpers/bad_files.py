"""Picture files of every sort, by name: BAD_KINDS no audit can use, GOOD_KINDS it has to read.

A writer takes the path, where nothing must exist yet, and ignores its suffix; what it writes is
the same every time. A good file shows CHART once it is upright, or its version in grey or in
black and white: `truth` gives the pixels. The FIFO and the links need a POSIX system.
"""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Writer = Callable[[Path], None]
Pixels = NDArray[np.uint8]


def _chart() -> Pixels:
    """Four flat fields that no turn and no mirroring leaves in place.

    Their sides are multiples of 16, so that JPEG's blocks, chroma halved, do not mix them.
    """
    chart = np.empty((64, 96, 3), np.uint8)
    chart[:32, :48], chart[:32, 48:] = (200, 30, 40), (30, 180, 60)
    chart[32:, :48], chart[32:, 48:] = (20, 50, 210), (240, 220, 200)
    return chart


CHART = _chart()
COLOUR = Image.fromarray(CHART)
GREY = COLOUR.convert("L")
BILEVEL = GREY.point(lambda value: 255 if value > 100 else 0)
NOISE, NOISE_2 = (  # no codec packs noise into a few bytes: a cut falls inside the pixels
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8))
    for seed in (0, 1)
)


def truth(kind: str) -> Pixels:
    """The pixels, (64, 96, 3), that the good file of this kind was made from."""
    source = GREY if "grey" in kind else BILEVEL if "bilevel" in kind else COLOUR
    return np.array(source.convert("RGB"))


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:
    """The picture as Pillow saves it in this format."""
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def exif(orientation: int, appended: bytes = b"") -> bytes:
    """An EXIF block with this orientation; a thumbnail may be appended."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes() + appended


def _bytes(data: bytes) -> Writer:
    def write(path: Path) -> None:
        path.write_bytes(data)

    return write


def _good(picture: Image.Image, form: str, **options: Any) -> Writer:
    return _bytes(encoded(picture, form, **options))


def _cut(form: str, keep: float = 0.6, **options: Any) -> Writer:
    data = encoded(NOISE, form, **options)
    return _bytes(data[: int(len(data) * keep)])


def _several(form: str) -> Writer:
    return _good(NOISE, form, save_all=True, append_images=[NOISE_2])


def _sixteen_bits(suffix: str, picture: Image.Image) -> Writer:
    """As OpenCV writes it: the picture in the high byte, something else in the low one."""
    samples = np.asarray(picture).astype(np.uint16) * 256 + 201
    order = [2, 1, 0, 3][: samples.shape[2]] if samples.ndim == 3 else slice(None)
    return _bytes(cv2.imencode(suffix, samples[..., order])[1].tobytes())


def _turned(orientation: int) -> Image.Image:
    """COLOUR as a camera stores it under this EXIF orientation (CIPA DC-008, tag 274)."""
    chart = CHART.transpose(1, 0, 2) if orientation >= 5 else CHART
    rows = -1 if orientation in (3, 4, 6, 7) else 1
    columns = -1 if orientation in (2, 3, 7, 8) else 1
    return Image.fromarray(np.ascontiguousarray(chart[::rows, ::columns]))


def _ycck() -> bytes:
    """A JPEG as Adobe's programs write CMYK: inverted inks, as luma and chroma, and black.

    Pillow saves four planes, inverted, and calls them CMYK (transform 0); 2 stands for YCCK.
    """
    planes = np.zeros((*CHART.shape[:2], 4), np.uint8)
    planes[..., :3] = 255 - np.asarray(Image.fromarray(255 - CHART).convert("YCbCr"))
    inks = Image.merge("CMYK", [Image.fromarray(planes[..., ink]) for ink in range(4)])
    data = encoded(inks, "JPEG", quality=95)
    tag = b"Adobe\x00\x64\x00\x00\x00\x00"
    assert tag + b"\x00" in data
    return data.replace(tag + b"\x00", tag + b"\x02")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png_bomb() -> bytes:
    """A PNG of a hundred bytes that declares 2.5 thousand million pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(bytes(9999)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + _chunk(b"IEND", b"")


def _flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


def _zip() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(zipfile.ZipInfo("picture.png"), PNG)
    return stream.getvalue()


def _tar_gz() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("picture.png")
        member.size = len(PNG)
        archive.addfile(member, io.BytesIO(PNG))
    return gzip.compress(stream.getvalue(), mtime=0)


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, CHART)
    return stream.getvalue()


JPEG = encoded(NOISE, "JPEG")
PNG = encoded(NOISE, "PNG")
IDAT = PNG.index(b"IDAT")
THUMBNAIL = encoded(NOISE.resize((16, 12)), "JPEG")
END = b"\xff\xd9"  # JPEG's end of image

BAD_KINDS: dict[str, Writer] = {
    "empty": _bytes(b""),
    "one_byte": _bytes(b"\xff"),
    "text": _bytes(b"Not a picture.\n"),
    "html": _bytes(b"<!DOCTYPE html><html><body>404 Not Found</body></html>"),
    "lfs_pointer": _bytes(b"version https://git-lfs.github.com/spec/v1\nsize 70321\n"),
    "random": _bytes(np.random.default_rng(2).bytes(5000)),
    "zeros": _bytes(bytes(5000)),
    "jpeg_truncated": _cut("JPEG"),
    "jpeg_truncated_progressive": _cut("JPEG", progressive=True),
    "jpeg_truncated_grey": _bytes(encoded(NOISE.convert("L"), "JPEG")[:-40]),
    "jpeg_truncated_cmyk": _bytes(encoded(NOISE.convert("CMYK"), "JPEG")[:-40]),
    "jpeg_truncated_with_thumbnail": _cut("JPEG", exif=exif(1, THUMBNAIL)),
    "jpeg_without_end": _bytes(JPEG[:-2]),
    "jpeg_filled_with_zeros": _bytes(JPEG[: len(JPEG) // 2] + bytes(len(JPEG))),
    "jpeg_filled_with_thumbnail": _bytes(
        encoded(NOISE, "JPEG", exif=exif(1, THUMBNAIL))[: -len(JPEG) // 2] + bytes(len(JPEG))
    ),
    "jpeg_header_only": _bytes(JPEG[: JPEG.index(b"\xff\xda")]),
    "png_truncated": _cut("PNG"),
    "png_bad_checksum": _bytes(_flipped(PNG, len(PNG) - 13)),  # ahead of IEND's 12 bytes
    "png_bad_pixels": _bytes(_flipped(PNG, IDAT + 2000)),
    "png_bomb": _bytes(_png_bomb()),
    "png_animated": _several("PNG"),
    "gif_animated": _several("GIF"),
    "gif_truncated": _cut("GIF"),
    "webp_animated": _several("WEBP"),
    "webp_truncated": _cut("WEBP"),
    "webp_truncated_lossless": _cut("WEBP", lossless=True),
    "tiff_pages": _several("TIFF"),
    "tiff_truncated": _cut("TIFF"),
    "tiff_truncated_lzw": _cut("TIFF", compression="tiff_lzw"),
    "tiff_float": _good(NOISE.convert("F"), "TIFF"),
    "tiff_32_bit": _good(NOISE.convert("I"), "TIFF"),
    "bmp_truncated": _cut("BMP"),
    "ppm_truncated": _cut("PPM"),
    "jpeg2000_truncated": _cut("JPEG2000"),
    "pickle": _bytes(pickle.dumps({"pixels": [1, 2, 3]}, protocol=4)),
    "npy": _bytes(_npy()),
    "pdf": _bytes(b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"),
    "eps": _bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"),
    "pcx": _good(NOISE, "PCX"),  # Pillow could read it
    "svg": _bytes(b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
    "zip": _bytes(_zip()),
    "tar_gz": _bytes(_tar_gz()),
    "mp4": _bytes(b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom" + bytes(500)),
    "heic": _bytes(b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(500)),
    "link_to_nothing": lambda path: path.symlink_to("nothing-of-this-name"),
    "link_to_itself": lambda path: path.symlink_to(path.name),
    "link_to_folder": lambda path: path.symlink_to("."),
    "fifo": os.mkfifo,
}

GOOD_KINDS: dict[str, Writer] = {
    "jpeg": _good(COLOUR, "JPEG"),
    "jpeg_progressive": _good(COLOUR, "JPEG", progressive=True),
    "jpeg_full_chroma": _good(COLOUR, "JPEG", subsampling=0),
    "jpeg_restart_markers": _good(COLOUR, "JPEG", restart_marker_rows=1),
    "jpeg_grey": _good(GREY, "JPEG"),
    "jpeg_cmyk": _good(COLOUR.convert("CMYK"), "JPEG"),
    "jpeg_ycck": _bytes(_ycck()),
    "jpeg_comments": _good(COLOUR, "JPEG", comment=b"two ends: " + END + END),
    "jpeg_thumbnail": _good(COLOUR, "JPEG", exif=exif(1, THUMBNAIL)),
    "jpeg_trailing_bytes": _bytes(encoded(COLOUR, "JPEG") + b"\x00\xff made by a camera"),
    "jpeg_fill_bytes": _bytes(b"\xff\xd8\xff\xff" + encoded(COLOUR, "JPEG")[2:]),
    "mpo": _good(COLOUR, "MPO", save_all=True, append_images=[NOISE]),
    **{f"jpeg_exif_{n}": _good(_turned(n), "JPEG", exif=exif(n)) for n in range(1, 9)},
    "mpo_exif_6": _good(_turned(6), "MPO", save_all=True, append_images=[NOISE], exif=exif(6)),
    "png_exif_6": _good(_turned(6), "PNG", exif=exif(6)),
    "webp_exif_5": _good(_turned(5), "WEBP", lossless=True, exif=exif(5)),
    "tiff_exif_8": _good(_turned(8), "TIFF", tiffinfo={0x0112: 8}),
    "png": _good(COLOUR, "PNG"),
    "png_grey": _good(GREY, "PNG"),
    "png_grey_alpha": _good(GREY.convert("LA"), "PNG"),
    "png_bilevel": _good(BILEVEL.convert("1"), "PNG"),
    "png_palette": _good(COLOUR.quantize(4), "PNG"),
    "png_palette_transparent": _good(COLOUR.quantize(4), "PNG", transparency=b"\x00\x80\xff\x10"),
    "png_rgba": _good(Image.fromarray(np.dstack([CHART, CHART[..., 0]])), "PNG"),
    "png_rgba_clear": _good(Image.fromarray(np.dstack([CHART, 0 * CHART[..., 0]])), "PNG"),
    "png_16_bit": _sixteen_bits(".png", COLOUR),
    "png_16_bit_rgba": _sixteen_bits(".png", COLOUR.convert("RGBA")),
    "png_16_bit_grey": _sixteen_bits(".png", GREY),
    "tiff": _good(COLOUR, "TIFF"),
    "tiff_lzw": _good(COLOUR, "TIFF", compression="tiff_lzw"),
    "tiff_rgba": _good(Image.fromarray(np.dstack([CHART, CHART[..., 0]])), "TIFF"),
    "tiff_cmyk": _good(COLOUR.convert("CMYK"), "TIFF"),
    "tiff_bilevel_group4": _good(BILEVEL.convert("1"), "TIFF", compression="group4"),
    "tiff_16_bit": _sixteen_bits(".tiff", COLOUR),
    "tiff_16_bit_grey": _sixteen_bits(".tiff", GREY),
    "webp": _good(COLOUR, "WEBP", quality=95),
    "webp_lossless": _good(COLOUR, "WEBP", lossless=True),
    "webp_rgba": _good(
        Image.fromarray(np.dstack([CHART, CHART[..., 0]])), "WEBP", lossless=True, exact=True
    ),
    "gif": _good(COLOUR.quantize(4), "GIF"),
    "gif_transparent": _good(COLOUR.quantize(4), "GIF", transparency=2),
    "gif_grey": _good(GREY, "GIF"),
    "bmp": _good(COLOUR, "BMP"),
    "bmp_palette": _good(COLOUR.quantize(4), "BMP"),
    "ppm": _good(COLOUR, "PPM"),
    "pgm_16_bit_grey": _sixteen_bits(".pgm", GREY),
    "pbm_bilevel": _good(BILEVEL.convert("1"), "PPM"),
    "jpeg2000": _good(COLOUR, "JPEG2000"),
    "avif": _good(COLOUR, "AVIF", quality=90),
}
