"""Images of a class and of other classes, compared by features of their pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipeline.analysis.shortcuts import divisions
from pipeline.analysis.shortcuts.divisions import Bools, Floats

SURE = 0.01
"""p-value below which images without the cue surely show the object of the class."""


@dataclass(frozen=True)
class MeasuredImages:
    """n images.

    Attributes:
        features: (n, ...) features of the pixels.
        margins: (n,) logit of the class minus the largest other logit.
    """

    features: Floats
    margins: Floats

    def __len__(self) -> int:
        return len(self.margins)

    def select(self, rows: Bools) -> MeasuredImages:
        """Some of the images, by a mask (n,)."""
        return MeasuredImages(self.features[rows], self.margins[rows])


@dataclass(frozen=True, eq=False)
class PixelDivision:
    """A division of n images of a class by their pixels.

    Attributes:
        with_cue, without_cue: (n,) the images of the class that surely have the cue, or lack it.
        has_cue: (n,) whether an image, of the class or not, probably has the cue.
        elsewhere: (m,) the same of images of other classes.
        score: (n,) position between the means of the class and of other classes.
        separation: difference of the mean scores of the images of the class that probably have the
            cue and the others, over their pooled standard deviation.
    """

    with_cue: Bools
    without_cue: Bools
    has_cue: Bools
    elsewhere: Bools
    score: Floats
    separation: float


def threshold_between(own: Floats, others: Floats) -> float:
    """Otsu's threshold of scores (n,) of a class and (m,) of others, as if there were n of both."""
    levels = (np.arange(len(own)) + 0.5) / len(own)
    return divisions.otsu(np.concatenate([own, np.quantile(others, levels)]))


def show_object(lacking: MeasuredImages, others: MeasuredImages) -> bool:
    """Whether images of a class without a cue look more like the class than those of other classes.

    Images with wrong labels do not, and what they lack may be the object. The test is that of Mann
    and Whitney, one-sided.
    """
    if not len(lacking) or not len(others):
        return False
    test = stats.mannwhitneyu(lacking.margins, others.margins, alternative="greater")
    return bool(test.pvalue < SURE)
