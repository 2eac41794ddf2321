"""Styles: colours and fine structure of the whole image that most images of a class have.

A tint, a filter, noise, or a studio's backdrop changes the statistics of the whole image, in which
classes of objects hardly differ.
"""

from __future__ import annotations

import numpy as np

from pipeline.analysis.shortcuts import divisions, pixel_groups
from pipeline.analysis.shortcuts.divisions import Bools, Floats
from pipeline.analysis.shortcuts.pixel_groups import MeasuredImages, PixelDivision

MIN_AUC = 0.82
"""Least area under the ROC curve by which statistics of the image tell a class from others."""
MIN_SEPARATION = 3.5
"""Least separation of the groups of a class whose objects alone tell it from others; that of the
halves of one normal distribution is 2.65."""
ORDINARY = 0.75
"""Quantile of the scores of other classes below which an image of the class lacks the cue."""


def find_style(
    images: MeasuredImages, others: MeasuredImages, of_class: Bools
) -> PixelDivision | None:
    """Divide a class by the direction of statistics that tells it from other classes.

    Args:
        images: n images that are labelled or predicted as a class, with features (n, d).
        others: m images of other classes.
        of_class: (n,) whether an image is of the class.

    Returns:
        None if the statistics do not tell the class from others, or do not divide it.
    """
    smallest = divisions.smallest_group(int(of_class.sum()))
    if min(len(others), of_class.sum()) < 2 * smallest:
        return None
    score, other_score = _scores(images.features, others.features, of_class)
    own_score = score[of_class]
    if _area_under_roc(own_score, other_score) < MIN_AUC:
        return None
    threshold, least = pixel_groups.threshold_between(own_score, other_score), 0.0
    if (own_score <= threshold).sum() < smallest:  # the objects are part of its style
        threshold, least = divisions.otsu(own_score), MIN_SEPARATION
    has_cue, elsewhere = score > threshold, other_score > threshold
    with_cue, lacking = of_class & has_cue, of_class & ~has_cue
    ordinary = lacking & (score <= np.quantile(other_score, ORDINARY))
    if ordinary.sum() >= smallest:
        lacking = ordinary
    separation = divisions.separation(own_score, has_cue[of_class])
    if min(with_cue.sum(), lacking.sum()) < smallest or separation < least:
        return None
    if not pixel_groups.show_object(images.select(lacking), others.select(~elsewhere)):
        return None
    return PixelDivision(with_cue, lacking, has_cue, elsewhere, score, separation)


def _scores(features: Floats, others: Floats, of_class: Bools) -> tuple[Floats, Floats]:
    """Positions (n,) and (m,) of images along the discriminant of the class and of others."""
    own = features[of_class]
    scale = np.concatenate([own, others]).std(axis=0) + divisions.TINY
    direction = divisions.discriminant(own / scale, others / scale) / scale
    return features @ direction, others @ direction


def _area_under_roc(own: Floats, others: Floats) -> float:
    scores = np.concatenate([own, others])
    is_own = np.arange(len(scores)) < len(own)
    return float(divisions.areas_under_roc(scores[:, None], is_own)[0])
