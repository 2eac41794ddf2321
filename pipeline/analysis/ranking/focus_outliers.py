"""Images that are looked at as no other image of their predicted class is.

A statistic's distance from its class's median is counted in robust standard deviations, and so is
the limit: the distance that, were the statistics normal, no image of the whole run would pass but
with the chance CHANCE (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST = 20
"""Images a class needs before one of them can be called atypical."""
CHANCE = 0.05
NORMAL = float(stats.norm.isf(0.25))
"""Median distance of normal numbers from their median, in standard deviations."""

WORDS = {
    "focus_area90": "the area it looks at",
    "focus_spread": "how far its focus is spread",
    "focus_border": "the share of its focus on the border",
    "focus_corner": "the share of its focus in the corners",
    "focus_entropy": "how diffuse its focus is",
    "focus_object_mass": "the share of its focus on the object",
}


@dataclass(frozen=True)
class Usual:
    """Medians (K, d) of statistics in each class, their robust standard deviations, the limit.

    A deviation is infinite where nothing can be said: too few images, or all of them equal.
    """

    median: Floats
    deviation: Floats
    limit: float

    def distances(self, values: Floats, classes: Ints) -> Floats:
        """Signed robust z (n, d) of values (n, d) in their classes (n,); 0 where not known."""
        distances: Floats = np.nan_to_num((values - self.median[classes]) / self.deviation[classes])
        return distances

    def strength(self, values: Floats, classes: Ints) -> Floats:
        """1 - limit / |z| (n,) of the statistic that is farthest off, 0 within the limit."""
        farthest = np.abs(self.distances(values, classes)).max(axis=1, initial=0)
        strength: Floats = 1 - self.limit / np.maximum(farthest, self.limit)
        return strength


def learn(values: Floats, classes: Ints, n_classes: int, n_images: int) -> Usual:
    """What is usual in each class.

    Args:
        values: (m, d) statistics of a sample, NaN where an image has none.
        classes: (m,) of the sample.
        n_classes: K.
        n_images: in the run, of which the sample is drawn.
    """
    median = np.zeros((n_classes, values.shape[1]))
    deviation = np.full_like(median, np.inf)
    order = np.argsort(classes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        for column in range(values.shape[1]):
            known = values[rows, column][~np.isnan(values[rows, column])]
            if len(known) < LEAST:
                continue
            where = classes[rows[0]], column
            median[where] = np.median(known)
            # as scipy's median_abs_deviation, which takes ten times as long for a few numbers
            deviation[where] = np.median(np.abs(known - median[where])) / NORMAL or np.inf
    tests = max(1, n_images * values.shape[1])
    return Usual(median, deviation, float(stats.norm.isf(CHANCE / 2 / tests)))
