"""Many Parquet files of the same columns as one table, read a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.storage import files, parquet
from pipeline.storage.files import StoreError
from pipeline.storage.paths import filesystem, is_remote

if TYPE_CHECKING:
    from pyarrow.dataset import Dataset

PARTS_AHEAD = 16
"""Number of parts that may be in memory while rows are scanned."""


class Rows:
    """Committed parts as one table that is scanned by column; page checksums are checked."""

    def __init__(self, parts: list[Path], shard_size: int) -> None:
        self.parts, self.shard_size = parts, shard_size

    @property
    def schema(self) -> pa.Schema:
        """The schema of the first part.

        Raises:
            DataError: as `to_table`.
        """
        with self._damage_named():
            return _scannable(self.parts[:1]).schema

    def to_table(self, **scan: Any) -> pa.Table:
        """Columns of the rows that pass a filter, in planned order.

        Args:
            scan: columns and filter, as pyarrow.dataset.Dataset.to_table takes them.

        Raises:
            DataError: naming the part that is damaged.
        """
        with self._damage_named():
            return pa.concat_tables([some.to_table(**scan) for some in self._pieces()])

    def at(self, index: NDArray[np.int64], columns: list[str] | None) -> pa.Table:
        """Columns (None: all) of the rows at plan positions (n,), in planned order.

        Parts without such a row are not opened; a few parts are scanned at a time.

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
            own = pc.field("index").isin(pa.array(wanted[first:end]))
            found.append(parts.to_table(columns=columns, filter=own))
        return pa.concat_tables(found)

    def to_batches(self, **scan: Any) -> Iterator[pa.RecordBatch]:
        """As `to_table`, in batches; memory stays small, however slow the consumer is."""
        with self._damage_named():
            for some in self._pieces():
                yield from some.to_batches(**scan)

    def _pieces(self) -> Iterator[Dataset]:
        """Datasets of a few parts each.

        Given all parts at once, pyarrow keeps every footer, and reads ahead of a slow consumer
        until it holds all rows.
        """
        remote = bool(self.parts) and is_remote(self.parts[0])
        at_once = files.SIDE_BY_SIDE if remote else PARTS_AHEAD
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
                parquet.read(part)
            raise DataError(f"{self.parts[0].parent} cannot be read: {error}") from error


def _scannable(parts: list[Path]) -> Dataset:
    import pyarrow.dataset as ds  # noqa: PLC0415 - imports pandas, half a second

    checked = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    remote = is_remote(parts[0])
    return ds.dataset(
        [str(part) for part in parts],
        format=ds.ParquetFileFormat(default_fragment_scan_options=checked),
        filesystem=pa.fs.PyFileSystem(_Fetched(parts)) if remote else None,
    )


class _Fetched(pa.fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow is not typed
    """Parts of a bucket in memory, fetched at the same time.

    A part is small, a request is slow, and pyarrow would fetch one part after the other.
    """

    def __init__(self, parts: list[Path]) -> None:
        super().__init__(filesystem(parts[0]))
        with ThreadPoolExecutor(files.SIDE_BY_SIDE) as pool:
            self.contents = dict(zip(map(str, parts), pool.map(files.get, parts), strict=True))

    def normalize_path(self, path: str) -> str:
        """The URL, unchanged."""
        return path

    def open_input_file(self, path: str) -> pa.NativeFile:
        """The fetched part."""
        content = self.contents[path]
        if content is None:
            raise FileNotFoundError(f"{path} is not there")
        return pa.BufferReader(content)
