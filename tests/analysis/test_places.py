"""Places in the picture, on features of cells whose marks and objects are known."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.shortcuts import places
from pipeline.analysis.shortcuts.pixel_groups import MeasuredImages
from pipeline.analysis.shortcuts.places import Place

GRID, N, WITH_CUE = 8, 100, 80
CORNER, OPPOSITE, MIDDLE = np.zeros((3, GRID, GRID), bool)
CORNER[:2, :2] = OPPOSITE[6:, 6:] = MIDDLE[3:5, 3:5] = True
ALL = np.ones(N, bool)
HAS_CUE = np.arange(N) < WITH_CUE


def images(seed: int, margin: float = 0.0) -> MeasuredImages:
    """N images of noise; their mean margin is as given."""
    rng = np.random.default_rng(seed)
    features = rng.normal(100, 10, (N, 4, GRID, GRID)).astype(np.float32)
    return MeasuredImages(features, rng.normal(margin, 1, N).astype(np.float32))


def mark(of: MeasuredImages, cells: np.ndarray, shift: float, rows: np.ndarray = HAS_CUE) -> None:
    of.features[rows, :2] += shift * cells


def find(own: MeasuredImages) -> list[Place]:
    return places.find_places(own, images(1), ALL)


@pytest.mark.parametrize("margin", [2.0, 0.0])
def test_a_mark_divides_a_class_whose_images_without_it_look_like_the_class(margin: float) -> None:
    """Where those look like other classes, their labels may be wrong, and the mark the object."""
    own = images(0, margin)
    mark(own, CORNER, 80)
    found = find(own)
    assert len(found) == (1 if margin else 0)
    for place in found:
        np.testing.assert_array_equal(place.cells, CORNER)
        np.testing.assert_array_equal(place.division.has_cue, HAS_CUE)
        assert place.division.separation > 5
        assert not place.division.elsewhere.any()


def test_marks_in_the_same_images_are_one_place_and_in_others_another() -> None:
    own = images(0, 2.0)
    mark(own, CORNER | OPPOSITE, 80)
    mark(own, MIDDLE, 80, np.arange(N) % 2 == 0)
    one, other = sorted(find(own), key=lambda each: -each.cells.sum())
    np.testing.assert_array_equal(one.cells, CORNER | OPPOSITE)
    np.testing.assert_array_equal(other.cells, MIDDLE)


def test_an_object_in_one_place_is_no_mark_whatever_its_colour() -> None:
    own = images(0, 2.0)
    mark(own, MIDDLE, 80)
    mark(own, MIDDLE, 30, ~HAS_CUE)
    assert find(own) == []


def test_an_object_that_stands_in_one_of_two_places_is_no_mark() -> None:
    own = images(0, 2.0)
    mark(own, MIDDLE, 80)
    mark(own, OPPOSITE, 80, ~HAS_CUE)
    assert find(own) == []


def test_the_part_with_the_largest_difference_does_not_hide_a_mark() -> None:
    own = images(0, 2.0)
    mark(own, MIDDLE, 300, ALL)
    mark(own, CORNER, 80)
    (place,) = find(own)
    np.testing.assert_array_equal(place.cells, CORNER)


def test_what_covers_most_of_the_picture_is_no_place() -> None:
    own = images(0, 2.0)
    mark(own, np.arange(GRID * GRID).reshape(GRID, GRID) < 40, 80)
    assert find(own) == []


def test_classes_without_a_difference_and_of_few_images_have_no_place() -> None:
    assert find(images(0, 2.0)) == []
    own = images(0, 2.0)
    mark(own, CORNER, 80)
    assert places.find_places(own, images(1), np.arange(N) < WITH_CUE + 3) == []
    assert places.find_places(own, images(1), ~ALL) == []
    assert places.find_places(own, images(1).select(~ALL), ALL) == []
