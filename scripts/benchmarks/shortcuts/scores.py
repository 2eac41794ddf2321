"""What a finding of shortcuts is worth: recall, false alarms, ranking, and where it points.

The unit is a pair of a class and a set. A pair is relied upon where truth.json says that the
network relies on a cue of that class; every other pair is one in which nothing may be alarmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import average_precision_score

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in fractions of the picture."""
DRAWS = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Verdict:
    """What a peer says of a class of a set: the higher the score, the more suspect it is."""

    peer: str
    class_index: int
    score: float
    alarm: bool


@dataclass(frozen=True)
class Share:
    """`count` of `total` pairs, and the Wilson interval of the share."""

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share; NaN of nothing."""
        return self.count / self.total if self.total else float("nan")


@dataclass(frozen=True)
class Measured:
    """How a peer did.

    recall: alarms of the pairs relied upon; false_alarms: of all others; control_alarms: of those
    among them that carry a cue which the network does not rely on; average_precision of the score
    over all pairs, its bootstrap interval, and chance: what a random order would reach.
    """

    peer: str
    recall: Share
    false_alarms: Share
    control_alarms: Share
    average_precision: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True)
class Pairs:
    """All pairs of a set: relied, control, alarm (n,) bool and score (n,)."""

    relied: Bools
    control: Bools
    alarm: Bools
    score: F64


def measure(
    verdicts: Mapping[str, Sequence[Verdict]],
    truth_pairs: Mapping[str, Sequence[Mapping[str, Any]]],
    seed: int = 0,
) -> Measured:
    """Compare the verdicts of one peer with what is true.

    Args:
        verdicts: of each set, one verdict per class.
        truth_pairs: of each set, the `pairs` of its truth.json (class_index, relied).
        seed: of the bootstrap.

    Raises:
        ValueError: where they come from several peers, or from none, or name a class twice.
    """
    peers = {verdict.peer for of_set in verdicts.values() for verdict in of_set}
    if len(peers) != 1:
        raise ValueError(f"verdicts of one peer are measured at a time, not of {sorted(peers)}")
    sets = [pairs(of_set, truth_pairs[name]) for name, of_set in verdicts.items()]
    whole = _joined(sets)
    low, high = _bootstrap(sets, seed)
    return Measured(
        peer=peers.pop(),
        recall=_share(whole.alarm[whole.relied]),
        false_alarms=_share(whole.alarm[~whole.relied]),
        control_alarms=_share(whole.alarm[whole.control]),
        average_precision=average_precision(whole.relied, whole.score),
        low=low,
        high=high,
        chance=float(whole.relied.mean()),
    )


def pairs(verdicts: Sequence[Verdict], truth: Sequence[Mapping[str, Any]]) -> Pairs:
    """The verdicts of a set beside its truth; a class with two cues needs to rely on one of them.

    Raises:
        ValueError: where a class has two verdicts, or one with a cue has none.
    """
    classes = [verdict.class_index for verdict in verdicts]
    cued = {int(pair["class_index"]) for pair in truth}
    used = {int(pair["class_index"]) for pair in truth if pair["relied"]}
    if len(set(classes)) < len(classes) or not cued <= set(classes):
        raise ValueError(f"one verdict per class is needed; classes: {classes}, cues on {cued}")
    relied = np.isin(classes, list(used))
    return Pairs(
        relied,
        np.isin(classes, list(cued)) & ~relied,
        np.array([verdict.alarm for verdict in verdicts], bool),
        np.array([verdict.score for verdict in verdicts], np.float64),
    )


def _joined(sets: Sequence[Pairs]) -> Pairs:
    return Pairs(
        np.concatenate([each.relied for each in sets]),
        np.concatenate([each.control for each in sets]),
        np.concatenate([each.alarm for each in sets]),
        np.concatenate([each.score for each in sets]),
    )


def _share(hits: Bools) -> Share:
    return Share(int(hits.sum()), len(hits), *wilson(int(hits.sum()), len(hits)))


def wilson(count: int, total: int) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927, JASA 22, 209-212); of nothing, (0, 1)."""
    if total == 0:
        return 0.0, 1.0
    found = binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def average_precision(truth: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Average precision of scores (n,) for a truth (n,); NaN where nothing is true.

    Equal scores are one threshold, so an uninformative score gets the share of what is true.
    """
    truth = np.asarray(truth, bool)
    return float(average_precision_score(truth, score)) if truth.any() else float("nan")


def _bootstrap(sets: Sequence[Pairs], seed: int) -> tuple[float, float]:
    """The 95 % percentile interval of the average precision, whole sets drawn with replacement.

    Sets are drawn, not pairs: the classes of a set share a network. A draw in which nothing is
    relied upon has no average precision and does not count.
    """
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(DRAWS):
        drawn = _joined([sets[i] for i in rng.integers(len(sets), size=len(sets))])
        found.append(average_precision(drawn.relied, drawn.score))
    known = np.array(found)[~np.isnan(found)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def iou(mask: Bools, box: Box) -> float:
    """Area that a mask (h, w) and a box share, by the area of both together; 0 without any area.

    Pixels that the box covers in part count by that part.
    """
    covered = np.outer(
        _covered(box[1], box[3], mask.shape[0]), _covered(box[0], box[2], mask.shape[1])
    )
    shared = float(covered[mask].sum())
    both = float(mask.sum() + covered.sum()) - shared
    return shared / both if both > 0 else 0.0


def _covered(start: float, stop: float, n_pixels: int) -> F64:
    """The part (n_pixels,) of each pixel between two fractions of an edge."""
    edges = np.clip(np.arange(n_pixels + 1), start * n_pixels, stop * n_pixels)
    return np.diff(edges).astype(np.float64)


def centre_inside(box: Box, mask: Bools) -> bool:
    """Whether the pixel under the centre of a box belongs to a mask (h, w)."""
    rows, columns = mask.shape
    row = min(int((box[1] + box[3]) / 2 * rows), rows - 1)
    column = min(int((box[0] + box[2]) / 2 * columns), columns - 1)
    return bool(mask[row, column])
