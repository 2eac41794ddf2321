"""The files of a run: its plan, its parts, its tables. Nothing else writes data.

A committed part is its own marker: it counts when its footer parses and carries the plan's
fingerprint and rows. There is no second record of what is done.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, DataError, NotFinished, one_line
from pipeline.storage import files
from pipeline.storage.parquet import is_intact, read, write
from pipeline.storage.paths import is_remote
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows

log = logging.getLogger(__name__)

TAIL = 2**16
"""Bytes at the end of an object that the first request reads: mostly the whole footer."""


@dataclass(frozen=True)
class Plan:
    """The planned images (plan_schema) and the setup of the run."""

    table: pa.Table
    setup: Setup


@dataclass(frozen=True)
class RunFolder:
    """The paths of the files of a run."""

    path: Path

    @property
    def plan(self) -> Path:
        """The plan of the run."""
        return self.path / "plan.parquet"

    @property
    def record(self) -> Path:
        """run.json, the record of all attempts."""
        return self.path / "run.json"

    @property
    def report(self) -> Path:
        """The folder of the report."""
        return self.path / "report"

    def part(self, shard: int) -> Path:
        """The committed part of a shard."""
        return self.path / "parts" / f"part-{shard:05d}.parquet"

    def analysis(self, name: str) -> Path:
        """A table in the folder analysis, by its name."""
        return self.path / "analysis" / f"{name}.parquet"


def read_plan(run: RunFolder, columns: list[str] | None = None) -> Plan:
    """Read the plan of a run; an empty list of columns reads its footer alone.

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
    """The plan of a run as rows that are scanned by column, as it may be long."""
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
    """Whether the part of a shard exists and belongs to this plan; reads its footer alone."""
    path = run.part(shard)
    place = _footer(path) if is_remote(path) else path if path.is_file() else None
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
        reason = one_line(error, with_type=False, first_line_only=True)
        log.warning("%s is damaged and is computed again: %s", path, reason)
        return False
    if not (rows and fits and in_place):
        log.warning("%s does not belong to this plan and is computed again", path)
    return rows and fits and in_place


def _footer(path: Path) -> pa.NativeFile | None:
    """The end of an object, which holds its footer; None if there is no object.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    tail = files.get(path, last=TAIL)
    if tail is not None and len(tail) == TAIL:
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if TAIL < needed < 2**28:  # else it is no footer, which is found out when it is parsed
            tail = files.get(path, last=needed)
    return None if tail is None else pa.BufferReader(tail)


def missing_shards(run: RunFolder, setup: Setup, shards: Iterable[int] | None = None) -> list[int]:
    """Those of the shards (None: all) without a committed part, judged by the footers alone."""
    shards = range(setup.n_shards) if shards is None else shards
    return _without(lambda shard: is_committed(run, setup, shard), run, shards)


def verify(run: RunFolder, setup: Setup, shards: Iterable[int] | None = None) -> list[int]:
    """Those of the shards (None: all) whose part is missing or has changed since its commit.

    Every byte of the parts is read.
    """
    shards = range(setup.n_shards) if shards is None else shards
    return _without(
        lambda shard: _is_intact(run.part(shard)) and is_committed(run, setup, shard), run, shards
    )


def _without(holds: Callable[[int], bool], run: RunFolder, shards: Iterable[int]) -> list[int]:
    """Shards for which a condition does not hold; a bucket answers many requests at a time."""
    if not is_remote(run.path):
        return [shard for shard in shards if not holds(shard)]
    shards = list(shards)
    there = {part.name for part in files.names(run.part(0).parent, "part-*.parquet")}
    with ThreadPoolExecutor(files.SIDE_BY_SIDE) as pool:
        asked = [shard for shard in shards if run.part(shard).name in there]
        held = {shard for shard, good in zip(asked, pool.map(holds, asked), strict=True) if good}
    return [shard for shard in shards if shard not in held]


def _is_intact(part: Path) -> bool:
    """Whether the bytes of a part are those of its commit; logs a part that is damaged."""
    whole = is_intact(part)
    if whole is False:
        log.warning("%s is damaged and is computed again: its bytes changed", part)
    return bool(whole)


def rows(run: RunFolder, setup: Setup) -> Rows:
    """All rows of a finished explain stage, which are scanned by column.

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
    """Remove the drafts of killed attempts; the caller holds the lock of the run."""
    for folder in (run.path, run.part(0).parent, run.analysis("").parent):
        for draft in files.names(folder, ".*.tmp"):
            files.remove(draft)
