"""Overlays pixel by pixel, colours in their order, pictures that can be seen."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers.small_run import flat
from pipeline.data import pictures
from pipeline.errors import ConfigError
from pipeline.report import overlay


def one_hot(row: int, column: int) -> overlay.Heatmap:
    """A 7 x 7 heatmap with one hot cell."""
    heatmap = np.zeros((7, 7), np.float32)
    heatmap[row, column] = 1
    return heatmap


def test_a_cold_map_leaves_the_picture_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    cold, transparent = np.zeros((7, 7)), np.ones((7, 7))
    np.testing.assert_array_equal(overlay.overlay(noise, cold, 0.9, colormap="jet"), noise)
    np.testing.assert_array_equal(overlay.overlay(noise, transparent, 0.0, colormap="jet"), noise)


def test_a_hot_cell_colours_its_place_and_no_other() -> None:
    grey = flat((128, 128, 128))
    drawn = overlay.overlay(grey, one_hot(1, 5), 0.5, colormap="jet")
    changed = np.abs(drawn.astype(int) - grey).sum(2)
    assert np.unravel_index(changed.argmax(), changed.shape)[0] in range(10, 20)
    assert changed[15, 55] > 100
    assert changed[40:].max() == changed[:, :40].max() == 0


def test_a_constant_map_mixes_every_pixel_alike_in_the_share_of_alpha() -> None:
    red, yellow = np.array([200, 0, 0]), np.array([255, 255, 0])  # autumn ends in yellow
    mixed = overlay.overlay(flat((200, 0, 0)), np.ones((7, 7)), 0.25, colormap="autumn")
    wanted = np.broadcast_to(0.75 * red + 0.25 * yellow, mixed.shape)
    np.testing.assert_allclose(mixed, wanted, atol=1)


def test_colours_are_rgb_on_screen_and_on_disk(tmp_path: Path) -> None:
    assert overlay.apply_colormap(np.zeros((1, 1)), "autumn")[0, 0].tolist() == [255, 0, 0]
    for side in (70, 700):  # without loss, and with
        (tmp_path / "red.webp").write_bytes(pictures.encode_webp(flat((255, 0, 0), side, side)))
        blue, green, red = np.asarray(cv2.imread(str(tmp_path / "red.webp"))).mean(axis=(0, 1))
        assert red > 240
        assert max(blue, green) < 10


def test_small_pictures_lose_nothing_on_disk(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (28, 20, 3), np.uint8)
    (tmp_path / "noise.webp").write_bytes(pictures.encode_webp(noise))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "noise.webp")), noise)


def test_an_unknown_colour_map_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"'mauve' is none of .*jet.*viridis"):
        overlay.colormap_code("mauve")
    assert overlay.colormap_code("VIRIDIS") == cv2.COLORMAP_VIRIDIS


@pytest.mark.parametrize(
    ("size", "shown"),
    [((28, 28), (28, 28)), ((224, 99), (224, 99)), ((300, 600), (112, 224)), ((1, 900), (1, 224))],
)
def test_large_pictures_are_made_smaller_and_small_ones_stay(
    size: tuple[int, int], shown: tuple[int, int]
) -> None:
    assert pictures.shrink(flat((9, 9, 9), *size), 224).shape == (*shown, 3)


def test_dark_pictures_are_brightened_and_others_are_not() -> None:
    dark = np.zeros((40, 40, 3), np.uint8)
    dark[10:30, 10:30] = (8, 4, 0)
    shown, factor = pictures.brighten(dark)
    assert factor == 8
    assert shown[20, 20].tolist() == [64, 32, 0]
    assert pictures.brighten(flat((0, 0, 0)))[0].max() == 0
    bright = flat((10, 80, 10))
    assert pictures.brighten(bright)[1] == 1
    assert pictures.brighten(bright)[0] is bright


@pytest.mark.parametrize(
    ("cell", "words"),
    [((0, 0), "top left"), ((3, 3), "centre"), ((6, 3), "bottom"), ((3, 6), "right")],
)
def test_the_place_of_a_map_is_told_in_words(cell: tuple[int, int], words: str) -> None:
    assert overlay.hottest_place(one_hot(*cell)) == words
    assert overlay.hottest_place(0 * one_hot(*cell)) == "nowhere"


def test_a_layer_that_is_enlarged_is_the_overlay() -> None:
    """A browser enlarges a layer bilinearly and mixes it in with an opacity of alpha."""
    picture = np.random.default_rng(0).integers(0, 256, (336, 448, 3), np.uint8)
    heatmap = np.random.default_rng(1).random((7, 7)) ** 3
    seen = (0.125, 0.0, 0.875, 1.0)
    small = overlay.draw_small_layer(heatmap, picture.shape, seen, "viridis")
    assert max(small.shape) == 112
    large = cv2.resize(small, (448, 336), interpolation=cv2.INTER_LINEAR).astype(float)
    weight = 0.5 * large[..., 3:] / 255
    mixed = picture * (1 - weight) + large[..., :3] * weight
    wanted = overlay.overlay(picture, heatmap, 0.5, seen=seen).astype(float)
    off = np.abs(mixed - wanted).max(axis=2)
    assert off.mean() < 1.5
    inside = np.zeros(off.shape, bool)
    inside[:, 60:388] = True  # not at the edge of what was seen, which a small layer blurs
    assert np.quantile(off[inside], 0.99) < 8
