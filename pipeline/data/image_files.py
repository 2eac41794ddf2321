"""Datasets of image files: a folder per class, or a manifest."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.config import ImageFolder, Manifest
from pipeline.data.decode import DecodeError, decode
from pipeline.data.roots import Bucket, Folder, Root
from pipeline.data.source import (
    DecodedImage,
    Source,
    box_mask,
    check_column,
    column_labels,
    distinct_labels,
    object_mask,
    printable,
)
from pipeline.errors import ConfigError, DataError, NotFinished, one_line
from pipeline.storage import files, paths
from pipeline.storage.files import StoreError
from pipeline.storage.paths import to_path

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".jp2",
        ".avif",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    ]
)


def image_folder(config: ImageFolder, max_pixels: int) -> Source:
    """List every image file below a folder; the name of the first folder level is the label.

    Symbolic links are followed. Hidden files and folders are skipped.

    Raises:
        ConfigError: the folder does not exist.
        DataError: a folder cannot be listed.
    """
    root = _root("dataset.root", config.root)
    names, ignored = [], Counter[str]()
    for name in root.walk():
        suffix = Path(name).suffix.lower()
        if suffix in SUFFIXES:
            names.append(name)
        else:
            ignored[printable(suffix) or "without suffix"] += 1
    names.sort()
    label_of = {name: printable(name) for name in root.folders()}
    labels = [label_of[name.split("/", 1)[0]] if "/" in name else None for name in names]
    used = set(labels)
    empty = sorted(name for name, label in label_of.items() if label not in used)
    named = ", ".join(map(printable, empty[:10])) + (", ..." if len(empty) > 10 else "")
    note = f"{len(empty)} folders without an image are no classes: {named}"
    return Source(
        image_ids=[printable(name) for name in names],
        labels=labels,
        read=partial(_read, root, names, max_pixels),
        version=partial(_version, root, names),
        class_names=distinct_labels(labels),
        ignored=dict(sorted(ignored.items(), key=lambda item: (-item[1], item[0]))),
        warnings=[note] if empty else [],
    )


def manifest(config: Manifest, max_pixels: int) -> Source:
    """List the images of a table; columns without a role become metadata.

    Raises:
        ConfigError: the table cannot be read, or a column does not exist or has a wrong type.
        DataError: a row has no path, or a label that is no class.
    """
    table = _manifest_table(config)
    names = [name or "" for name in _texts(table, "path_column", config.path_column)]
    if "" in names:
        row = names.index("") + 1
        raise DataError(f"{config.path}: row {row} has no {config.path_column}")
    try:
        labels = column_labels(table, config.label_column)
    except DataError as error:
        raise DataError(f"{config.path}: {error}") from error
    mask_column, box_columns = config.mask_column, config.box_columns or []
    objects: dict[str, Any] = {
        "boxes": _boxes(table, box_columns) if box_columns else None,
        "masks": _texts(table, "mask_column", mask_column) if mask_column else None,
    }
    used = [*names, *(mask for mask in objects["masks"] or [] if mask)]
    used = [name for name in used if not paths.protocol_of(name)]
    root = _root("dataset.root", config.root or str(to_path(config.path).parent), used)
    roles = {config.path_column, config.label_column, config.mask_column, *box_columns}
    others = [column for column in table.column_names if column not in roles]
    return Source(
        image_ids=names,
        labels=labels,
        read=partial(_read, root, names, max_pixels, **objects),
        version=partial(_version, root, names, **objects),
        class_names=distinct_labels(labels),
        metadata=table.select(others) if others else None,
    )


def _read(
    root: Root,
    names: list[str],
    max_pixels: int,
    index: int,
    *,
    boxes: list[tuple[float | None, ...]] | None = None,
    masks: list[str | None] | None = None,
) -> DecodedImage:
    pixels = decode(root.read(names[index]), max_pixels)
    mask = masks[index] if masks else None
    if mask:
        try:
            marked = decode(root.read(mask), max_pixels)
        except DecodeError as error:
            raise DecodeError(f"its mask {mask}: {error}") from error
        return DecodedImage(pixels, object_mask(pixels.shape, marked))
    return DecodedImage(pixels, box_mask(pixels.shape, boxes[index]) if boxes else None)


def _version(
    root: Root,
    names: list[str],
    index: int,
    content: bool,  # noqa: FBT001 - Source.version passes it by position
    *,
    boxes: list[tuple[float | None, ...]] | None = None,
    masks: list[str | None] | None = None,
) -> str | None:
    """The version of an image: size and time, or a hash, of its file and mask file, and its box."""
    used = [names[index], *([mask] if masks and (mask := masks[index]) else [])]
    try:
        stamps = [_content(root, name) if content else root.stamp(name) for name in used]
    except (OSError, ValueError, LookupError):
        return None
    return " ".join(stamps + ([str(boxes[index])] if boxes else []))


def _content(root: Root, name: str) -> str:
    return hashlib.sha256(root.content(name)).hexdigest()


def _root(key: str, path: str, names: list[str] | None = None) -> Root:
    """Open the folder or bucket of a setting; in a bucket only the names' folder is listed."""
    folder = to_path(path)
    local = paths.local_path(folder)
    if local is None:
        return _bucket(key, str(folder), _common(names or []))
    if not local.is_dir():
        raise ConfigError(f"{key}: {path} is not a folder")
    return Folder(local)


def _common(names: list[str]) -> str:
    """The folder that all names have in common."""
    first, last = min(names, default=""), max(names, default="")
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[:same].rpartition("/")[0]


def _bucket(key: str, url: str, below: str = "") -> Bucket:
    try:
        return Bucket(url, below)
    except StoreError as error:
        raise _failed(key, error) from error


def _failed(key: str, error: StoreError) -> ConfigError | NotFinished:
    kind = NotFinished if files.is_unreachable(error) else ConfigError
    return kind(f"{key}: {error}")


def _manifest_table(config: Manifest) -> pa.Table:
    path = to_path(config.path)
    try:
        there = files.is_file(path)
    except StoreError as error:
        raise _failed("dataset.path", error) from error
    if not there:
        raise ConfigError(f"dataset.path: there is no file {path}")
    if config.box_columns and len(config.box_columns) != 4:
        raise ConfigError("dataset.box_columns: needs the four columns x0, y0, x1, y1")
    text = [config.path_column, config.label_column, config.mask_column]
    try:
        with files.fetched(path) as copy:
            table = (
                pq.read_table(copy, partitioning=None)  # a folder called a=b is no column
                if path.suffix.lower() in (".parquet", ".pq")
                else _read_csv(copy, [column for column in text if column])
            )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"dataset.path: {path} cannot be read: {one_line(error)}") from error
    twice = [name for name, count in Counter(table.column_names).items() if count > 1]
    if twice:
        raise ConfigError(f"dataset.path: {path} has columns of the same name: {', '.join(twice)}")
    for key in ("path_column", "label_column", "mask_column"):
        check_column(f"dataset.{key}", getattr(config, key), table.column_names, config.path)
    for column in config.box_columns or []:
        check_column("dataset.box_columns", column, table.column_names, config.path)
    return table


def _read_csv(path: Path, text: list[str]) -> pa.Table:
    """Read a CSV file whose separator is a comma, semicolon or tab, by its first line."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        separator = max(",;\t", key=lines.readline().count)
    # pyarrow infers types from the first block, so one block holds the whole file: a column of
    # numbers may end in words.
    whole = min(path.stat().st_size + 1, 2**31 - 1)
    return pa.csv.read_csv(
        path,
        read_options=pa.csv.ReadOptions(block_size=whole),
        parse_options=pa.csv.ParseOptions(delimiter=separator, newlines_in_values=True),
        # Paths and labels are read as text: "007" is no number.
        convert_options=pa.csv.ConvertOptions(column_types=dict.fromkeys(text, pa.string())),
    )


def _texts(table: pa.Table, key: str, column: str) -> list[str | None]:
    try:
        return table[column].cast(pa.string()).to_pylist()  # type: ignore[no-any-return]
    except pa.ArrowException as error:
        kind = table.schema.field(column).type
        raise ConfigError(f"dataset.{key}: {column!r} holds {kind}, not paths") from error


def _boxes(table: pa.Table, columns: list[str]) -> list[tuple[float | None, ...]]:
    try:
        sides = [table[name].cast(pa.float64()).to_pylist() for name in columns]
    except pa.ArrowException as error:
        raise ConfigError(f"dataset.box_columns: not all are numbers: {one_line(error)}") from error
    return list(zip(*sides, strict=True))
