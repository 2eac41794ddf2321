"""Tables as Parquet files, in a folder or a bucket: committed as a whole, checked when read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import DataError, NotFinished, one_line
from pipeline.storage import atomic, checksum, files
from pipeline.storage.paths import is_remote

READS_FIXED_LISTS = int(pa.__version__.split(".")[0]) >= 26
"""Before version 26, pyarrow writes lists of fixed size that are null, but cannot read them."""


def write(table: pa.Table, path: Path) -> None:
    """Commit a table as a whole.

    The first two columns, which identify the rows, are read back and compared before the commit.

    Raises:
        DataError: the file reads back as another table.
        OSError: disk full, folder read-only, bucket out of reach; nothing is left behind.
    """
    write_groups([table], table.schema, path)


def write_groups(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> None:
    """Commit a table whose parts are made one after another, each as a row group; see `write`."""
    if is_remote(path):
        files.put(path, _file_content(tables, schema, path))
        return
    with atomic.drafted(path) as draft:
        keys = _write_parquet(tables, schema, draft)
        checksum.add_checksum(draft)
        if not read(draft, keys.column_names).equals(keys):
            raise DataError(f"{path}: what was written reads back as something else")


def _file_content(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> bytes:
    """The bytes of a table's file, read back and compared in memory."""
    made = pa.BufferOutputStream()
    keys = _write_parquet(tables, schema, made)
    content = checksum.with_checksum(made.getvalue().to_pybytes())
    if not _parsed(content, path, keys.column_names).equals(keys):
        raise DataError(f"{path}: what was written reads back as something else")
    return content


def _write_parquet(
    tables: Iterable[pa.Table], schema: pa.Schema, where: Path | pa.NativeFile
) -> pa.Table:
    """Write a file, and return its first two columns."""
    stored, names = stored_schema(schema), schema.names[:2]
    keys = [schema.empty_table().select(names)]
    with pq.ParquetWriter(
        where, stored, compression="zstd", write_page_checksum=True, **_encodings(stored)
    ) as writer:
        for table in tables:
            writer.write_table(table.cast(stored))
            keys.append(table.select(names))
    return pa.concat_tables(keys)


def _encodings(schema: pa.Schema) -> dict[str, object]:
    """Arguments of pyarrow.parquet.write_table that choose the encoding of each column.

    Floats are split into bytes, which zstd compresses better; texts and integers get dictionaries
    and statistics. Dictionaries and statistics of floats would double the time of writing.
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
    """The schema that this pyarrow can read back: plain lists for fixed-size lists before 26."""
    if READS_FIXED_LISTS:
        return schema
    plain = [
        field.with_type(pa.list_(field.type.value_type))
        if pa.types.is_fixed_size_list(field.type)
        else field
        for field in schema
    ]
    return pa.schema(plain, schema.metadata)


def read(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a committed table; checksum and page checksums are checked.

    Raises:
        NotFinished: the stage that writes the table has not run.
        DataError: the file is damaged.
    """
    return _parsed(_existing_file(path), path, columns)


@dataclass(frozen=True)
class RowGroups:
    """A committed table that is read by the values of a column, so that it is not held whole.

    Attributes:
        file: the open file.
        path: of the file.
        key: name of the column.
        groups: the row groups that hold each value of the column.
    """

    file: pq.ParquetFile
    path: Path
    key: str
    groups: dict[str, list[int]]

    @classmethod
    def open(cls, path: Path, key: str) -> RowGroups:
        """Open a table; its checksum is checked.

        Args:
            path: of the table.
            key: a text column.

        Raises:
            NotFinished: the stage that writes the table has not run.
            DataError: the file is damaged.
        """
        file = _existing_file(path)
        keys = _parsed(file, path, [key])
        source = pa.BufferReader(file) if isinstance(file, bytes) else file
        opened = pq.ParquetFile(source, page_checksum_verification=True)
        groups: dict[str, list[int]] = {}
        start = 0
        for number in range(opened.num_row_groups):
            n_rows = opened.metadata.row_group(number).num_rows
            for value in keys[0].slice(start, n_rows).unique().to_pylist():
                groups.setdefault(value, []).append(number)
            start += n_rows
        return cls(opened, path, key, groups)

    def rows(self, value: str) -> pa.Table:
        """Read the rows with a value in the column.

        Raises:
            DataError: the file was damaged after it was opened.
        """
        try:
            table = self.file.read_row_groups(self.groups[value])
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error
        return table.filter(pc.equal(table[self.key], value))


def _parsed(file: Path | bytes, path: Path, columns: list[str] | None) -> pa.Table:
    """The table in a file or in the bytes of a file, as `read`."""
    try:
        if checksum.is_intact(file) is False:
            raise ValueError("its bytes are not those that were written")
        return pq.read_table(
            pa.BufferReader(file) if isinstance(file, bytes) else file,
            columns=columns,
            page_checksum_verification=True,
            partitioning=None,  # older pyarrow takes a folder called a=b for a column
        )
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: a name is no UTF-8
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    reason = one_line(error, with_type=False, first_line_only=True)
    return DataError(f"{path} is damaged: {reason}; delete it and run its stage again")


def is_intact(path: Path) -> bool | None:
    """Whether every byte of a table's file is that of its commit; nothing parses the file.

    None if there is no such file.
    """
    file = _file(path)
    return None if file is None else bool(checksum.is_intact(file))


def _existing_file(path: Path) -> Path | bytes:
    """The file as `_file`; NotFinished is raised where there is none."""
    file = _file(path)
    if file is None:
        raise NotFinished(f"{path} is not there yet; run the stage that writes it first")
    return file


def _file(path: Path) -> Path | bytes | None:
    """The path of a file on this machine, the bytes of a file in a bucket, or None."""
    if is_remote(path):
        return files.get(path)
    return path if path.is_file() else None
