"""Statistics of interventions: paired comparisons of which images flipped; numpy and scipy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

MAX_CLASS_GROUPS = 10
"""Most groups of recipient classes over which the median gain is taken."""


@dataclass(frozen=True)
class Effect:
    """Flip rates of an intervention and of its control on the same images.

    Attributes:
        flip_rate: share of the images whose prediction flips under the intervention, in [0, 1].
        control_rate: share of the images whose prediction flips under the control, in [0, 1].
        ci_low, ci_high: 95 % bootstrap confidence interval of the gain.
        p_value: McNemar's test, exact and one-sided, of the pairs in which only one flipped.
    """

    flip_rate: float
    control_rate: float
    ci_low: float
    ci_high: float
    p_value: float

    @property
    def gain(self) -> float:
        """Flip rate of the intervention minus that of the control, in [-1, 1]."""
        return self.flip_rate - self.control_rate


NO_EFFECT = Effect(0.0, 0.0, 0.0, 0.0, 1.0)
"""Effect of an intervention that was not run."""


def compare_flips(
    flipped: Bools, control: Bools, rng: np.random.Generator, draws: int = 1000
) -> Effect:
    """Compare an intervention with its control on the same images.

    Args:
        flipped: (n,), whether each image flipped under the intervention.
        control: (n,), whether it flipped under the control.
        rng: random generator of the bootstrap.
        draws: number of bootstrap samples.
    """
    only_flipped, only_control = int((flipped & ~control).sum()), int((control & ~flipped).sum())
    discordant = only_flipped + only_control
    p_value = (
        stats.binomtest(only_flipped, discordant, 0.5, alternative="greater").pvalue
        if discordant
        else 1.0
    )
    differences = flipped.astype(float) - control.astype(float)
    means = differences[rng.integers(len(flipped), size=(draws, len(flipped)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    rates = float(flipped.mean()), float(control.mean())
    return Effect(*rates, float(low), float(high), float(p_value))


def median_class_gain(flipped: Bools, control: Bools, classes: Ints) -> float:
    """Compute the gain in each class of recipients, and return the median over the classes.

    A cue flips images of all classes; a mere likeness of two classes flips images of a few, which
    raises the mean over images but not the median over classes. Neighbouring classes are grouped
    if there are more than MAX_CLASS_GROUPS, because the gain in a class of one image would be -1, 0
    or 1.

    Args:
        flipped, control: (n,), whether each recipient flipped, as in `compare_flips`.
        classes: (n,) class indices of the recipients.

    Returns:
        The median gain in [-1, 1]; 0 without recipients.
    """
    labels = np.unique(classes)
    groups = np.array_split(labels, min(len(labels), MAX_CLASS_GROUPS)) if len(labels) else []
    inside = [np.isin(classes, group) for group in groups]
    gains = [flipped[rows].mean() - control[rows].mean() for rows in inside]
    return float(np.median(gains)) if gains else 0.0


def separating_threshold(own: NDArray[np.floating], null: NDArray[np.floating]) -> float:
    """Find the threshold that separates the values with a cue from those of the null distribution.

    `own` is a mixture of values with a cue and of values from the null distribution. The number of
    the latter is estimated as twice the number below the null's median (Storey, "A direct approach
    to false discovery rates", JRSS B 2002, equation 6, with lambda 1/2). The threshold maximises
    the share of `own` above it minus twice the estimated share of null values above it.

    Args:
        own: (n,) values of the mixture.
        null: (m,) values of the null distribution.
    """
    values = np.unique(np.concatenate([own, null]))
    above = [
        1 - np.searchsorted(np.sort(of), values, side="right") / max(1, len(of))
        for of in (own, null)
    ]
    null_share = min(1.0, 2 * float((own <= np.median(null)).mean()))
    return float(values[np.argmax(above[0] - 2 * null_share * above[1])])


def decision_threshold(other_gains: NDArray[np.float64], min_effect: float) -> float:
    """Compute the gain that a class must exceed, from the gains of other classes.

    Parts of any class's images carry evidence for it, so that every transplant flips some images.
    The upper quartile of the other classes counts as ordinary; it does not move when a few classes
    have cues themselves.

    Args:
        other_gains: (n,) gains of the same intervention for the other classes.
        min_effect: smallest gain of interest (analysis.min_effect).

    Returns:
        `min_effect` plus twice the ordinary gain, or plus 0 if that is negative or unknown.
    """
    ordinary = float(np.quantile(other_gains, 0.75)) if len(other_gains) else 0.0
    return min_effect + 2 * max(0.0, ordinary)


def false_finding_bound(found: int, tested: int, level: float = 0.95) -> float:
    """Upper confidence bound of the rate of false findings (Clopper and Pearson, Biometrika 1934).

    Args:
        found: false findings in `tested` tests of the null hypothesis.
        tested: number of tests.
        level: confidence level of the one-sided bound.
    """
    if found >= tested:
        return 1.0
    return float(stats.beta.ppf(level, found + 1, tested - found))
