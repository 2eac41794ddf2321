"""The digest in a Parquet file: whatever changes, it is noticed; readers of Parquet see nothing."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage import checksum

TABLE = pa.table({"index": range(50), "name": [f"n{i}" for i in range(50)], "x": np.arange(50.0)})


@pytest.fixture
def with_digest(tmp_path: Path) -> Path:
    path = tmp_path / "a=b" / "table.parquet"
    path.parent.mkdir()
    pq.write_table(TABLE, path, write_page_checksum=True)
    checksum.add_checksum(path)
    return path


def test_every_flipped_bit_is_noticed(with_digest: Path) -> None:
    content = with_digest.read_bytes()
    assert checksum.is_intact(with_digest) is True
    unnoticed = []
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        with_digest.write_bytes(changed)
        if checksum.is_intact(with_digest):
            unnoticed.append(place)
    assert unnoticed == []


def test_every_truncation_is_noticed(with_digest: Path) -> None:
    content = with_digest.read_bytes()
    for length in range(0, len(content), 3):
        with_digest.write_bytes(content[:length])
        assert not checksum.is_intact(with_digest)


def test_readers_of_parquet_see_the_table_alone(with_digest: Path) -> None:
    assert pq.read_table(with_digest, page_checksum_verification=True, partitioning=None).equals(
        TABLE
    )
    assert duckdb.sql(f"select sum(x) from '{with_digest}'").fetchall() == [(1225.0,)]


def test_a_file_that_was_never_closed_says_so(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "plain.parquet")
    assert checksum.is_intact(tmp_path / "plain.parquet") is None
