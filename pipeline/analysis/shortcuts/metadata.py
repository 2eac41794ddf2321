"""Columns of the manifest that go with the prediction beyond the label: counts, no pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

MOST_VALUES = 30
"""A column with more values names images, not groups of them; numbers are cut into quarters."""
LEAST = 20
"""Images that a value needs on both sides."""


@dataclass(frozen=True)
class Association:
    """That images with a value of a column are predicted as a class more often, label for label.

    share and others are the chances of the prediction with and without the value, as they would be
    if both had the same labels; confounding is Cramer's V of the column and the label.
    """

    class_index: int
    column: str
    value: str
    share: float
    others: float
    p_value: float
    confounding: float


def associations(
    columns: pa.Table, predicted: NDArray[np.int64], labels: NDArray[np.int64]
) -> Iterator[Association]:
    """Every class with every value of every column that has few.

    The test is Mantel and Haenszel's (JNCI 1959) of the prediction with the value over strata of
    one label each, one-sided; images without a label are a stratum.

    Args:
        columns: (n, any number) of metadata.
        predicted, labels: (n,) class indices, -1 where there is no label.
    """
    for name in columns.column_names:
        codes, values = _groups(columns[name])
        confounding = cramers_v(codes, labels)
        for code, value in enumerate(values):
            has = codes == code
            if min(has.sum(), (~has).sum()) < LEAST:
                continue
            for class_index, share, others, p_value in mantel_haenszel(predicted, has, labels):
                yield Association(class_index, name, value, share, others, p_value, confounding)


def mantel_haenszel(
    predicted: NDArray[np.int64], exposed: NDArray[np.bool_], strata: NDArray[np.int64]
) -> Iterator[tuple[int, float, float, float]]:
    """For each predicted class, its chance with and without exposure, over the same strata, and p.

    Strata count by n1 * n0 / n, as in Mantel and Haenszel's estimate of the common difference.
    Work and memory grow with the images, not with classes times images.
    """
    _, stratum = np.unique(strata, return_inverse=True)
    classes, outcome = np.unique(predicted, return_inverse=True)
    sizes, exposures = np.bincount(stratum), np.bincount(stratum, exposed)
    mixed = (exposures > 0) & (exposures < sizes)
    cells, at = np.unique(stratum * len(classes) + outcome, return_inverse=True)
    where, which = np.divmod(cells, len(classes))
    use = mixed[where]
    m1, a = np.bincount(at)[use].astype(np.float64), np.bincount(at, exposed)[use]
    n, n1, which = sizes[where[use]], exposures[where[use]], which[use]
    n0 = n - n1
    all_weight = float(np.sum((exposures * (sizes - exposures) / sizes)[mixed]))

    def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.bincount(which, values, minlength=len(classes)), np.float64)

    excess = total(a - n1 * m1 / n)
    variance = total(n1 * n0 * m1 * (n - m1) / (n.astype(float) ** 2 * np.maximum(n - 1, 1)))
    share, others = total(n0 / n * a), total(n1 / n * (m1 - a))
    for index, label in enumerate(classes):
        spread = variance[index] ** 0.5
        p_value = float(stats.norm.sf(excess[index] / spread)) if spread > 0 else 1.0
        if all_weight > 0:
            yield int(label), share[index] / all_weight, others[index] / all_weight, p_value


def cramers_v(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """How far two codings (n,) go together, in [0, 1] (Cramer, "Mathematical Methods", 1946)."""
    table = stats.contingency.crosstab(one, other).count
    if min(table.shape) < 2:
        return 0.0
    return float(stats.contingency.association(table, method="cramer"))


def _groups(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Each image's group (n,), -1 where it has none, and the groups' names; none if too many."""
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if numeric and pc.count_distinct(column).as_py() > MOST_VALUES:
        column = _quarters(column)
    encoded = pc.cast(column, pa.string(), safe=False).combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    if not 2 <= len(names) <= MOST_VALUES:
        return np.full(len(column), -1), []
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), names


def _quarters(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers as the quarter of all that they are in, such as "2.5 to 7"."""
    values = column.to_numpy().astype(np.float64)
    bounds = np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1])
    at = np.clip(np.searchsorted(bounds, values, side="right") - 1, 0, 3)
    names = np.array([f"{bounds[i]:g} to {bounds[i + 1]:g}" for i in range(4)])
    return pa.chunked_array([pa.array(names[at], mask=np.isnan(values))])
