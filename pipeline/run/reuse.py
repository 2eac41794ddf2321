"""Rows that are reused: of unchanged images of a baseline, or the good rows of a failed shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.errors import ConfigError, NotFinished
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows

NONE = -1
"""Position of an image that has no earlier row."""
COMPARED_ELSEWHERE = ("dataset.", "model.", "loader.")
"""Settings that may differ: images are compared by version, models by fingerprint."""


@dataclass(frozen=True)
class ReusableRows:
    """Earlier rows of planned images.

    where (n_images,) holds the position of each planned image among the earlier rows, or NONE for
    an image that has to be computed.
    """

    rows: Rows
    where: NDArray[np.int64]

    def take(self, planned: pa.Table) -> pa.Table:
        """Read the earlier rows (part_schema) of planned images that have one, in planned order.

        Raises:
            DataError: a part is damaged; the message names it.
        """
        positions = planned["index"].to_numpy()
        known = self.where[positions] != NONE
        earlier = self.where[positions[known]]
        found = self.rows.at(earlier, None)
        found = found.take(pc.index_in(pa.array(earlier), found["index"].combine_chunks()))
        return found.set_column(0, "index", planned["index"].filter(pa.array(known)))


def rows_of_baseline(
    folder: Path, here: RunFolder, now: Plan
) -> tuple[ReusableRows | None, list[str]]:
    """Find the rows of a baseline whose images have not changed; or None, and the reasons.

    Raises:
        ConfigError: the baseline is not finished, or is this run.
    """
    run = RunFolder(folder)
    if run.path.resolve() == here.path.resolve():
        raise ConfigError(f"baseline: {run.path} is this run itself")
    before = run_folder.read_plan(run)
    reasons = differences(before.setup, now.setup)
    if not reasons and not _have_versions(before.table, now.table):
        reasons = ["size and time of its images are not known; data.hash=true compares contents"]
    if reasons:
        return None, reasons
    try:
        rows = run_folder.rows(run, before.setup)
    except NotFinished as error:
        raise ConfigError(f"baseline: {error}") from error
    return ReusableRows(rows, _unchanged(before.table, now.table, rows)), []


def differences(before: Setup, now: Setup) -> list[str]:
    """Describe every difference between two setups that changes rows; empty if there is none."""
    now = Setup.from_metadata(now.to_metadata())  # JSON makes lists of tuples, as in `before`
    earlier, later = before.fixed, now.fixed
    resolved = now.resolved.to_json()
    keys = sorted(
        key
        for key in earlier.keys() | later.keys()
        if not key.startswith(COMPARED_ELSEWHERE) or key in resolved or key == "model.output"
    )
    differing = [
        f"{key}: {earlier.get(key)} there, {later.get(key)} here"
        for key in keys
        if earlier.get(key) != later.get(key)
    ]
    for name in ("class_names", "preprocess", "grid", "embedding_dim"):
        if getattr(before, name) != getattr(now, name):
            differing.append(f"{name.replace('_', ' ')} differ")
    return differing


def _have_versions(*plans: pa.Table) -> bool:
    return all(plan["version"].null_count < plan.num_rows for plan in plans)


def _unchanged(before: pa.Table, now: pa.Table, rows: Rows) -> NDArray[np.int64]:
    """Positions (n_images,) of the earlier rows of images with the same version and label.

    NONE where the image has changed or its earlier row is an error row.
    """
    there = pc.index_in(now["image_id"], before["image_id"].combine_chunks())
    old = before.take(there)
    same = pc.equal(old["version"], now["version"])
    for column in ("label_index", "label"):
        equal = pc.equal(old[column], now[column])
        neither = pc.and_(pc.is_null(old[column]), pc.is_null(now[column]))
        same = pc.and_kleene(same, pc.or_kleene(pc.fill_null(equal, False), neither))  # noqa: FBT003
    good = pc.equal(rows.to_table(columns=["status"])["status"], "ok").take(there)
    known = pc.fill_null(pc.and_kleene(same, good), False).to_numpy()  # noqa: FBT003
    return np.where(known, pc.fill_null(there, NONE).to_numpy(), NONE).astype(np.int64)


def rows_of_run(run: RunFolder, setup: Setup, done: list[int]) -> tuple[ReusableRows, list[int]]:
    """Find the shards with error rows, and the good rows of these shards.

    Args:
        run: the run.
        setup: the setup of the run.
        done: the committed shards to read.
    """
    where = np.full(setup.n_images, NONE, np.int64)
    failed = []
    for shard in done:
        status = parquet.read(run.part(shard), ["status"])["status"]
        good = np.asarray(pc.equal(status, "ok"))
        if not good.all():
            failed.append(shard)
            positions = np.array(setup.rows(shard))
            where[positions[good]] = positions[good]
    parts = [run.part(shard) for shard in range(setup.n_shards)]
    return ReusableRows(Rows(parts, setup.shard_size), where), failed
