"""Statistics of interventions: paired comparisons of which images flipped; numpy and scipy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

N_DRAWS = 1000
"""Draws of the bootstrap."""
MAX_CLASS_GROUPS = 10
"""Most groups of recipient classes over which the median gain is taken."""


@dataclass(frozen=True)
class Effect:
    """Flip rates of an intervention and of its control on the same recipients.

    Attributes:
        n: number of recipients.
        flip_rate: share of the recipients that flip with the cue's content, in [0, 1].
        control_rate: share of the recipients that flip with the control's content, in [0, 1].
        ci_low, ci_high: 95 % bootstrap confidence interval of the gain.
        p_value: McNemar's test, exact and one-sided, of the pairs in which only one flipped.
        median_gain: median over the recipients' classes of the gain in each class, in [-1, 1].
        sharing: indices of other classes to which the cue flips recipients, too; flips to them
            count.
        disturbed: share of the recipients whose prediction changes, to any class, with the
            control's content, in [0, 1].
    """

    n: int
    flip_rate: float
    control_rate: float
    ci_low: float
    ci_high: float
    p_value: float
    median_gain: float
    sharing: tuple[int, ...] = ()
    disturbed: float = 0.0

    @property
    def gain(self) -> float:
        """Flip rate of the intervention minus that of the control, in [-1, 1]."""
        return self.flip_rate - self.control_rate


def compare_flips(
    flipped: Bools,
    control: Bools,
    with_cue: Ints,
    without_cue: Ints,
    classes: Ints,
    rng: np.random.Generator,
    sharing: tuple[int, ...] = (),
) -> Effect:
    """Compare an intervention with its control on the same recipients.

    The bootstrap draws source images, not recipients, because images of one source are no
    independent observations of the cue: with few images without the cue the interval is wide.

    Args:
        flipped, control: (n,), whether each recipient flipped.
        with_cue, without_cue: (n,) numbers of the source images, from 0.
        classes: (n,) class indices of the recipients.
        rng: random generator of the bootstrap.
        sharing: other classes that share the cue, for the result.
    """
    only_flipped, only_control = int((flipped & ~control).sum()), int((control & ~flipped).sum())
    discordant = only_flipped + only_control
    p_value = (
        stats.binomtest(only_flipped, discordant, 0.5, alternative="greater").pvalue
        if discordant
        else 1.0
    )
    gains = _bootstrap(flipped, with_cue, rng) - _bootstrap(control, without_cue, rng)
    n_sources = len(np.unique(with_cue)) + len(np.unique(without_cue))
    low, high = np.quantile(gains, _expanded_levels(n_sources))
    return Effect(
        len(flipped),
        float(flipped.mean()),
        float(control.mean()),
        float(low),
        float(high),
        float(p_value),
        median_class_gain(flipped, control, classes),
        sharing,
    )


def _bootstrap(hits: Bools, sources: Ints, rng: np.random.Generator) -> NDArray[np.float64]:
    """Mean of hits (n,) in N_DRAWS draws, with replacement, of the images that they come from."""
    _, number = np.unique(sources, return_inverse=True)
    n_sources = int(number.max()) + 1
    draws = rng.multinomial(n_sources, np.full(n_sources, 1 / n_sources), size=N_DRAWS)
    weights = draws[:, number]
    return np.asarray((weights @ hits) / np.maximum(weights.sum(axis=1), 1))


def _expanded_levels(n_sources: int) -> list[float]:
    """Quantiles of the bootstrap that bound a 95 % interval from few source images, in two groups.

    The percentile interval of a small sample is too narrow: it has the variance without Bessel's
    correction, and normal quantiles instead of Student's. Hesterberg, "What Teachers Should Know
    About the Bootstrap", The American Statistician 2015, corrects the levels for both (expanded
    percentile interval).
    """
    freedom = max(1, n_sources - 2)
    reach = np.sqrt((freedom + 2) / freedom) * stats.t.ppf(0.975, freedom)
    return [float(stats.norm.cdf(-reach)), float(stats.norm.cdf(reach))]


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
