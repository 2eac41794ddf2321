"""Hugging Face datasets on disk: Parquet files, or the Arrow streams of save_to_disk."""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import HuggingFaceDataset
from pipeline.decode import DecodeError, decode
from pipeline.errors import ConfigError, DataError
from pipeline.sources.source import Picture, Source, check_column, column_labels, distinct

STREAM = -1


@dataclass(frozen=True)
class Saved:
    """Files of one table; pieces are (file, row group or STREAM), starts their first rows."""

    pieces: list[tuple[str, int]]
    starts: list[int]
    schema: pa.Schema
    n_rows: int

    def select(self, columns: list[str]) -> pa.Table:
        """Whole columns, of all files."""
        return pa.concat_tables(_piece(*piece, tuple(columns)) for piece in self.pieces)

    def value(self, column: str, index: int) -> Any:
        """One cell; its row group stays in memory, as neighbours are read next."""
        at = bisect.bisect_right(self.starts, index) - 1
        piece = _cached_piece(*self.pieces[at], (column,))
        return piece[column][index - self.starts[at]].as_py()


def saved_dataset(config: HuggingFaceDataset, _max_pixels: int) -> Source:
    """Images that stand encoded in a column of a table."""
    saved = _open(config)
    for key in ("image_column", "label_column"):
        check_column(f"dataset.{key}", getattr(config, key), saved.schema.names, config.path)
    names = _class_names(saved.schema, config.label_column)
    if config.label_column is None:
        labels: list[str | None] = [None] * saved.n_rows
    else:
        labels = column_labels(saved.select([config.label_column]), config.label_column)
    if names:  # ClassLabel holds numbers, -1 where a label is hidden
        labels = [None if label in (None, "-1") else names[int(label)] for label in labels]
    roles = (config.image_column, config.label_column)
    others = [c.name for c in saved.schema if c.name not in roles and _is_plain(c.type)]
    return Source(
        image_ids=_ids(saved, config.image_column),
        labels=labels,
        read=partial(_read, saved, config.image_column, _max_pixels),
        class_names=names or distinct(labels),
        metadata=saved.select(others) if others else None,
    )


def _read(saved: Saved, column: str, max_pixels: int, index: int) -> Picture:
    cell = saved.value(column, index)
    data = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(data, bytes) or not data:
        raise DecodeError("the table holds no bytes for it")
    return Picture(decode(data, max_pixels))


def _open(config: HuggingFaceDataset) -> Saved:
    path = Path(config.path)
    if not path.exists():
        raise ConfigError(f"dataset.path: there is no {path}")
    splits = path / "dataset_dict.json"
    if splits.is_file():
        names = json.loads(splits.read_text())["splits"]
        if config.split is None or config.split not in names:
            raise ConfigError(f"dataset.split: {config.split!r} is none of {', '.join(names)}")
        path = path / config.split
    try:
        return _open_stream(path) if (path / "state.json").is_file() else _open_parquet(path)
    except (pa.ArrowInvalid, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _open_stream(folder: Path) -> Saved:
    state = json.loads((folder / "state.json").read_text())
    files = [str(folder / entry["filename"]) for entry in state["_data_files"]]
    return _saved(
        [(name, STREAM, _stream(name).num_rows) for name in files], _stream(files[0]).schema
    )


def _open_parquet(path: Path) -> Saved:
    files = sorted(map(str, path.rglob("*.parquet"))) if path.is_dir() else [str(path)]
    if not files:
        raise ConfigError(f"dataset.path: {path} holds neither state.json nor Parquet files")
    groups = []
    for name in files:
        footer = pq.read_metadata(name)
        for group in range(footer.num_row_groups):
            groups.append((name, group, footer.row_group(group).num_rows))
    return _saved(groups, pq.read_schema(files[0]))


def _saved(pieces: list[tuple[str, int, int]], schema: pa.Schema) -> Saved:
    starts, total = [], 0
    for _, _, n_rows in pieces:
        starts.append(total)
        total += n_rows
    return Saved([(name, group) for name, group, _ in pieces], starts, schema, total)


def _piece(name: str, group: int, columns: tuple[str, ...]) -> pa.Table:
    if group == STREAM:
        return _stream(name).select(list(columns))
    return pq.ParquetFile(name).read_row_group(group, columns=list(columns))


_cached_piece = lru_cache(maxsize=2)(_piece)


def _stream(name: str) -> pa.Table:
    """The table of an Arrow stream, mapped into memory, not read."""
    with pa.memory_map(name) as mapped:
        return pa.ipc.open_stream(mapped).read_all()


def _class_names(schema: pa.Schema, column: str | None) -> list[str] | None:
    """Names of a ClassLabel column, from what the datasets library notes in the schema."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = noted.get("info", {}).get("features", {}).get(column) or {}
    return feature.get("names") if isinstance(feature, dict) else None


def _ids(saved: Saved, column: str) -> list[str]:
    """The file names that stand beside the bytes, or where they are no key, the row numbers."""
    kind = saved.schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
        names = _paths(saved, column)
        if all(names) and len(set(names)) == len(names):
            return names
    return [f"{row:08d}" for row in range(saved.n_rows)]


def _paths(saved: Saved, column: str) -> list[str]:
    names: list[str] = []
    for name, group in saved.pieces:
        if group == STREAM:
            paths = pa.chunked_array(
                [chunk.field("path") for chunk in _stream(name)[column].chunks], pa.string()
            )
        else:
            # Asking for the leaf alone leaves the bytes unread.
            table = pq.ParquetFile(name).read_row_group(group, columns=[f"{column}.path"])
            paths = pa.compute.struct_field(table[column], "path")
        names += paths.to_pylist()
    return names


def _is_plain(kind: pa.DataType) -> bool:
    return not (
        pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    )
