"""Drift of focus: classes that are looked at otherwise than in an earlier run.

A statistic of a class has drifted where two questions are answered with yes. Is there a difference:
a two-sample Kolmogorov-Smirnov test, at a false discovery rate over all classes and statistics. Is
it large: the population stability index (PSI) is at least PSI, the bound above which a shift is
called significant in N. Siddiqi, "Credit Risk Scorecards" (Wiley, 2006).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.storage.schema import Row

Floats = NDArray[np.float64]

PSI = 0.25
BINS = 10
LEAST = 50
"""Images of a class, in either run, below which nothing is said."""
DRIFTED = "drifted"


@dataclass(frozen=True)
class FocusOfRun:
    """Focus statistics (n, d), NaN where there are none, and predicted classes (n,), by name."""

    values: Floats
    classes: NDArray[np.object_]


def drifts(before: FocusOfRun, now: FocusOfRun, names: list[str], fdr: float) -> Iterator[Row]:
    """Rows of CHANGES for the statistics of classes that drifted, the farthest first.

    Args:
        before, now: the two runs.
        names: of the d statistics.
        fdr: false discovery rate over all that is compared.
    """
    earlier, later = _by_class(before), _by_class(now)
    compared = [
        (name, statistic, *values)
        for name in sorted(set(earlier) & set(later))
        for statistic, values in zip(names, _pairs(earlier[name], later[name]), strict=True)
        if min(map(len, values)) >= LEAST
    ]
    if not compared:
        return
    # Exact p-values of large samples take long; equal values, as on a grid, make either too high.
    p_values = [float(stats.ks_2samp(old, new, method="asymp").pvalue) for *_, old, new in compared]
    q_values = stats.false_discovery_control(p_values).tolist()
    found = []
    for each, p_value, q_value in zip(compared, p_values, q_values, strict=True):
        moved = stability(*each[2:])
        if q_value < fdr and moved >= PSI:
            found.append((moved, _row(*each, moved) | {"p_value": p_value, "q_value": q_value}))
    yield from (row for _, row in sorted(found, key=lambda pair: -pair[0]))


def _by_class(sample: FocusOfRun) -> dict[str, Floats]:
    """The rows of each class, in their order."""
    names, number = np.unique(sample.classes, return_inverse=True)
    order = np.argsort(number, kind="stable")
    ends = np.cumsum(np.bincount(number, minlength=len(names)))
    pieces = np.split(sample.values[order], ends)  # the last one is empty
    return dict(zip(names.tolist(), pieces, strict=False))


def _pairs(before: Floats, now: Floats) -> Iterator[tuple[Floats, Floats]]:
    """The known values of each statistic of a class, before and now."""
    for old, new in zip(before.T, now.T, strict=True):
        yield old[~np.isnan(old)], new[~np.isnan(new)]


def stability(before: Floats, now: Floats) -> float:
    """Population stability index of two samples, 0 or more: sum of (q - p) ln(q / p) over bins.

    Bins are the tenths of `before`, fewer where many values are equal; half an image is added to
    each, so that an empty one says no more than the sample allows.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, BINS + 1)[1:-1]))
    shares = []
    for values in (before, now):
        counts = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def _row(name: str, statistic: str, old: Floats, new: Floats, moved: float) -> Row:
    before, after = float(np.median(old)), float(np.median(new))
    return {
        "subject": "focus",
        "change": DRIFTED,
        "key": f"{name}: {statistic}",
        "class_name": name,
        "kind": statistic,
        "before": before,
        "after": after,
        "summary": f"{name}: {statistic} was {before:.2f} in the median and is {after:.2f} "
        f"(population stability index {moved:.2f})",
    }
