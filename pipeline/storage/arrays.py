"""Columns of the parts as arrays, a null as what arithmetic passes over; samples of their rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.storage.schema import TOP

NO_CLASS = -1


def numbers(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers (n,), NaN for null."""
    values: NDArray[np.float64] = rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def classes(rows: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of class indices (n,), NO_CLASS for null."""
    values: NDArray[np.int64] = rows[name].fill_null(NO_CLASS).to_numpy(zero_copy_only=False)
    return values.astype(np.int64)


def vectors(rows: pa.Table, name: str, length: int) -> NDArray[np.float32]:
    """A column of lists of one length as (n, length): a null list is zeros, a null in one NaN."""
    column = rows[name].combine_chunks()
    values = np.zeros((len(column), length), np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.filter(column.is_valid()).flatten()
    values[there] = flat.to_numpy(zero_copy_only=False).reshape(-1, length)
    return values


def top(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most probable classes (n, TOP), NO_CLASS where there are fewer, and probabilities."""
    probs = np.nan_to_num(vectors(rows, "top_prob", TOP))
    index = np.nan_to_num(vectors(rows, "top_index", TOP), nan=NO_CLASS).astype(np.int64)
    index[probs.sum(axis=1) == 0] = NO_CLASS
    return index, probs
