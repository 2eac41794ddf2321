"""Statistics against closed forms, and against a slow second implementation in exact fractions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cam import focus
from pipeline.storage.schema import FOCUS, IMAGE

F64 = NDArray[np.float64]
SINGLE = 1e-6  # a few roundings of single precision (6e-8 each) in sums of at most 4096 pixels

# Small whole numbers: many ties, and sums that differ by far more than a rounding error.
MAPS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.integers(0, 9).map(float),
)


def statistics(heatmap: F64) -> dict[str, float]:
    """Of one map, in double precision."""
    found = focus.focus_statistics(torch.from_numpy(heatmap)[None])
    return {name: value.item() for name, value in found.items()}


def slow(heatmap: F64) -> dict[str, float]:
    """A second implementation of every statistic, cell by cell, of a map of whole numbers."""
    rows, columns = heatmap.shape
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    total = int(heatmap.sum())
    mass = {cell: Fraction(int(heatmap[cell]), total) for cell in cells}
    place = {
        (i, j): (Fraction(2 * j + 1, 2 * columns), Fraction(2 * i + 1, 2 * rows)) for i, j in cells
    }
    x = sum(mass[cell] * place[cell][0] for cell in cells)
    y = sum(mass[cell] * place[cell][1] for cell in cells)
    hottest = max(cells, key=lambda cell: heatmap[cell])  # the first of several
    high, wide = max(1, rows // 4), max(1, columns // 4)

    def area(share: Fraction) -> float:
        held, taken = Fraction(0), 0
        for part in sorted(mass.values(), reverse=True):
            if held >= share:
                break
            held, taken = held + part, taken + 1
        return taken / len(cells)

    def is_peak(i: int, j: int) -> bool:
        around = heatmap[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        return bool(heatmap[i, j] == around.max() and 2 * heatmap[i, j] >= heatmap.max())

    def on_border(i: int, j: int) -> bool:
        return i in (0, rows - 1) or j in (0, columns - 1)

    def in_corner(i: int, j: int) -> bool:
        return not (high <= i < rows - high or wide <= j < columns - wide)

    pairs = np.abs(heatmap.reshape(-1, 1) - heatmap.reshape(1, -1))
    entropy = -sum(float(part) * math.log(part) for part in mass.values() if part)
    apart = [(place[c][0] - x) ** 2 + (place[c][1] - y) ** 2 for c in cells]
    return {
        "focus_entropy": entropy / math.log(len(cells)) if len(cells) > 1 else 0.0,
        "focus_gini": pairs.sum() / (2 * len(cells) * total),
        "focus_area50": area(Fraction(1, 2)),
        "focus_area90": area(Fraction(9, 10)),
        "focus_x": float(x),
        "focus_y": float(y),
        "focus_spread": math.sqrt(sum(mass[c] * d for c, d in zip(cells, apart, strict=True))),
        "focus_peak_x": float(place[hottest][0]),
        "focus_peak_y": float(place[hottest][1]),
        "focus_peaks": sum(is_peak(*cell) for cell in cells),
        "focus_border": float(sum(mass[cell] for cell in cells if on_border(*cell))),
        "focus_corner": float(sum(mass[cell] for cell in cells if in_corner(*cell))),
        "focus_mean": total / len(cells),
    }


def grid(rows: int, columns: int, **hot: tuple[int, int]) -> F64:
    """Zeros, and ones at the named cells."""
    heatmap = np.zeros((rows, columns))
    for cell in hot.values():
        heatmap[cell] = 1
    return heatmap


@given(MAPS.filter(np.any))
@settings(deadline=None)
def test_statistics_equal_a_second_implementation(heatmap: F64) -> None:
    assert statistics(heatmap) == pytest.approx(slow(heatmap), abs=1e-7)


@given(MAPS.filter(np.any), st.sampled_from([1e-30, 1e-3, 0.7, 1e30]))
@settings(deadline=None)
def test_single_precision_stays_in_range_whatever_the_scale(heatmap: F64, scale: float) -> None:
    maps = torch.from_numpy(heatmap * scale).float()[None]
    found = {name: value.item() for name, value in focus.focus_statistics(maps).items()}
    highest = {"focus_peaks": heatmap.size, "focus_mean": 10 * scale, "focus_spread": 0.7072}
    for name, value in found.items():
        assert 0 <= value <= highest.get(name, 1), name
    wanted = statistics(heatmap)
    assert found.pop("focus_mean") == pytest.approx(wanted.pop("focus_mean") * scale, rel=SINGLE)
    # The spread is a root, which turns a rounding error near 0 into its own root.
    assert found.pop("focus_spread") == pytest.approx(wanted.pop("focus_spread"), abs=SINGLE**0.5)
    assert found == pytest.approx(wanted, abs=SINGLE)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (7, 7), (8, 14)])
def test_a_dead_map_has_no_statistics_and_takes_none_from_its_neighbours(
    shape: tuple[int, int],
) -> None:
    maps = torch.zeros(3, *shape)
    maps[1] = 2.0
    for name, values in focus.focus_statistics(maps).items():
        assert values.isnan().tolist() == [True, False, True], name


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 6)])
def test_one_hot_cell(row: int, column: int) -> None:
    found = statistics(5 * grid(5, 7, cell=(row, column)))
    x, y = (column + 0.5) / 7, (row + 0.5) / 5
    border = float(row in (0, 4) or column in (0, 6))
    assert found == pytest.approx(
        {
            "focus_entropy": 0,
            "focus_gini": 34 / 35,
            "focus_area50": 1 / 35,
            "focus_area90": 1 / 35,
            "focus_x": x,
            "focus_y": y,
            "focus_spread": 0,
            "focus_peak_x": x,
            "focus_peak_y": y,
            "focus_peaks": 1,
            "focus_border": border,
            "focus_corner": border,
            "focus_mean": 5 / 35,
        }
    )


@pytest.mark.parametrize("side", [1, 2, 3, 6, 7, 8, 10, 14, 28, 56])
def test_uniform_map_in_single_precision(side: int) -> None:
    found = focus.focus_statistics(torch.full((1, side, side), 0.3))
    cells, corner = side**2, max(1, side // 4)
    # Per axis the centres of n cells have the variance (1 - 1/n^2) / 12.
    wanted = {
        "focus_entropy": 1 if side > 1 else 0,
        "focus_gini": 0,
        "focus_area50": math.ceil(cells / 2) / cells,
        "focus_area90": math.ceil(cells * 9 / 10) / cells,
        "focus_x": 0.5,
        "focus_y": 0.5,
        "focus_spread": math.sqrt((1 - 1 / cells) / 6),
        "focus_peak_x": 0.5 / side,
        "focus_peak_y": 0.5 / side,
        "focus_peaks": cells,
        "focus_border": 1 - max(side - 2, 0) ** 2 / cells,
        "focus_corner": min(1, (2 * corner) ** 2 / cells),
        "focus_mean": 0.3,
    }
    values = {name: value.item() for name, value in found.items()}
    assert values == pytest.approx(wanted, abs=SINGLE)
    assert values["focus_entropy"] <= 1
    assert values["focus_gini"] >= 0


def test_two_peaks() -> None:
    heatmap = grid(8, 8, first=(2, 2), second=(5, 5))
    found = statistics(heatmap)
    assert found["focus_peaks"] == 2
    assert found["focus_area50"] == 1 / 64
    assert found["focus_area90"] == 2 / 64
    assert (found["focus_x"], found["focus_y"]) == pytest.approx((0.5, 0.5))
    assert found["focus_spread"] == pytest.approx(math.hypot(1.5 / 8, 1.5 / 8))
    assert (found["focus_peak_x"], found["focus_peak_y"]) == (2.5 / 8, 2.5 / 8)
    heatmap[5, 5] = 0.49  # less than half as hot
    assert statistics(heatmap)["focus_peaks"] == 1
    heatmap[5, 5], heatmap[4, 4] = 0.6, 0.7  # the slope of a hotter neighbour
    assert statistics(heatmap)["focus_peaks"] == 2


def test_ring_and_corners() -> None:
    ring = np.ones((8, 8))
    ring[1:-1, 1:-1] = 0
    found = statistics(ring)
    assert found["focus_border"] == pytest.approx(1)
    assert found["focus_corner"] == pytest.approx(12 / 28)  # corners of 2 x 2 cells
    inside = statistics(1 - ring)
    assert inside["focus_border"] == 0
    assert inside["focus_corner"] == pytest.approx(4 / 36)
    corners = grid(8, 8, a=(1, 1), b=(1, 6), c=(6, 1), d=(6, 6))
    assert statistics(corners)["focus_corner"] == pytest.approx(1)
    assert statistics(corners)["focus_border"] == 0
    assert statistics(grid(8, 8, a=(1, 2), b=(5, 6)))["focus_corner"] == 0
    assert statistics(grid(7, 7, a=(0, 0), b=(1, 1)))["focus_corner"] == 0.5  # 7 // 4 is 1


def test_mirrored_maps_have_mirrored_places() -> None:
    heatmap = np.random.default_rng(0).random((6, 9))
    found = statistics(heatmap)
    for axis, changed in ((1, ("focus_x", "focus_peak_x")), (0, ("focus_y", "focus_peak_y"))):
        mirrored = statistics(np.flip(heatmap, axis).copy())
        wanted = {n: 1 - value if n in changed else value for n, value in found.items()}
        assert mirrored == pytest.approx(wanted)
    turned = statistics(heatmap.T.copy())
    swap = {"focus_x": "focus_y", "focus_peak_x": "focus_peak_y"}
    swap |= {there: here for here, there in swap.items()}
    assert turned == pytest.approx({swap.get(name, name): value for name, value in found.items()})


def test_similarity_of_maps() -> None:
    maps = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[0.3, 0.1]]])
    others = torch.tensor([[[0.0, 1.0]], [[1.0, 0.0]], [[0.0, 0.0]], [[1.0, 0.0]], [[0.3, 0.1]]])
    found = focus.label_similarity(maps, others)
    assert found.tolist() == pytest.approx([0, 0.5**0.5, math.nan, math.nan, 1], nan_ok=True)


def test_similarity_never_exceeds_one() -> None:
    maps = torch.rand(1000, 7, 7, generator=torch.Generator().manual_seed(0))
    found = focus.label_similarity(maps, maps)
    assert found.max() <= 1
    torch.testing.assert_close(found, torch.ones(1000))


def objects(**boxes: tuple[slice, slice]) -> Tensor:
    """One mask of 8 x 8 pixels per box."""
    masks = torch.zeros(len(boxes), 8, 8)
    for mask, box in zip(masks, boxes.values(), strict=True):
        mask[box] = 1
    return masks


def on_objects(maps: Tensor, marked: Tensor) -> dict[str, Tensor]:
    return focus.object_statistics(maps, focus.cover(marked, maps))


def test_focus_on_an_object() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 1, 1], maps[0, 3, 3] = 3.0, 1.0
    marked = objects(
        on_the_peak=(slice(2, 4), slice(2, 4)),
        half_the_cell=(slice(2, 3), slice(2, 4)),
        on_the_other=(slice(6, 8), slice(6, 8)),
        everywhere=(slice(0, 8), slice(0, 8)),
        beside=(slice(0, 2), slice(0, 8)),
        nowhere=(slice(0, 0), slice(0, 0)),
    )
    found = on_objects(maps.expand(6, 4, 4), marked)
    nan = math.nan
    mass, hit = found["focus_object_mass"].tolist(), found["focus_pointing_hit"].tolist()
    assert mass == pytest.approx([0.75, 0.375, 0.25, 1, 0, nan], nan_ok=True)
    assert hit == pytest.approx([1, 1, 0, 1, 0, nan], nan_ok=True)


def test_a_dead_map_is_on_no_object() -> None:
    found = on_objects(torch.zeros(1, 3, 3), torch.ones(1, 8, 8))
    assert all(value.isnan().all() for value in found.values())


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 3), (4, 4), (9, 9)])
def test_objects_on_any_grid(shape: tuple[int, int]) -> None:
    maps = torch.full((2, *shape), 0.3)
    found = on_objects(maps, torch.ones(2, 8, 8))
    assert found["focus_object_mass"].tolist() == pytest.approx([1, 1])
    assert found["focus_object_mass"].max() <= 1
    assert found["focus_pointing_hit"].tolist() == [1, 1]


def image_reference(image: NDArray[np.uint8]) -> dict[str, float]:
    """Statistics of one picture (3, H, W), in double precision and with loops."""
    pixels = image.astype(np.float64) / 255
    _, height, width = pixels.shape
    luma = 0.299 * pixels[0] + 0.587 * pixels[1] + 0.114 * pixels[2]
    edges = [
        luma[i - 1, j] + luma[i + 1, j] + luma[i, j - 1] + luma[i, j + 1] - 4 * luma[i, j]
        for i in range(1, height - 1)
        for j in range(1, width - 1)
    ]
    high, wide = max(1, height // 16), max(1, width // 16)
    border = [
        pixels[:, i, j]
        for i in range(height)
        for j in range(width)
        if i < high or i >= height - high or j < wide or j >= width - wide
    ]
    found = {
        "image_brightness": luma.mean(),
        "image_contrast": luma.std(),
        "image_sharpness": np.std(edges) if edges else math.nan,
    }
    for index, colour in enumerate("rgb"):
        found[f"image_mean_{colour}"] = pixels[index].mean()
        found[f"image_std_{colour}"] = pixels[index].std()
        found[f"image_border_{colour}"] = np.mean(border, axis=0)[index]
    return found


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (3, 3), (33, 48), (64, 64)])
def test_image_statistics_equal_numpy(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 3, *shape), dtype=np.uint8)
    images[1] = 255  # flat
    images[2] //= 50  # dark, with little contrast
    found = focus.image_statistics(torch.from_numpy(images))
    assert set(found) == set(IMAGE)
    for index, image in enumerate(images):
        got = {name: value[index].item() for name, value in found.items()}
        assert got == pytest.approx(image_reference(image), abs=SINGLE, nan_ok=True)


def test_a_grey_picture_is_three_equal_channels() -> None:
    grey = torch.randint(0, 256, (2, 1, 20, 20), dtype=torch.uint8)
    found, wanted = (focus.image_statistics(x) for x in (grey, grey.repeat(1, 3, 1, 1)))
    for name in IMAGE:
        assert torch.equal(found[name], wanted[name])


def test_names_are_those_of_the_schema() -> None:
    maps = torch.ones(1, 2, 2)
    names = [*focus.focus_statistics(maps), *focus.object_statistics(maps, maps)]
    assert {*names, "focus_label_similarity"} == set(FOCUS)


@pytest.mark.parametrize(("n_images", "side"), [(98, 128), (37, 33), (5, 224)])
def test_statistics_do_not_depend_on_the_place_in_a_batch(n_images: int, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (n_images, 3, side, side)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    heatmaps = torch.rand(n_images, 7, 7, generator=generator)
    both = ((focus.image_statistics, images), (focus.focus_statistics, heatmaps))
    for measured, pictures in both:
        found, moved = measured(pictures), measured(pictures.roll(1, dims=0))
        for name, values in found.items():
            assert torch.equal(values, moved[name].roll(-1, dims=0)), name
