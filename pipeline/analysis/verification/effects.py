"""What interventions prove: paired comparisons of which images turned, numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MOST_TARGETS = 10
"""Target classes, or groups of them, that are told apart."""


@dataclass(frozen=True)
class Effect:
    """What an intervention did, and what the same one did with a control, image by image.

    hit and control are shares of images in [0, 1]; low and high bound their difference (95 %,
    bootstrap); p_value is McNemar's, exact and one-sided, of the pairs in which only one turned.
    """

    hit: float
    control: float
    low: float
    high: float
    p_value: float

    @property
    def gain(self) -> float:
        """Effect minus control, in [-1, 1]."""
        return self.hit - self.control


NO_EFFECT = Effect(0.0, 0.0, 0.0, 0.0, 1.0)


def compare(hit: Bools, control: Bools, rng: np.random.Generator, draws: int = 1000) -> Effect:
    """Paired comparison of which images turned: (n,) with the cue, (n,) with the control."""
    only_hit, only_control = int((hit & ~control).sum()), int((control & ~hit).sum())
    discordant = only_hit + only_control
    p_value = (
        stats.binomtest(only_hit, discordant, 0.5, alternative="greater").pvalue
        if discordant
        else 1.0
    )
    differences = hit.astype(float) - control.astype(float)
    means = differences[rng.integers(len(hit), size=(draws, len(hit)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Effect(float(hit.mean()), float(control.mean()), float(low), float(high), float(p_value))


def typical_gain(hit: Bools, control: Bools, classes: Ints) -> float:
    """Median over target classes (n,) of the gain in each; a cue works on all, a likeness on few.

    Where images that resemble a class turn easily, the mean over all images is large, but not the
    median over classes. Of more than MOST_TARGETS classes, neighbours are taken together: a class
    of one image would have turned in whole or not at all.
    """
    labels = np.unique(classes)
    groups = np.array_split(labels, min(len(labels), MOST_TARGETS)) if len(labels) else []
    inside = [np.isin(classes, group) for group in groups]
    gains = [hit[rows].mean() - control[rows].mean() for rows in inside]
    return float(np.median(gains)) if gains else 0.0


def apart(own: NDArray[np.floating], null: NDArray[np.floating]) -> float:
    """The threshold by which fewest of own (n,) are mistaken, some of which are drawn as null (m,).

    How many are: twice those below the null's median (Storey, "A direct approach to false
    discovery rates", JRSS B 2002, equation 6, with lambda a half).
    """
    values = np.unique(np.concatenate([own, null]))
    above = [
        1 - np.searchsorted(np.sort(of), values, side="right") / max(1, len(of))
        for of in (own, null)
    ]
    like_null = min(1.0, 2 * float((own <= np.median(null)).mean()))
    return float(values[np.argmax(above[0] - 2 * like_null * above[1])])


def hurdle(others: NDArray[np.float64], least: float) -> float:
    """The gain a class must exceed, given that of other classes under the same intervention.

    Any class's pictures carry evidence for it, so that pasting parts of them turns some images.
    What three quarters of the other classes (n,) stay below counts as ordinary; a cue must add
    `least` to twice that. The upper quartile does not move when a few classes have cues themselves.
    """
    ordinary = float(np.quantile(others, 0.75)) if len(others) else 0.0
    return least + 2 * max(0.0, ordinary)


def most_false(found: int, tried: int, level: float = 0.95) -> float:
    """Upper bound of the chance of a false finding, after `found` of `tried` (Clopper-Pearson)."""
    return float(stats.beta.ppf(level, found + 1, tried - found)) if found < tried else 1.0
