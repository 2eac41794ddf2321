"""What every kind of dataset is turned into."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError


class Picture(NamedTuple):
    """A picture (H, W, 3) uint8 RGB, and a mask (H, W) of its object, 0 or 255, where known."""

    pixels: NDArray[np.uint8]
    object: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Source:
    """A dataset: what is in it, and how the picture at a position is read.

    labels are class names, None where an image has none; class_names are in the dataset's own
    order, None where nothing is labelled. read raises for a picture that cannot be used; it can
    be pickled. metadata has one row per image. ignored counts files that are no images, by suffix.
    """

    image_ids: list[str]
    labels: list[str | None]
    read: Callable[[int], Picture]
    class_names: list[str] | None
    metadata: pa.Table | None = None
    ignored: dict[str, int] = field(default_factory=dict)


def distinct(labels: Iterable[str | None]) -> list[str] | None:
    """The labels in use, sorted; numbers by value. None where nothing is labelled."""
    names = {label for label in labels if label is not None}
    return (
        sorted(names, key=lambda name: (int(name), "") if name.isdecimal() else (0, name)) or None
    )


def column_labels(table: pa.Table, column: str | None) -> list[str | None]:
    """A column of labels as text: empty is none, 3.0 is "3"."""
    if column is None:
        return [None] * table.num_rows
    values = table[column]
    if pa.types.is_floating(values.type):  # whole numbers become floats where some are missing
        values = pc.cast(values, pa.int64())
    return [
        value.strip() or None if value else None for value in values.cast(pa.string()).to_pylist()
    ]


def check_column(key: str, column: str | None, columns: list[str], place: str) -> None:
    """Refuse a column that is not there, listing those that are.

    Raises:
        ConfigError: naming the key and the column.
    """
    if column is not None and column not in columns:
        raise ConfigError(f"{key}: {place} has no column {column!r}, only {', '.join(columns)}")
