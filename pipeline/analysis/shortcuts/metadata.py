"""Metadata columns associated with the prediction, given the label; counts, no images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import stats

MAX_VALUES = 30
"""Most values of a column that forms groups; numbers with more values are cut into quarters."""
MIN_IMAGES = 20
"""Fewest images with a value, and fewest without it, for a test of the value."""
SAME = 0.95
"""Share of a label's images that have a value, and share of the value's images that have the label,
from which the two say the same."""


@dataclass(frozen=True)
class Confounder:
    """A value of a column that says the same as a label, so that their effects cannot be separated.

    Attributes:
        class_index: the label.
        column, value: name of the metadata column, and the value as text.
        share_of_label: share in [0, 1] of the images with the label that have the value.
        share_of_value: share in [0, 1] of the images with the value that have the label.
        p_value: of Fisher's exact test of the value and the label, one-sided.
    """

    class_index: int
    column: str
    value: str
    share_of_label: float
    share_of_value: float
    p_value: float


@dataclass(frozen=True)
class Association:
    """The test of whether images with a value of a column are predicted as a class more often.

    Attributes:
        class_index: the predicted class.
        column, value: name of the metadata column and the value, or range of numbers, as text.
        share_with, share_without: shares in [0, 1] of the images with and without the value that
            are predicted as the class, standardised to the same labels.
        p_value: one-sided p-value of Mantel and Haenszel's test, for this test alone.
        confounding: Cramer's V of the column and the label, in [0, 1].
    """

    class_index: int
    column: str
    value: str
    share_with: float
    share_without: float
    p_value: float
    confounding: float


def find_associations(
    columns: pa.Table, predicted: NDArray[np.int64], labels: NDArray[np.int64]
) -> Iterator[Association]:
    """Test every class with every value of every column that forms groups.

    The test is that of Mantel and Haenszel ("Statistical aspects of the analysis of data from
    retrospective studies of disease", JNCI 1959), one-sided, with one stratum for each label and
    one for images without a label.

    Args:
        columns: n rows of metadata.
        predicted: (n,) class indices.
        labels: (n,) class indices, -1 where there is no label.

    Yields:
        All tests, significant or not; the p-values are not corrected for their number.
    """
    for name in columns.column_names:
        codes, values = _encode_groups(columns[name])
        confounding = cramers_v(codes, labels)
        for code, value in enumerate(values):
            has = codes == code
            if min(has.sum(), (~has).sum()) < MIN_IMAGES:
                continue
            for class_index, *result in mantel_haenszel(predicted, has, labels):
                share_with, share_without, p_value = result
                shares = share_with, share_without
                yield Association(class_index, name, value, *shares, p_value, confounding)


def find_confounders(
    columns: pa.Table, labels: NDArray[np.int64], class_names: list[str]
) -> Iterator[Confounder]:
    """Find values of columns that say the same as a label; at most the clearest of each column.

    A value that is the name of the class is a copy of the label, and nothing to tell.

    Args:
        columns: n rows of metadata.
        labels: (n,) class indices, -1 where there is no label.
        class_names: names of the classes.
    """
    for name in columns.column_names:
        codes, values = _encode_groups(columns[name])
        same = []
        for code, value in enumerate(values):
            has = codes == code
            if min(has.sum(), (~has).sum()) < MIN_IMAGES or not (labels[has] >= 0).any():
                continue
            found = _compare(name, value, has, labels)
            is_copy = value.casefold() == class_names[found.class_index].casefold()
            if min(found.share_of_label, found.share_of_value) >= SAME and not is_copy:
                same.append(found)
        if same:
            yield max(same, key=lambda each: each.share_of_label + each.share_of_value)


def _compare(
    column: str, value: str, has: NDArray[np.bool_], labels: NDArray[np.int64]
) -> Confounder:
    """Compare a value with the label that most of its images have."""
    label = int(np.bincount(labels[has & (labels >= 0)]).argmax())
    of_label = labels == label
    both = int((has & of_label).sum())
    p_value = stats.hypergeom.sf(both - 1, len(has), int(has.sum()), int(of_label.sum()))
    return Confounder(label, column, value, both / of_label.sum(), both / has.sum(), float(p_value))


def mantel_haenszel(
    predicted: NDArray[np.int64], exposed: NDArray[np.bool_], strata: NDArray[np.int64]
) -> Iterator[tuple[int, float, float, float]]:
    """Test, for each predicted class, whether exposed images are predicted so more often.

    The strata are weighted by n1 * n0 / n, as in Mantel and Haenszel's estimate of the common
    difference. Work and memory grow with the images, not with classes times images.

    Args:
        predicted: (n,) class indices.
        exposed: (n,), true for the images with the value.
        strata: (n,) indices of the strata, here labels.

    Yields:
        The class index, the standardised shares in [0, 1] of exposed and of other images that are
        predicted so, and the one-sided p-value. Nothing where no stratum has images of both kinds.
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
    """Association of two codings (n,), in [0, 1]; 0 where one of them is constant.

    Cramer, "Mathematical Methods of Statistics", Princeton 1946, page 282.
    """
    table = stats.contingency.crosstab(one, other).count
    if min(table.shape) < 2:
        return 0.0
    return float(stats.contingency.association(table, method="cramer"))


def _encode_groups(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """Group of each image (n,), -1 for a null, and the groups' names; no names if too many."""
    numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if numeric and pc.count_distinct(column).as_py() > MAX_VALUES:
        column = _cut_into_quarters(column)
    encoded = pc.cast(column, pa.string(), safe=False).combine_chunks().dictionary_encode()
    names: list[str] = encoded.dictionary.to_pylist()
    if not 2 <= len(names) <= MAX_VALUES:
        return np.full(len(column), -1), []
    return encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64), names


def _cut_into_quarters(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Replace each number by the range of its quarter of all numbers, such as "2.5 to 7"."""
    values = column.to_numpy().astype(np.float64)
    bounds = np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1])
    at = np.clip(np.searchsorted(bounds, values, side="right") - 1, 0, 3)
    names = np.array([f"{bounds[i]:g} to {bounds[i + 1]:g}" for i in range(4)])
    return pa.chunked_array([pa.array(names[at], mask=np.isnan(values))])
