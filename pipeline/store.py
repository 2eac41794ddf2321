"""The tables of a run, on disk or in a bucket: commit, list, read and check.

Nothing else writes data.

A committed part is its own marker: it counts when its footer parses and carries the plan's
fingerprint and rows. There is no second record of what is done.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import places, seal
from pipeline.errors import ConfigError, DataError, NotFinished
from pipeline.places import StoreError
from pipeline.schema import Setup

log = logging.getLogger(__name__)

READS_FIXED_LISTS = int(pa.__version__.split(".")[0]) >= 26
"""Before version 26, pyarrow writes lists of fixed size that are null, but cannot read them."""
PARTS_AHEAD = 16
"""Parts that may be in memory while rows are scanned."""
TAIL = 2**16
"""Bytes at the end of an object that are asked for first: mostly they hold the whole footer."""


@dataclass(frozen=True)
class Plan:
    """The planned images and what was decided for them."""

    table: pa.Table
    setup: Setup


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run stand."""

    path: Path

    @property
    def plan(self) -> Path:
        """The plan of the run."""
        return self.path / "plan.parquet"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.path / "report"

    def part(self, shard: int) -> Path:
        """The part that a shard is committed to."""
        return self.path / "parts" / f"part-{shard:05d}.parquet"

    def analysis(self, name: str) -> Path:
        """A table of the analysis, by its name."""
        return self.path / "analysis" / f"{name}.parquet"


class Rows:
    """Committed parts as one table, to be scanned by column; page checksums are verified."""

    def __init__(self, parts: list[Path], shard_size: int) -> None:
        self.parts, self.shard_size = parts, shard_size

    @property
    def schema(self) -> pa.Schema:
        """Of the first part.

        Raises:
            DataError: as `to_table`.
        """
        with self._damage_named():
            return _scannable(self.parts[:1]).schema

    def to_table(self, **scan: Any) -> pa.Table:
        """The columns and the rows passing the filter, in planned order, as pyarrow's to_table.

        Raises:
            DataError: naming the part that is damaged.
        """
        with self._damage_named():
            return pa.concat_tables([some.to_table(**scan) for some in self._pieces()])

    def at(self, index: NDArray[np.int64], columns: list[str] | None) -> pa.Table:
        """Columns (None: all) of the rows at plan positions (n,), in planned order.

        Other parts stay closed, and each few are asked for their own positions alone.

        Raises:
            DataError: as `to_table`.
        """
        wanted = np.sort(index)
        shard = wanted // self.shard_size
        shards = np.unique(shard) if len(shard) else np.zeros(1, np.int64)
        found = []
        for some in np.split(shards, range(PARTS_AHEAD, len(shards), PARTS_AHEAD)):
            first, end = np.searchsorted(shard, [some[0], some[-1] + 1])
            parts = Rows([self.parts[number] for number in some.tolist()], self.shard_size)
            own = ds.field("index").isin(pa.array(wanted[first:end]))
            found.append(parts.to_table(columns=columns, filter=own))
        return pa.concat_tables(found)

    def to_batches(self, **scan: Any) -> Iterator[pa.RecordBatch]:
        """As `to_table`, in pieces that need little memory, however slowly they are taken."""
        with self._damage_named():
            for some in self._pieces():
                yield from some.to_batches(**scan)

    def _pieces(self) -> Iterator[ds.Dataset]:
        """A few parts at a time: of many, pyarrow would keep all footers, and read ahead of a slow
        taker until it holds all rows.
        """
        remote = bool(self.parts) and places.is_remote(self.parts[0])
        at_once = places.SIDE_BY_SIDE if remote else PARTS_AHEAD
        for start in range(0, len(self.parts), at_once):
            yield _scannable(self.parts[start : start + at_once])

    @contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:  # they do not say which file
            for part in self.parts:
                read(part)
            raise DataError(f"{self.parts[0].parent} cannot be read: {error}") from error


def _scannable(parts: list[Path]) -> ds.Dataset:
    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    remote = places.is_remote(parts[0])
    return ds.dataset(
        [str(part) for part in parts],
        format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
        filesystem=pa.fs.PyFileSystem(_Fetched(parts)) if remote else None,
    )


class _Fetched(pa.fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow is not typed
    """Parts in memory, all asked for at once: a part is small, every request is slow, and pyarrow
    would ask for one after the other.
    """

    def __init__(self, parts: list[Path]) -> None:
        super().__init__(places.filesystem(parts[0]))
        with ThreadPoolExecutor(places.SIDE_BY_SIDE) as pool:
            self.contents = dict(zip(map(str, parts), pool.map(places.get, parts), strict=True))

    def normalize_path(self, path: str) -> str:
        """A URL as it is."""
        return path

    def open_input_file(self, path: str) -> pa.NativeFile:
        """The part in memory."""
        content = self.contents[path]
        if content is None:
            raise FileNotFoundError(f"{path} is not there")
        return pa.BufferReader(content)


def write(table: pa.Table, path: Path) -> None:
    """Commit a table: it is there whole, or not at all.

    Its first two columns, which tell its rows apart, are read back and compared.

    Raises:
        DataError: where what was written reads back as something else.
        OSError: disk full, folder read-only, bucket out of reach; nothing is left behind.
    """
    if places.is_remote(path):
        places.put(path, _sealed(table, path))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # a dot hides it from readers
    try:
        _write_parquet(table, draft)
        seal.close(draft)
        keys = table.column_names[:2]
        if not read(draft, keys).equals(table.select(keys)):
            raise DataError(f"{path}: what was written reads back as something else")
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def _sealed(table: pa.Table, path: Path) -> bytes:
    """A table as the bytes of its file, read back and compared in memory."""
    made = pa.BufferOutputStream()
    _write_parquet(table, made)
    content = seal.closed(made.getvalue().to_pybytes())
    keys = table.column_names[:2]
    if not _parsed(content, path, keys).equals(table.select(keys)):
        raise DataError(f"{path}: what was written reads back as something else")
    return content


def _write_parquet(table: pa.Table, where: Path | pa.NativeFile) -> None:
    stored = table.cast(stored_schema(table.schema))
    pq.write_table(
        stored, where, compression="zstd", write_page_checksum=True, **_encodings(stored.schema)
    )


def write_text(text: str, path: Path, mode: int | None = None) -> None:
    """Replace a small text file as a whole; mode, where given, says who may read it.

    Raises:
        OSError: disk full, folder read-only, bucket out of reach; what was there stays.
    """
    if places.is_remote(path):
        places.put(path, text.encode())
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="utf-8")
        if mode is not None:
            draft.chmod(mode)
        sync(draft)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink()
        raise


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """How pyarrow shall encode columns: floats byte by byte, which zstd packs better, texts and
    integers as dictionaries and with statistics. Both on floats would double the time of writing.
    """
    split = []
    for field in schema:
        is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        if pa.types.is_floating(field.type.value_type if is_list else field.type):
            split.append(f"{field.name}.list.element" if is_list else field.name)
    floats = {path.split(".")[0] for path in split}
    others = [name for name in schema.names if name not in floats]
    return {
        "column_encoding": dict.fromkeys(split, "BYTE_STREAM_SPLIT"),
        "use_dictionary": others,
        "write_statistics": others,
    }


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """A schema as this pyarrow can read it back: before 26, lists of fixed size are plain lists."""
    if READS_FIXED_LISTS:
        return schema
    plain = [
        field.with_type(pa.list_(field.type.value_type))
        if pa.types.is_fixed_size_list(field.type)
        else field
        for field in schema
    ]
    return pa.schema(plain, schema.metadata)


def sync(path: Path) -> None:
    """Flush a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """A committed table, its digest and page checksums verified.

    Raises:
        NotFinished: where the stage that writes it has not run.
        DataError: where the file is damaged.
    """
    content = places.get(path) if places.is_remote(path) else None
    if content is None and (places.is_remote(path) or not path.is_file()):
        raise NotFinished(f"{path} is not there yet; run the stage that writes it first")
    if content is not None:
        return _parsed(content, path, columns)
    try:
        if seal.is_whole(path) is False:
            raise ValueError("its bytes are not those that were written")
        # partitioning: older pyarrow takes a folder called a=b for a column
        return pq.read_table(
            path, columns=columns, page_checksum_verification=True, partitioning=None
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name is no UTF-8
        raise DataError(
            f"{path} is damaged: {_first_line(error)}; delete it and run its stage again"
        ) from error


def _parsed(content: bytes, path: Path, columns: list[str] | None) -> pa.Table:
    """The table in the bytes of a file, as `read`."""
    try:
        if seal.are_whole(content) is False:
            raise ValueError("its bytes are not those that were written")
        return pq.read_table(
            pa.BufferReader(content), columns=columns, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            f"{path} is damaged: {_first_line(error)}; delete it and run its stage again"
        ) from error


def read_plan(run: RunFolder, columns: list[str] | None = None) -> Plan:
    """The plan of a run; without columns (an empty list) its footer alone is read.

    Raises:
        NotFinished, DataError: as `read`.
        ConfigError: where another version of camaudit wrote it.
    """
    table = read(run.plan, columns)
    try:
        return Plan(table, Setup.from_metadata(table.schema.metadata))
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{run.plan} was not written by this version; start a new run_id"
        ) from error


def planned(run: RunFolder) -> Rows:
    """The plan of a run, which may be long, to be scanned by column as the parts are."""
    return Rows([run.plan], shard_size=sys.maxsize)


def write_plan(run: RunFolder, plan: Plan) -> None:
    """Commit the plan with its setup in the metadata."""
    write(plan.table.replace_schema_metadata(plan.setup.to_metadata()), run.plan)


def commit_part(run: RunFolder, setup: Setup, shard: int, table: pa.Table) -> None:
    """Commit the rows of one shard.

    Raises:
        DataError: where they are not the shard's planned rows.
    """
    if table["index"].to_pylist() != list(setup.rows(shard)):
        raise DataError(f"shard {shard}: its rows are not the planned ones")
    write(table.replace_schema_metadata(setup.to_metadata()), run.part(shard))


def is_committed(run: RunFolder, setup: Setup, shard: int) -> bool:
    """Whether the part of a shard is there and belongs to this plan, from its footer alone."""
    path = run.part(shard)
    place = _footer(path) if places.is_remote(path) else path if path.is_file() else None
    if place is None:
        return False
    try:
        with pq.ParquetFile(place) as part:
            footer, schema = part.metadata, part.schema_arrow
        planned = setup.rows(shard)
        rows = footer.num_rows == len(planned)
        fits = Setup.from_metadata(schema.metadata).fingerprint == setup.fingerprint
        groups = range(footer.num_row_groups)
        bounds = [footer.row_group(group).column(0).statistics for group in groups]
        in_place = bool(bounds) and (bounds[0].min, bounds[-1].max) == (planned[0], planned[-1])
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is damaged and is computed again: %s", path, _first_line(error))
        return False
    if not (rows and fits and in_place):
        log.warning("%s does not belong to this plan and is computed again", path)
    return rows and fits and in_place


def _footer(path: Path) -> pa.NativeFile | None:
    """The end of an object, from which its footer can be read; None where there is no object.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    tail = places.get(path, last=TAIL)
    if tail is not None and len(tail) == TAIL:
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if TAIL < needed < 2**28:  # else it is no footer, which is found out when it is parsed
            tail = places.get(path, last=needed)
    return None if tail is None else pa.BufferReader(tail)


def missing_shards(run: RunFolder, setup: Setup, shards: Iterable[int] | None = None) -> list[int]:
    """Those of the shards (None: all) that have no committed part yet, as their footers say."""
    shards = range(setup.n_shards) if shards is None else shards
    return _without(lambda shard: is_committed(run, setup, shard), run, shards)


def verify(run: RunFolder, setup: Setup, shards: Iterable[int] | None = None) -> list[int]:
    """Those of the shards (None: all) whose part is missing or not as it was committed.

    Every byte is read again.
    """
    shards = range(setup.n_shards) if shards is None else shards
    return _without(
        lambda shard: _is_sealed(run.part(shard)) and is_committed(run, setup, shard), run, shards
    )


def _without(holds: Callable[[int], bool], run: RunFolder, shards: Iterable[int]) -> list[int]:
    """Shards for which something does not hold; a bucket is asked for many at a time."""
    if not places.is_remote(run.path):
        return [shard for shard in shards if not holds(shard)]
    shards = list(shards)
    there = {part.name for part in places.names(run.part(0).parent, "part-*.parquet")}
    with ThreadPoolExecutor(places.SIDE_BY_SIDE) as pool:
        asked = [shard for shard in shards if run.part(shard).name in there]
        held = {shard for shard, good in zip(asked, pool.map(holds, asked), strict=True) if good}
    return [shard for shard in shards if shard not in held]


def _is_sealed(part: Path) -> bool:
    """Whether a part is whole, before anything parses it; one that is missing says nothing."""
    if places.is_remote(part):
        content = places.get(part)
        whole = None if content is None else seal.are_whole(content)
        if content is None:
            return False
    elif not part.is_file():
        return False
    else:
        whole = seal.is_whole(part)
    if not whole:
        log.warning("%s is damaged and is computed again: its bytes changed", part)
    return bool(whole)


def rows(run: RunFolder, setup: Setup) -> Rows:
    """All rows of a finished explain stage, to be scanned by column.

    Raises:
        NotFinished: naming the shards that are missing.
    """
    missing = missing_shards(run, setup)
    if missing:
        raise NotFinished(
            f"{len(missing)} of {setup.n_shards} parts are missing (first: part-{missing[0]:05d}); "
            "run the explain stage first"
        )
    return Rows([run.part(shard) for shard in range(setup.n_shards)], setup.shard_size)


def sweep(run: RunFolder) -> None:
    """Remove what dead attempts left half-written; the caller holds the run's lock."""
    for folder in (run.path, run.part(0).parent, run.analysis("").parent):
        for draft in places.names(folder, ".*.tmp"):
            places.remove(draft)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
