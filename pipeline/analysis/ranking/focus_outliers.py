"""Find images whose focus statistics are outliers within their predicted class.

The distance of a statistic from the median of its class is measured in robust standard deviations.
If all statistics were normally distributed, the probability that any image of the run exceeds the
limit would be at most ALPHA (Bonferroni correction).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_IMAGES = 20
"""Smallest sample of a class in which an image can be an outlier."""
ALPHA = 0.05
NORMAL_MAD = float(stats.norm.isf(0.25))
"""Median absolute deviation of a standard normal distribution."""

WORDS = {
    "focus_area90": "the area of the focus",
    "focus_spread": "the spread of the focus",
    "focus_border": "the share of the focus on the border",
    "focus_corner": "the share of the focus in the corners",
    "focus_entropy": "the entropy of the focus",
    "focus_object_mass": "the share of the focus on the object",
}
"""The statistics that are compared, and their names in reasons."""


@dataclass(frozen=True)
class ClassFocus:
    """Medians (K, d) of the statistics of each class, robust standard deviations, and the limit.

    A deviation is infinite for a class with too few images or with equal values.
    """

    median: Floats
    deviation: Floats
    limit: float

    def distances(self, values: Floats, classes: Ints) -> Floats:
        """Signed robust z-scores (n, d) of values (n, d) in classes (n,); 0 for a NaN."""
        distances: Floats = np.nan_to_num((values - self.median[classes]) / self.deviation[classes])
        return distances

    def strength(self, values: Floats, classes: Ints) -> Floats:
        """1 - limit / |z| (n,) of the statistic with the largest |z|; 0 within the limit."""
        farthest = np.abs(self.distances(values, classes)).max(axis=1, initial=0)
        strength: Floats = 1 - self.limit / np.maximum(farthest, self.limit)
        return strength


def learn(values: Floats, classes: Ints, n_classes: int, n_images: int) -> ClassFocus:
    """Compute median, robust standard deviation and limit of each class.

    Args:
        values: (m, d) statistics of a sample, NaN where an image has none.
        classes: (m,) predicted classes of the sample.
        n_classes: number of classes K.
        n_images: number of images of the run from which the sample is drawn.
    """
    median = np.zeros((n_classes, values.shape[1]))
    deviation = np.full_like(median, np.inf)
    order = np.argsort(classes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        for column in range(values.shape[1]):
            known = values[rows, column][~np.isnan(values[rows, column])]
            if len(known) < MIN_IMAGES:
                continue
            where = classes[rows[0]], column
            median[where] = np.median(known)
            # the same as scipy's median_abs_deviation, which is ten times slower on few numbers
            deviation[where] = np.median(np.abs(known - median[where])) / NORMAL_MAD or np.inf
    n_tests = max(1, n_images * values.shape[1])
    return ClassFocus(median, deviation, float(stats.norm.isf(ALPHA / 2 / n_tests)))
