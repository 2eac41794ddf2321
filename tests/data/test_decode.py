"""Decoding: every good sort of file gives its pixels, every bad one an error in words."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from helpers.bad_files import (
    BAD_KINDS,
    CHART,
    COLOUR,
    GOOD_KINDS,
    GREY,
    JPEG,
    NOISE,
    encoded,
    exif,
    truth,
)
from pipeline.data.decode import MAX_FILE_BYTES, DecodeError, decode, read_file, to_rgb

MAX_PIXELS = 10**6
LOSSY = {"jpeg", "mpo", "webp", "avif"}
PALETTE = np.array([[0, 255], [51, 102]], np.uint8)
FLOATS = PALETTE / 255.0


# pytest puts its own warning filters over those of the module.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A read that waits for a pipe's writer must fail, not stop the tests."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _decoded(kind: str, folder: Path) -> NDArray[np.uint8]:
    GOOD_KINDS[kind](folder / "picture")
    return decode(read_file(folder / "picture"), MAX_PIXELS)


def _difference(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> NDArray[np.uint8]:
    assert a.shape == b.shape
    return np.maximum(a, b) - np.minimum(a, b)


@pytest.mark.parametrize("kind", GOOD_KINDS)
def test_good_file_shows_what_it_was_made_from(kind: str, tmp_path: Path) -> None:
    pixels = _decoded(kind, tmp_path)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    difference = _difference(pixels, truth(kind))
    if kind.partition("_")[0] not in LOSSY or "lossless" in kind:
        assert not difference.any()
        return
    # Chroma of half the size bleeds over the edges of the flat fields; away from them there is
    # only the rounding of YCbCr (ITU-T T.871: up to 2 levels) and of the quantised DC term.
    flat = np.ones((64, 96), bool)
    flat[28:36] = flat[:, 44:52] = False
    assert difference[flat].max() <= 6


@pytest.mark.parametrize("kind", [kind for kind in GOOD_KINDS if "16_bit" not in kind])
def test_good_file_as_pillow_reads_it(kind: str, tmp_path: Path) -> None:
    pixels = _decoded(kind, tmp_path)
    with Image.open(tmp_path / "picture") as picture:
        upright = ImageOps.exif_transpose(picture).convert("RGB")
    # Two builds of libjpeg-turbo may round the inverse DCT and the chroma apart by one each.
    assert _difference(pixels, np.array(upright)).max() <= (2 if kind[:3] in ("jpe", "mpo") else 0)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_opencv_decodes_detail_as_pillow_does(options: dict[str, Any]) -> None:
    data = encoded(NOISE, "JPEG", **options)
    reference = np.array(Image.open(io.BytesIO(data)))
    assert _difference(decode(data, MAX_PIXELS), reference).max() <= 2


@pytest.mark.parametrize("kind", BAD_KINDS)
def test_bad_file_is_an_error_in_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    BAD_KINDS[kind](path)
    with pytest.raises(DecodeError) as caught:
        decode(read_file(path), MAX_PIXELS)
    reason = str(caught.value)
    assert reason.isprintable()  # no line break
    assert 5 < len(reason) < 250
    assert str(tmp_path) not in reason
    assert " at 0x" not in reason  # the same fault, the same words


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"restart_marker_rows": 1, "exif": exif(6, JPEG)}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("JPEG2000", {}),
        ("AVIF", {}),
    ],
)
def test_truncated_anywhere(form: str, options: dict[str, Any], share: float) -> None:
    data = encoded(NOISE, form, **options)
    decode(data, MAX_PIXELS)
    with pytest.raises(DecodeError):
        decode(data[: int(len(data) * share)], MAX_PIXELS)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "JPEG2000", "AVIF"])
def test_damage_raises_nothing_but_decode_error(form: str) -> None:
    data = np.frombuffer(encoded(NOISE, form), np.uint8)
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        damaged = data.copy()
        damaged[rng.integers(2, 300, 4)] = rng.integers(0, 256, 4)
        try:
            assert decode(damaged.tobytes(), MAX_PIXELS).ndim == 3
        except DecodeError:
            refused += 1
    assert refused > 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_pixel_limit_is_told_from_the_header(form: str) -> None:
    data = encoded(COLOUR, form)
    assert decode(data, 96 * 64).shape == (64, 96, 3)
    with pytest.raises(DecodeError, match="96 x 64 pixels, more than the 6143 allowed"):
        decode(data, 96 * 64 - 1)


@pytest.mark.parametrize("kind", ["png_16_bit", "tiff_16_bit_grey", "pgm_16_bit_grey"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str, tmp_path: Path) -> None:
    # The files hold 256 times the chart plus 201, so by own arithmetic: // 256.
    samples = truth(kind).astype(np.uint16) * 256 + 201
    assert np.array_equal(_decoded(kind, tmp_path), samples // 256)


def test_decoding_is_quiet_and_needs_no_torch(tmp_path: Path) -> None:
    for kind in ("png_palette_transparent", "jpeg_thumbnail"):
        GOOD_KINDS[kind](tmp_path / kind)
    for kind in ("png_bad_pixels", "tiff_truncated_lzw", "gif_truncated", "jpeg_truncated"):
        BAD_KINDS[kind](tmp_path / kind)
    program = """
import pathlib, sys
from pipeline.data.decode import DecodeError, decode, read_file
for path in pathlib.Path(sys.argv[1]).iterdir():
    try:
        decode(read_file(path), 10**6)
    except DecodeError:
        print(path.name)
print("torch" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert run.stderr == ""
    assert len(run.stdout.split()) == 4 + 1
    assert run.stdout.endswith("False\n")


def test_red_stays_red() -> None:
    for form in ("JPEG", "PNG"):
        red, green, blue = decode(encoded(Image.new("RGB", (8, 8), "red"), form), MAX_PIXELS)[4, 4]
        assert red > 250
        assert max(green, blue) < 5


@pytest.mark.parametrize("name", ["missing", "x" * 300, "nul\0", "/dev/null", "."])
def test_what_is_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError, match=r"^(cannot be read: \w|not a regular file$)"):
        read_file(tmp_path / name)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(JPEG)
    (tmp_path / "link.jpg").symlink_to("file")
    assert read_file(tmp_path / "link.jpg") == JPEG


def test_empty_and_endless_files(tmp_path: Path) -> None:
    path = tmp_path / "picture.jpg"
    path.touch()
    with pytest.raises(DecodeError, match=r"^empty file$"):
        read_file(path)
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # sparse: takes no room
    with pytest.raises(DecodeError, match="too many"):
        read_file(path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    path = tmp_path / "picture.jpg"
    path.write_bytes(JPEG)
    monkeypatch.setattr(Path, "read_bytes", denied)  # root may read what it is denied
    with pytest.raises(DecodeError, match=r"^cannot be read: Permission denied$"):
        read_file(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_pil_images_as_pillow_converts_them(mode: str) -> None:
    source = COLOUR if mode in ("YCbCr", "HSV", "CMYK") else GREY.convert("RGB")
    picture = source.convert(mode)
    assert np.array_equal(to_rgb(picture), np.array(picture.convert("RGB")))


def test_pil_image_is_taken_as_it_stands() -> None:
    picture = Image.open(io.BytesIO(encoded(COLOUR, "PNG", exif=exif(6))))
    assert np.array_equal(to_rgb(picture), CHART)


@pytest.mark.parametrize(
    "picture",
    [
        CHART,
        CHART.transpose(2, 0, 1),
        CHART / 255.0,
        (CHART / 255.0).astype(np.float16),
        CHART.astype(np.uint16) * 257,
        np.dstack([CHART, CHART[..., :1]]),
        torch.from_numpy(CHART.transpose(2, 0, 1).copy()),
        torch.from_numpy(CHART.transpose(2, 0, 1) / 255.0).requires_grad_(),
        torch.from_numpy(CHART.copy()),
    ],
    ids=["HWC", "CHW", "double", "half", "uint16", "RGBA", "tensor", "float tensor", "HWC tensor"],
)
def test_arrays_and_tensors_in_colour(picture: object) -> None:
    pixels = to_rgb(picture)
    assert pixels.flags.c_contiguous
    assert np.array_equal(pixels, CHART)


@pytest.mark.parametrize(
    "picture",
    [
        PALETTE,
        PALETTE[:, :, None],
        PALETTE[None],
        PALETTE.astype(np.uint16) * 256,
        torch.from_numpy(PALETTE),
        torch.from_numpy(PALETTE)[None],
        torch.from_numpy(FLOATS).float(),
    ],
)
def test_arrays_and_tensors_in_grey(picture: object) -> None:
    assert np.array_equal(to_rgb(picture), np.dstack([PALETTE] * 3))


def test_bool_is_black_and_white() -> None:
    assert to_rgb(np.array([[True, False]])).tolist() == [[[255] * 3, [0] * 3]]


def test_a_shape_of_two_readings_is_read_by_the_librarys_custom() -> None:
    cube = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert np.array_equal(to_rgb(cube), cube)
    assert np.array_equal(to_rgb(torch.from_numpy(cube)), cube.transpose(1, 2, 0))


def test_overshoot_of_an_interpolation_is_rounded_away() -> None:
    for kind in (np.float16, np.float32):
        assert to_rgb(np.array([[-0.001, 1.00195]], kind))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ((CHART / 255.0 - 0.45) / 0.225, "look normalised already; return the raw image"),
        (CHART.astype(np.float32), "look normalised already"),
        (np.full((8, 8), 1.01), "look normalised already"),
        (np.where(FLOATS > 0.5, np.nan, FLOATS), "look normalised already"),
        (torch.full((3, 8, 8), torch.inf), "look normalised already"),
        (torch.zeros(3, 8, 8, dtype=torch.bfloat16), "BFloat16"),
        (CHART.astype(np.int64), "samples of type int64"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), "samples of type int32"),
        (np.zeros((8, 8, 2), np.uint8), "no axis of 1, 3 or 4 channels"),
        (np.zeros((8, 3, 8), np.uint8), "no axis of 1, 3 or 4 channels"),
        (np.zeros(8, np.uint8), "not an image"),
        (np.zeros((1, 3, 8, 8), np.uint8), "not an image"),
        (np.zeros((0, 8, 3), np.uint8), "not an image"),
        (Image.new("F", (8, 8)), "32-bit samples"),
        (Image.new("I", (8, 8)), "32-bit samples"),
        (Image.new("RGB", (0, 8)), "not an image"),
        (Image.open(io.BytesIO(JPEG[:-300])), "truncated"),
        (None, "a NoneType is not"),
        ("picture.jpg", "a str is not"),
        ([[0, 255]], "a list is not"),
    ],
)
def test_what_is_no_picture(picture: object, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        to_rgb(picture)
