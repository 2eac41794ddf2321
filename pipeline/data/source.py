"""The common form of all datasets, and helpers for labels, boxes and masks."""

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


class DecodedImage(NamedTuple):
    """A decoded image (H, W, 3) uint8 RGB; the mask (H, W) of its object, 0 or 255, if known."""

    pixels: NDArray[np.uint8]
    object: NDArray[np.uint8] | None = None


@dataclass(frozen=True)
class Source:
    """A dataset: its images, and a function that reads the image at a position.

    labels holds a class name for each image, or None; class_names are in the dataset's own order,
    None if no image has a label. read(position) raises an error for an image that cannot be used;
    it can be pickled. version(position, content), if not None, returns a text that changes when
    the image changes: a hash of the content if `content` is true, else data of the file system;
    None where neither is available. metadata has one row per image. ignored counts the files that
    are no images by suffix. warnings are shown in the report.
    """

    image_ids: list[str]
    labels: list[str | None]
    read: Callable[[int], DecodedImage]
    class_names: list[str] | None
    metadata: pa.Table | None = None
    ignored: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    version: Callable[..., str | None] | None = None


def distinct_labels(labels: Iterable[str | None]) -> list[str] | None:
    """The labels in use, sorted: numbers by value, then names. None if no image has a label."""
    names = {label for label in labels if label is not None}
    return sorted(names, key=lambda n: (not n.isdecimal(), n.isdecimal() and int(n), n)) or None


def class_labels(values: Iterable[object], names: list[str] | None = None) -> list[str | None]:
    """Convert a dataset's labels to class names.

    With `names`, integers are positions in `names`, and HIDDEN is no label. None, NaN and empty
    text are no label. 3.0 becomes "3".

    Raises:
        DataError: a label is no single class or not in `names`; the message names the first such
            image.
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
    """Convert a column of labels to class names, as `class_labels`; all None without a column.

    Raises:
        ConfigError: the column does not hold one class per image.
        DataError: as `class_labels`.
    """
    if column is None:
        return [None] * table.num_rows
    kind = table.schema.field(column).type
    if pa.types.is_nested(kind) or pa.types.is_temporal(kind):
        raise ConfigError(f"dataset.label_column: {column!r} holds {kind}, not one class per image")
    return class_labels(table[column].to_pylist(), names)


def number_duplicates(names: Iterable[str]) -> list[str]:
    """Make class names unique: a name that occurs more than once gets its position appended."""
    names = list(names)
    count = Counter(names)
    return [name if count[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def check_column(key: str, column: str | None, columns: list[str], place: str) -> None:
    """Check that a column exists; None is accepted.

    Raises:
        ConfigError: the column does not exist; the message lists the columns that do.
    """
    if column is not None and column not in columns:
        hint = "; null if there are no labels" if key == "dataset.label_column" else ""
        raise ConfigError(
            f"{key}: {place} has no column {column!r}, only {', '.join(columns)}{hint}"
        )


def box_mask(shape: tuple[int, ...], box: Sequence[float | None]) -> NDArray[np.uint8] | None:
    """Convert a box (x0, y0, x1, y1) in pixels to a mask (H, W), 255 in every pixel it touches.

    None if all sides are null.

    Raises:
        DecodeError: the box lacks a side, is empty or lies outside the image.
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
        raise DecodeError(f"its box ({text}) is empty or outside the {shape[1]} x {shape[0]} image")
    return mask


def object_mask(shape: tuple[int, ...], marked: ArrayLike) -> NDArray[np.uint8]:
    """Convert any array of the image's height and width to a mask (H, W), 255 where not zero.

    Raises:
        DecodeError: the mask has another size than the image.
    """
    mask = np.asarray(marked)
    if mask.ndim == 3:  # channels, at either end
        mask = np.any(mask, axis=0 if mask.shape[1:] == shape[:2] else 2)
    if mask.shape != shape[:2]:
        raise DecodeError(f"its mask has shape {mask.shape}, the image {shape[:2]}")
    return np.where(mask != 0, 255, 0).astype(np.uint8)


def printable(text: str) -> str:
    """Escape the bytes of a file name that are not valid UTF-8, so that any file can hold it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text  # the same object, because there may be millions


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
