"""Convert columns of a table to arrays, and lists of texts to one text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage.schema import TOP

NO_CLASS = -1
SEPARATOR = "; "
"""Separates the texts of a list that becomes one text, such as the reasons of a suspect."""


def numbers(rows: pa.Table, name: str) -> NDArray[np.float64]:
    """A column of numbers (n,), NaN for null."""
    values: NDArray[np.float64] = rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False)
    return values


def classes(rows: pa.Table, name: str) -> NDArray[np.int64]:
    """A column of class indices (n,), NO_CLASS for null."""
    values: NDArray[np.int64] = rows[name].fill_null(NO_CLASS).to_numpy(zero_copy_only=False)
    return values.astype(np.int64)


def vectors(rows: pa.Table, name: str, length: int) -> NDArray[np.float32]:
    """A column of lists of equal length as (n, length): a null list is zeros, a null in it NaN."""
    column = rows[name].combine_chunks()
    values = np.zeros((len(column), length), np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = column.filter(column.is_valid()).flatten()
    values[there] = flat.to_numpy(zero_copy_only=False).reshape(-1, length)
    return values


def top(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most probable classes (n, TOP), NO_CLASS if there are fewer, and their probabilities."""
    probs = np.nan_to_num(vectors(rows, "top_prob", TOP))
    index = np.nan_to_num(vectors(rows, "top_index", TOP), nan=NO_CLASS).astype(np.int64)
    index[probs.sum(axis=1) == 0] = NO_CLASS
    return index, probs


def join_texts(table: pa.Table) -> pa.Table:
    """Join every list of texts in a table, such as the reasons of a suspect, to one text."""
    for place, field in enumerate(table.schema):
        if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            joined = pc.binary_join(table[field.name], SEPARATOR)
            table = table.set_column(place, field.name, joined)
    return table
