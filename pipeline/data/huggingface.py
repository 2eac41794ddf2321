"""Hugging Face datasets on disk: Parquet files, or Arrow streams written by save_to_disk."""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import HuggingFaceDataset
from pipeline.data.decode import DecodeError, decode, read_file
from pipeline.data.source import (
    DecodedImage,
    Source,
    check_column,
    column_labels,
    distinct_labels,
    number_duplicates,
)
from pipeline.errors import ConfigError, DataError, one_line
from pipeline.storage.paths import protocol_of

STREAM = -1
"""Stands for the row group of an Arrow stream, which has none."""


@dataclass(frozen=True)
class SavedTable:
    """The files of one table.

    pieces are (file, row group or STREAM); starts are the row numbers at which the pieces begin.
    """

    files: list[str]
    pieces: list[tuple[str, int]]
    starts: list[int]
    schema: pa.Schema
    n_rows: int

    @property
    def streams(self) -> bool:
        """Whether the files are Arrow streams, not Parquet."""
        return bool(self.pieces) and self.pieces[0][1] == STREAM

    def select(self, columns: list[str]) -> pa.Table:
        """Read whole columns of all files."""
        tables = [
            _stream(name).select(columns) if self.streams else _parquet(name, columns)
            for name in self.files
        ]
        return pa.concat_tables(tables, promote_options="permissive")

    def value(self, column: str, index: int) -> Any:
        """Read one cell; its row group stays in memory, because the next rows are read next."""
        at = bisect.bisect_right(self.starts, index) - 1
        piece = _cached_piece(*self.pieces[at], column)
        return piece[column][index - self.starts[at]].as_py()


def saved_dataset(config: HuggingFaceDataset, max_pixels: int) -> Source:
    """Open a table with a column of encoded images.

    Raises:
        ConfigError: the path, split or a column does not exist or cannot be used.
        DataError: files are damaged or have different columns, or labels are outside the names.
    """
    if protocol_of(config.path) not in (None,):
        raise ConfigError(
            f"dataset.path: {config.path}: tables of images must be local files; copy the dataset "
            "to this machine, or list image files of the bucket with dataset=manifest"
        )
    if not Path(config.path).exists():
        raise ConfigError(f"dataset.path: there is no {config.path}")
    try:
        return _source(_open(Path(config.path), config.split), config, max_pixels)
    except (DataError, pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{config.path} cannot be read: {one_line(error)}") from error


def _source(saved: SavedTable, config: HuggingFaceDataset, max_pixels: int) -> Source:
    image, label = config.image_column, config.label_column
    for key in ("image_column", "label_column"):
        check_column(f"dataset.{key}", getattr(config, key), saved.schema.names, config.path)
    _check_images(saved.schema.field(image))
    names = _class_names(saved.schema, label)
    labels: list[str | None] = [None] * saved.n_rows
    if label is not None:
        labels = column_labels(saved.select([label]), label, names)
    others = [c.name for c in saved.schema if c.name not in (image, label) and _is_plain(c.type)]
    return Source(
        image_ids=_ids(saved, image),
        labels=labels,
        read=partial(_read, saved, image, max_pixels),
        class_names=names if names and any(labels) else distinct_labels(labels),
        metadata=saved.select(others) if others else None,
    )


def _read(saved: SavedTable, column: str, max_pixels: int, index: int) -> DecodedImage:
    cell = saved.value(column, index)
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not data and isinstance(cell, dict) and cell.get("path"):
        data = read_file(Path(cell["path"]))  # the datasets library may store the path alone
    if not data:
        raise DecodeError("the table holds no bytes of this image")
    return DecodedImage(decode(data, max_pixels))


def _open(path: Path, split: str | None) -> SavedTable:
    splits = path / "dataset_dict.json"
    if splits.is_file():
        names = json.loads(splits.read_text(encoding="utf-8"))["splits"]
        if split is None or split not in names:
            raise ConfigError(f"dataset.split: {path} has {', '.join(names)}, not {split!r}")
        path, split = path / split, None
    state = path / "state.json"
    if not state.is_file():
        return _open_parquet(path, split)
    saved = json.loads(state.read_text(encoding="utf-8"))
    if split not in (None, saved.get("_split")):
        raise ConfigError(f"dataset.split: {path} has split {saved.get('_split')}, not {split!r}")
    files = [str(path / entry["filename"]) for entry in saved["_data_files"]]
    if not files:
        raise DataError(f"no images in {path}")
    tables = [_stream(name) for name in files]
    pieces = [(name, STREAM, table.num_rows) for name, table in zip(files, tables, strict=True)]
    return _saved(files, pieces, [table.schema for table in tables])


def _open_parquet(path: Path, split: str | None) -> SavedTable:
    found = [path]
    if path.is_dir():
        found = [p.relative_to(path) for p in sorted(path.rglob("*.parquet"))]
        found = [path / p for p in found if not any(part.startswith(".") for part in p.parts)]
        if not found:
            raise ConfigError(f"dataset.path: {path} holds neither state.json nor Parquet files")
    chosen = [p for p in found if split is None or _is_of(split, p, path)]
    if not chosen:
        names = ", ".join(p.name for p in found[:10])
        raise ConfigError(f"dataset.split: no file in {path} is of the split {split!r}: {names}")
    footers = [(str(p), pq.read_metadata(p)) for p in chosen]
    groups = [
        (name, group, footer.row_group(group).num_rows)
        for name, footer in footers
        for group in range(footer.num_row_groups)
    ]
    schemas = [footer.schema.to_arrow_schema() for _, footer in footers]
    return _saved([name for name, _ in footers], groups, schemas)


def _is_of(split: str, file: Path, root: Path) -> bool:
    """Whether a file belongs to a split by the Hub's names: train-00000-of-00002, or in train/."""
    folders = file.relative_to(root).parts[:-1]
    return split in folders or file.stem == split or file.name.startswith(f"{split}-")


def _saved(
    files: list[str], pieces: list[tuple[str, int, int]], schemas: list[pa.Schema]
) -> SavedTable:
    for name, schema in zip(files, schemas, strict=True):
        if schema.names != schemas[0].names:
            raise DataError(f"{name} has other columns than {files[0]}")
    ends = list(accumulate((n_rows for _, _, n_rows in pieces), initial=0))
    starts = [(name, group) for name, group, _ in pieces]
    return SavedTable(files, starts, ends[:-1], schemas[0], ends[-1])


def _piece(name: str, group: int, column: str) -> pa.Table:
    if group == STREAM:
        return _stream(name).select([column])
    with pq.ParquetFile(name) as file:
        return file.read_row_group(group, columns=[column])


_cached_piece = lru_cache(maxsize=2)(_piece)


def _stream(name: str) -> pa.Table:
    """The table of an Arrow stream, mapped into memory."""
    with pa.memory_map(name) as mapped:
        return pa.ipc.open_stream(mapped).read_all()


def _parquet(name: str, columns: list[str]) -> pa.Table:
    with pq.ParquetFile(name) as file:
        return file.read(columns=columns)


def _check_images(column: pa.Field) -> None:
    kind = column.type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (_is_bytes(kind) or pa.types.is_null(kind)):
        raise ConfigError(
            f"dataset.image_column: {column.name!r} holds {column.type}, not encoded images"
        )


def _class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names of a ClassLabel column, from the metadata of the datasets library in the schema."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = noted.get("info", {}).get("features", {}).get(column) or {}
    names = feature.get("names") if isinstance(feature, dict) else None
    return number_duplicates(names) if names else None


def _ids(saved: SavedTable, column: str) -> list[str]:
    """The file names stored beside the bytes if they are unique, else the row numbers."""
    kind = saved.schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        names = _paths(saved, column)
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{row:08d}" for row in range(saved.n_rows)]


def _paths(saved: SavedTable, column: str) -> list[str]:
    names: list[str] = []
    for name in saved.files:
        # Only the column of paths is read, not the bytes.
        table = _stream(name) if saved.streams else _parquet(name, [f"{column}.path"])
        names += pc.struct_field(table[column], "path").to_pylist()
    return names


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _is_plain(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or _is_bytes(kind))
