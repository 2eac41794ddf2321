"""Drift of focus: classes whose focus statistics have another distribution than in an earlier run.

A statistic of a class has drifted if the difference is significant and large. It is significant by
a two-sample Kolmogorov-Smirnov test, at a false discovery rate over all classes and statistics. It
is large if the population stability index (PSI) is at least MIN_PSI, the bound above which N.
Siddiqi, "Credit Risk Scorecards" (Wiley, 2006), calls a shift significant.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.storage.schema import Row

Floats = NDArray[np.float64]

MIN_PSI = 0.25
BINS = 10
MIN_IMAGES = 50
"""Smallest number of images of a class in either run; smaller classes are not compared."""
DRIFTED = "drifted"


@dataclass(frozen=True)
class FocusOfRun:
    """Focus statistics (n, d), NaN where an image has none, and names of predicted classes (n,)."""

    values: Floats
    classes: NDArray[np.object_]


def drifts(before: FocusOfRun, now: FocusOfRun, names: list[str], fdr: float) -> Iterator[Row]:
    """Yield a row of CHANGES for each drifted statistic of a class, in descending order of the PSI.

    Args:
        before: the sample of the earlier run.
        now: the sample of the later run.
        names: names of the d statistics.
        fdr: false discovery rate over all classes and statistics.
    """
    earlier, later = _by_class(before), _by_class(now)
    compared = [
        (name, statistic, *values)
        for name in sorted(set(earlier) & set(later))
        for statistic, values in zip(names, _pairs(earlier[name], later[name]), strict=True)
        if min(map(len, values)) >= MIN_IMAGES
    ]
    if not compared:
        return
    # Exact p-values take long for large samples. Ties make exact and asymptotic ones conservative.
    p_values = [float(stats.ks_2samp(old, new, method="asymp").pvalue) for *_, old, new in compared]
    q_values = stats.false_discovery_control(p_values).tolist()
    found = []
    for each, p_value, q_value in zip(compared, p_values, q_values, strict=True):
        psi = stability(*each[2:])
        if q_value < fdr and psi >= MIN_PSI:
            found.append((psi, _row(*each, psi) | {"p_value": p_value, "q_value": q_value}))
    yield from (row for _, row in sorted(found, key=lambda pair: -pair[0]))


def _by_class(sample: FocusOfRun) -> dict[str, Floats]:
    """The rows of each class, in the order of the sample."""
    names, number = np.unique(sample.classes, return_inverse=True)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(names)))
    pieces = np.split(sample.values[order], ends)  # the last one is empty
    return dict(zip(names.tolist(), pieces, strict=False))


def _pairs(before: Floats, now: Floats) -> Iterator[tuple[Floats, Floats]]:
    """The values of each statistic of a class that are not NaN, before and now."""
    for old, new in zip(before.T, now.T, strict=True):
        yield old[~np.isnan(old)], new[~np.isnan(new)]


def stability(before: Floats, now: Floats) -> float:
    """Population stability index of two samples, at least 0: sum of (q - p) ln(q / p) over bins.

    The bins are the deciles of `before`, fewer if many values are equal. Half an image is added to
    each bin, so that an empty bin has a finite effect.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = []
    for values in (before, now):
        counts = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def _row(name: str, statistic: str, old: Floats, new: Floats, psi: float) -> Row:
    before, after = float(np.median(old)), float(np.median(new))
    return {
        "subject": "focus",
        "change": DRIFTED,
        "key": f"{name}: {statistic}",
        "class_name": name,
        "kind": statistic,
        "before": before,
        "after": after,
        "summary": f"{name}: the median of {statistic} was {before:.2f} and is {after:.2f} "
        f"(population stability index {psi:.2f})",
    }
