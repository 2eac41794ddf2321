"""What every kind of dataset is turned into."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pipeline.data.decode import DecodeError
from pipeline.errors import ConfigError, DataError

HIDDEN = -1
"""The class index of an image without a label, in Hugging Face's ClassLabel and in torchvision."""


class Picture(NamedTuple):
    """A picture (H, W, 3) uint8 RGB, and a mask (H, W) of its object, 0 or 255, where known."""

    pixels: NDArray[np.uint8]
    object: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Source:
    """A dataset: what is in it, and how the picture at a position is read.

    labels are class names, None where an image has none; class_names are in the dataset's own
    order, None where nothing is labelled. read raises for a picture that cannot be used; it can
    be pickled. version, where there is one, gives a text that changes when the picture at a place
    does: from its content where that is asked for, else from what its file system knows; None where
    it cannot be told. metadata has one row per image. ignored counts files that are no images, by
    suffix; warnings say what else a reader of the audit must know.
    """

    image_ids: list[str]
    labels: list[str | None]
    read: Callable[[int], Picture]
    class_names: list[str] | None
    metadata: pa.Table | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    version: Callable[..., str | None] | None = None


def distinct(labels: Iterable[str | None]) -> list[str] | None:
    """The labels in use, sorted: numbers by value, then names. None where nothing is labelled."""
    names = {label for label in labels if label is not None}
    return sorted(names, key=lambda n: (not n.isdecimal(), n.isdecimal() and int(n), n)) or None


def class_labels(values: Iterable[object], names: list[str] | None = None) -> list[str | None]:
    """Labels as a dataset holds them, as class names; with `names`, numbers are positions there.

    None, NaN and empty text are no label, and with `names`, HIDDEN is none either; 3.0 is "3".

    Raises:
        DataError: naming the first image whose label is no single class, or none of `names`.
    """
    known = None if names is None else {*names, None}
    labels = []
    for index, value in enumerate(values):
        try:
            label = _label(value, names)
        except (ValueError, RuntimeError) as error:  # RuntimeError: item() of a larger tensor
            raise DataError(f"label of image {index}: {error}") from error
        if known is not None and label not in known:
            raise DataError(f"label of image {index}: {label!r} is no class of the dataset")
        labels.append(label)
    return labels


def column_labels(
    table: pa.Table, column: str | None, names: list[str] | None = None
) -> list[str | None]:
    """A column of labels as class names, see `class_labels`; without a column, nothing is labelled.

    Raises:
        ConfigError: where the column does not hold one class per image.
        DataError: as `class_labels`.
    """
    if column is None:
        return [None] * table.num_rows
    kind = table.schema.field(column).type
    if pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        raise ConfigError(f"dataset.label_column: {column!r} holds {kind}, not one class per image")
    return class_labels(table[column].to_pylist(), names)


def numbered(names: Iterable[str]) -> list[str]:
    """Class names told apart: one that occurs more than once gets its position."""
    names = list(names)
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def check_column(key: str, column: str | None, columns: list[str], place: str) -> None:
    """Refuse a column that is not there, listing those that are.

    Raises:
        ConfigError: naming the key and the column.
    """
    if column is not None and column not in columns:
        hint = "; null if there are no labels" if key == "dataset.label_column" else ""
        raise ConfigError(
            f"{key}: {place} has no column {column!r}, only {', '.join(columns)}{hint}"
        )


def box_mask(shape: tuple[int, ...], box: Sequence[float | None]) -> NDArray[np.uint8] | None:
    """(H, W) mask, 255 where the box (x0, y0, x1, y1) in pixels touches; None where all is null.

    Raises:
        DecodeError: for a box that lacks a side, is empty or lies outside the picture.
    """
    sides = [side for side in box if side is not None and not math.isnan(side)]
    if not sides:
        return None
    text = ", ".join("null" if side is None else f"{side:g}" for side in box)
    if len(sides) != 4 or len(box) != 4:
        raise DecodeError(f"its box ({text}) has not four sides x0, y0, x1, y1")
    x0, y0, x1, y1 = sides
    mask = np.zeros(shape[:2], np.uint8)
    left, top = (math.floor(max(0, side)) for side in (x0, y0))
    mask[top : math.ceil(max(0, y1)), left : math.ceil(max(0, x1))] = 255
    if not (x0 < x1 and y0 < y1 and mask.any()):
        raise DecodeError(
            f"its box ({text}) is empty or outside the {shape[1]} x {shape[0]} picture"
        )
    return mask


def object_mask(shape: tuple[int, ...], marked: ArrayLike) -> NDArray[np.uint8]:
    """(H, W) mask, 255 where `marked`, of the same height and width, is not 0.

    Raises:
        DecodeError: for a mask of another size.
    """
    mask = np.asarray(marked)
    if mask.ndim == 3:  # channels, at either end
        mask = np.any(mask, axis=0 if mask.shape[1:] == shape[:2] else 2)
    if mask.shape != shape[:2]:
        raise DecodeError(f"its mask has shape {mask.shape}, the image {shape[:2]}")
    return np.where(mask != 0, 255, 0).astype(np.uint8)


def printable(text: str) -> str:
    """Text that every file can hold: bytes of a file name that are no UTF-8 become escapes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text  # itself, as there may be millions


def _label(value: Any, names: list[str] | None) -> str | None:
    if hasattr(value, "item"):  # of a tensor, or of numpy
        value = value.item()
    if value is None or value != value:  # noqa: PLR0124 - NaN
        return None
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if not isinstance(value, str | Number):
        raise ValueError(f"a {type(value).__name__} is not one class")
    if isinstance(value, float) and value.is_integer():  # as pandas has it where some are missing
        value = int(value)
    if isinstance(value, int) and names:
        if value != HIDDEN and not 0 <= value < len(names):
            raise ValueError(f"{value} is outside the dataset's {len(names)} classes")
        return None if value == HIDDEN else names[value]
    return printable(str(value)).strip() or None
