"""Places in the picture where images of a class differ in their pixels from those of other classes.

They complement the concepts of the target layer: where a layer mixes all cells, as the last blocks
of a transformer do, its concepts do not tell which images have a mark, nor where it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.shortcuts import divisions, pixel_groups
from pipeline.analysis.shortcuts.divisions import Bools, Floats
from pipeline.analysis.shortcuts.pixel_groups import MeasuredImages, PixelDivision

MIN_DISTINCT = 0.5
"""Difference of the means of two groups, in pooled standard deviations, from which cells differ."""
SURE_ERRORS = 4.0
"""Standard errors of that difference which it must reach."""
NEAR_MAXIMUM = 0.5
"""Share of the largest difference from which a cell belongs to a place."""
MAX_PLACE = 0.5
"""Largest share of the picture that is called a place."""
OBJECT_SHARE = 0.3
"""Share of the difference at a place that images may show without the cue, or outside the place.
Where they show more, the difference comes from the object of the class."""
CHANCE = 1.46
"""Mean of the largest of four absolute values from a standard normal distribution."""
MAX_PARTS = 8
"""Most connected parts of the picture that are tried."""
MAX_PLACES = 2
"""Most places of a class."""
ROUNDING = 1 / 12
"""Variance of the rounding to whole grey levels, which is added to that of every feature."""


@dataclass(frozen=True, eq=False)
class Place:
    """A place, and the division of a class by it.

    Attributes:
        cells: (GRID, GRID).
        division: of the images.
    """

    cells: Bools
    division: PixelDivision


def find_places(images: MeasuredImages, others: MeasuredImages, of_class: Bools) -> list[Place]:
    """Find the places of the marks of a class that do not move.

    Cells where the class differs from other classes are divided into connected parts. Each part
    divides the images of the class in two; where those without the cue differ from other classes,
    too, it is the object that stands there. Parts of the same images are one place.

    Args:
        images: n images that are labelled or predicted as a class, with features (n, f, h, w) of
            their cells.
        others: m images of other classes.
        of_class: (n,) whether an image is of the class.

    Returns:
        At most MAX_PLACES, those with the largest separation first.
    """
    if not len(others) or not of_class.any():
        return []
    found: list[Place] = []
    for cells in _parts(_distances(images.features[of_class], others.features)):
        place = _describe(cells, images, others, of_class)
        if place is None:
            continue
        same = next((each for each in found if _are_same(each, place)), None)
        if same is None:
            found.append(place)
        else:
            joined = _describe(same.cells | place.cells, images, others, of_class)
            found[found.index(same)] = joined or same
    fitting = [
        place
        for place in found
        if place.cells.mean() <= MAX_PLACE and not _differ_elsewhere(place, images)
    ]
    return sorted(fitting, key=lambda each: -each.division.separation)[:MAX_PLACES]


def _parts(distance: NDArray[np.float64]) -> Iterator[Bools]:
    """Connected cells (h, w) around the largest differences, down to NEAR_MAXIMUM of each."""
    left = distance.copy()
    for _ in range(MAX_PARTS):
        peak = np.unravel_index(left.argmax(), left.shape)
        if left[peak] < MIN_DISTINCT:
            return
        high = left >= max(MIN_DISTINCT, NEAR_MAXIMUM * left[peak])
        _, parts = cv2.connectedComponents(high.astype(np.uint8))
        cells = parts == parts[peak]
        yield cells
        left[cells] = 0


def _describe(
    cells: Bools, images: MeasuredImages, others: MeasuredImages, of_class: Bools
) -> Place | None:
    """The place in cells; None where it does not divide the class, or where an object stands."""
    score, other_score = _scores(cells, images.features, others.features, of_class)
    threshold = pixel_groups.threshold_between(score[of_class], other_score)
    has_cue, elsewhere = score > threshold, other_score > threshold
    with_cue, without_cue = of_class & has_cue, of_class & ~has_cue
    if min(with_cue.sum(), without_cue.sum()) < divisions.smallest_group(int(of_class.sum())):
        return None
    lacking = images.select(without_cue)
    if not pixel_groups.show_object(lacking, others.select(~elsewhere)):
        return None
    distance, remaining = (
        _mean_difference(features, others.features, cells)
        for features in (images.features[with_cue], lacking.features)
    )
    if remaining >= OBJECT_SHARE * distance:
        return None
    separation = divisions.separation(score[of_class], has_cue[of_class])
    return Place(cells, PixelDivision(with_cue, without_cue, has_cue, elsewhere, score, separation))


def _scores(
    cells: Bools, features: Floats, other_features: Floats, of_class: Bools
) -> tuple[Floats, Floats]:
    """Positions (n,) and (m,) of images between the means of the class and of others, in cells."""
    inside, other_inside = features[:, :, cells], other_features[:, :, cells]
    variance = (inside[of_class].var(axis=0) + other_inside.var(axis=0)) / 2 + ROUNDING
    direction = (inside[of_class].mean(axis=0) - other_inside.mean(axis=0)) / variance
    return (inside * direction).sum(axis=(1, 2)), (other_inside * direction).sum(axis=(1, 2))


def _mean_difference(one: Floats, other: Floats, cells: Bools) -> float:
    """Mean difference of two groups in cells, beyond that of two groups that differ by chance."""
    error = CHANCE * np.sqrt(1 / len(one) + 1 / len(other))
    mean = float(_differences(one, other)[cells].mean())
    return float(np.sqrt(max(0.0, mean**2 - error**2)))


def _differ_elsewhere(place: Place, images: MeasuredImages) -> bool:
    """Whether the images with and without the cue differ in other cells, too.

    An object that stands in one of a few places is in another one where it is not in the first.
    """
    with_cue, without_cue = (
        images.features[rows] for rows in (place.division.with_cue, place.division.without_cue)
    )
    distance = _distances(with_cue, without_cue)
    around = cv2.dilate(place.cells.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    largest = distance[~around].max(initial=0)
    return bool(largest >= OBJECT_SHARE * distance[place.cells].mean())


def _are_same(one: Place, other: Place) -> bool:
    both, either = (
        combine(one.division.with_cue, other.division.with_cue).sum()
        for combine in (np.logical_and, np.logical_or)
    )
    return bool(both >= divisions.SAME_WITH * either)


def _distances(one: Floats, other: Floats) -> NDArray[np.float64]:
    """The differences of two groups, 0 where they are below SURE_ERRORS."""
    errors = np.sqrt(1 / len(one) + 1 / len(other))
    difference = _differences(one, other)
    return np.where(difference >= SURE_ERRORS * errors, difference, 0.0)


def _differences(one: Floats, other: Floats) -> NDArray[np.float64]:
    """Differences (h, w) of the means of two groups, in pooled standard deviations.

    Args:
        one, other: features (n, f, h, w) and (m, f, h, w); the one that differs most counts.
    """
    pooled = np.sqrt((one.var(axis=0) + other.var(axis=0)) / 2 + ROUNDING)
    return np.asarray((np.abs(one.mean(axis=0) - other.mean(axis=0)) / pooled).max(axis=0))
