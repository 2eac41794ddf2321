"""Groups of a class's images, with and without a cue, that differ in their concepts.

A cue divides the images of its class in two: those with the cue have concepts that the others lack,
and these concepts raise the logit of the class. Groups are found within the class, so that they do
not depend on other classes: what images of the class have in common, such as its object, does not
divide them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import stats

if TYPE_CHECKING:  # the report reads the limits below, and starts without PyTorch
    from pipeline.analysis.shortcuts.concepts import ConceptMaps

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]

MIN_GROUP, MIN_GROUP_OF_FEW = 6, 3
"""Fewest images of each of the two groups; and the same in classes of few images, where a tenth of
the class is less than MIN_GROUP."""
MIN_TAIL = 0.03
"""Smallest share of the class that a threshold may split off."""
MIN_SHARE = 0.08
"""Smallest share of the class with the cue; a rarer cue hardly matters for the class."""
MIN_CONTRIBUTION, MIN_CONTRIBUTION_ALONE = 0.2, 0.15
"""Least contribution of a cue, as a fraction of what all concepts contribute in the images with it,
because a weaker one flips no images; and the same where the class has no such division."""
COMMON = 0.85
"""Share of the class with the cue from which a division is rated among the common cues."""
MAX_DIVISIONS, MAX_COMMON = 3, 2
"""Most divisions of a class with a cue that is not common, and with a common one."""
N_ROUNDS = 4
"""Rounds in which the direction between the groups and the groups are found in turn."""
RIDGE = 0.3
"""Variance added to the features (of unit variance) of the linear discriminant."""
SAME_WITH, SAME_WITHOUT = 0.8, 0.6
"""Jaccard indices of both groups above which two divisions count as the same."""
TINY = 1e-6


@dataclass(frozen=True)
class Division:
    """A division of a class's n images into images with and without a possible cue.

    Attributes:
        of_class: (n,) whether an image is of the class.
        score: (n,) position along the direction that separates the groups.
        direction: (2 k,) that direction, in the features of `summarise`.
        threshold: score above which an image has the cue.
        weights: (k,) in [0, 1], how far each concept belongs to the cue.
        separation: difference of the groups' mean scores over their pooled standard deviation.
        contribution: difference of the groups' mean contributions of the weighted concepts, in
            logits.
        relative: the same as a fraction of what all concepts contribute in the group with the cue.
    """

    of_class: Bools
    score: Floats
    direction: Floats
    threshold: float
    weights: Floats
    separation: float
    contribution: float
    relative: float

    @property
    def has_cue(self) -> Bools:
        """Whether each image (n,), of the class or not, has the cue."""
        return np.asarray(self.score > self.threshold)

    @property
    def with_cue(self) -> Bools:
        """The images (n,) of the class with the cue."""
        return self.of_class & self.has_cue

    @property
    def without_cue(self) -> Bools:
        """The images (n,) of the class without the cue."""
        return self.of_class & ~self.has_cue

    @property
    def share(self) -> float:
        """Share of the class's images that have the cue."""
        return float(self.with_cue.sum() / self.of_class.sum())

    @property
    def rating(self) -> float:
        """Separation times contribution: how probably the division comes from a cue."""
        return self.separation * self.contribution


def find_divisions(maps: ConceptMaps, of_class: Bools, others: Floats) -> list[Division]:
    """Find the divisions of a class that most probably come from a cue.

    Every concept's mean and largest strength, the total contribution, and the score that separates
    the class from others are thresholded. From each start, the linear discriminant of the groups
    and the groups themselves are refined in turn. Divisions are rated by separation times
    contribution, common cues apart from others.

    Args:
        maps: concepts of n images.
        of_class: (n,) whether an image is of the class. Other images are scored, but not divided.
        others: (m, 2 k) features of images of other classes (`summarise`); m may be 0.

    Returns:
        At most MAX_DIVISIONS + MAX_COMMON divisions, the best rated first.
    """
    features = summarise(maps.strength)
    scale = features[of_class].std(axis=0) + TINY
    refined = (
        _refine(start, features / scale, of_class)
        for start in _starts(maps, features / scale, of_class, others / scale)
    )
    described = (
        _describe(direction / scale, maps, features, of_class)
        for direction in refined
        if direction is not None
    )
    divisions = [each for each in described if each is not None and each.share >= MIN_SHARE]
    strong = [each for each in divisions if each.relative >= MIN_CONTRIBUTION]
    weak = [each for each in divisions if each.relative >= MIN_CONTRIBUTION_ALONE]
    found = _distinct(strong or weak)
    found.sort(key=lambda each: -each.rating)
    common = [each for each in found if each.share > COMMON][:MAX_COMMON]
    rarer = [each for each in found if each.share <= COMMON][:MAX_DIVISIONS]
    return sorted(common + rarer, key=lambda each: -each.rating)


def smallest_group(n_images: int) -> int:
    """Fewest images of a group of a class of n images."""
    return min(MIN_GROUP, max(MIN_GROUP_OF_FEW, n_images // 10))


def summarise(strength: Floats) -> Floats:
    """Mean and largest strength (n, 2 k) of every concept over the cells of (n, h, w, k)."""
    return np.concatenate([strength.mean(axis=(1, 2)), strength.max(axis=(1, 2))], axis=1)


def _starts(
    maps: ConceptMaps, features: Floats, of_class: Bools, others: Floats
) -> Iterator[Bools]:
    """Divide the class by thresholds; the side (n,) with the larger contribution has the cue."""
    total = maps.total
    columns = [*features.T, total]
    if len(others) >= MIN_GROUP:
        columns.append(features @ discriminant(features[of_class], others))
    for values in columns:
        if values[of_class].std() < TINY:
            continue
        for threshold in (otsu(values[of_class]), _widest(values[of_class])):
            above = values > threshold
            sides = above & of_class, ~above & of_class
            if not _is_too_small(*map(np.sum, sides)):
                yield sides[int(total[sides[0]].mean() < total[sides[1]].mean())]


def _refine(start: Bools, features: Floats, of_class: Bools) -> Floats | None:
    """Refine a division by linear discriminants; return the direction (2 k,) between the groups.

    None is returned where a group becomes too small.
    """
    with_cue, direction = start, None
    for _ in range(N_ROUNDS):
        groups = features[with_cue], features[of_class & ~with_cue]
        if _is_too_small(*map(len, groups)):
            return None
        direction = discriminant(*groups)
        score = features @ direction
        with_cue = of_class & (score > _best_threshold(score[of_class]))
    return direction


def _is_too_small(n_one: int, n_other: int) -> bool:
    """Whether one of the two groups of a class has too few images."""
    return min(n_one, n_other) < smallest_group(n_one + n_other)


def discriminant(one: Floats, other: Floats) -> Floats:
    """Direction (d,) of the regularised linear discriminant between groups (n, d) and (m, d)."""
    n_all = len(one) + len(other)
    within = sum(
        len(group) / n_all * np.cov(group, rowvar=False, bias=True) for group in (one, other)
    )
    difference = one.mean(axis=0) - other.mean(axis=0)
    return np.asarray(np.linalg.solve(within + RIDGE * np.eye(len(difference)), difference))


def _best_threshold(values: Floats) -> float:
    """The one of the two thresholds of values (n,) with the larger separation."""
    return max(
        (otsu(values), _widest(values)), key=lambda least: separation(values, values > least)
    )


def _describe(
    direction: Floats, maps: ConceptMaps, features: Floats, of_class: Bools
) -> Division | None:
    score = features @ direction
    threshold = _best_threshold(score[of_class])
    with_cue, without_cue = of_class & (score > threshold), of_class & (score <= threshold)
    if _is_too_small(with_cue.sum(), without_cue.sum()):
        return None
    weights = _weights(maps, with_cue, of_class)
    contributions = (maps.contribution @ weights).sum(axis=(1, 2))
    contribution = float(contributions[with_cue].mean() - contributions[without_cue].mean())
    return Division(
        of_class,
        score,
        direction,
        threshold,
        weights,
        separation(score[of_class], with_cue[of_class]),
        contribution,
        contribution / max(float(maps.total[with_cue].mean()), TINY),
    )


def _weights(maps: ConceptMaps, with_cue: Bools, of_class: Bools) -> Floats:
    """Weight (k,) in [0, 1] of each concept: (2 AUC - 1)^2 times the share that the others lack.

    A concept that is weaker without the cue, but there, such as that of a smaller object, has a low
    weight; so has one that is not reliably stronger with the cue (AUC of 1/2 and below).
    """
    strengths, truth = maps.strength[of_class], with_cue[of_class]
    means = strengths.mean(axis=(1, 2))
    largest = strengths.max(axis=(1, 2))
    aucs = np.maximum(areas_under_roc(means, truth), areas_under_roc(largest, truth))
    remaining = means[~truth].mean(axis=0) / np.maximum(means[truth].mean(axis=0), TINY)
    reliable = np.clip(2 * aucs - 1, 0, 1) ** 2
    return np.asarray(reliable * np.clip(1 - remaining, 0, 1), np.float32)


def areas_under_roc(values: Floats, truth: Bools) -> NDArray[np.float64]:
    """Areas under the ROC curve (k,) of columns (n, k), by ranks; sklearn's takes them singly."""
    n_true, n_false = truth.sum(), (~truth).sum()
    rank_sums = stats.rankdata(values, axis=0)[truth].sum(axis=0)
    return np.asarray((rank_sums - n_true * (n_true + 1) / 2) / (n_true * n_false))


def _distinct(divisions: list[Division]) -> list[Division]:
    """The divisions without those that are the same as an earlier one."""
    kept: list[Division] = []
    for division in divisions:
        if not any(_are_same(division, other) for other in kept):
            kept.append(division)
    return kept


def _are_same(one: Division, other: Division) -> bool:
    return (
        _jaccard(one.with_cue, other.with_cue) > SAME_WITH
        and _jaccard(one.without_cue, other.without_cue) > SAME_WITHOUT
    )


def _jaccard(one: Bools, other: Bools) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def separation(values: Floats, above: Bools) -> float:
    """Difference of the means of two groups over their pooled deviation; 0 if one is small.

    Args:
        values: (n,).
        above: (n,) whether a value belongs to the first group.
    """
    if _is_too_small(above.sum(), (~above).sum()):
        return 0.0
    share = above.mean()
    variance = share * values[above].var() + (1 - share) * values[~above].var()
    return float((values[above].mean() - values[~above].mean()) / np.sqrt(variance + TINY**2))


def otsu(values: Floats) -> float:
    """Threshold with the largest variance between the groups.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 1979, eq. 14.
    """
    ordered, sizes, low, high, _ = _moments_of_splits(values)
    between = sizes * (len(ordered) - sizes) * (high - low) ** 2
    return _threshold(ordered, between)


def _widest(values: Floats) -> float:
    """Threshold with the largest separation (`_separation`); it can split off a small group."""
    ordered, _, low, high, within = _moments_of_splits(values)
    floor = TINY * max(float(ordered.var()), TINY**2)
    return _threshold(ordered, (high - low) / np.sqrt(np.maximum(within, floor)))


def _moments_of_splits(values: Floats) -> tuple[NDArray[np.float64], ...]:
    """Ordered values (n,); for every split (n - 1,): size below, both means, variance within."""
    ordered = np.sort(values.astype(np.float64))
    n, below = len(ordered), np.arange(1, len(ordered), dtype=np.float64)
    total, squares = np.cumsum(ordered), np.cumsum(ordered**2)
    low = total[:-1] / below
    high = (total[-1] - total[:-1]) / (n - below)
    within = (squares[-1] - below * low**2 - (n - below) * high**2) / n
    return ordered, below, low, high, within


def _threshold(ordered: NDArray[np.float64], criterion: NDArray[np.float64]) -> float:
    """Middle of the gap at which the criterion (n - 1,) is largest, away from both ends."""
    edge = max(smallest_group(len(ordered)), int(MIN_TAIL * len(ordered)))
    allowed = np.full(len(criterion), -np.inf)
    allowed[edge - 1 : len(criterion) - edge + 1] = criterion[edge - 1 : len(criterion) - edge + 1]
    best = int(allowed.argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)
