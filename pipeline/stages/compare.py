"""The compare stage: changes since an earlier run, if the settings name one (baseline)."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.compare import drift
from pipeline.analysis.compare.changes import ComparedTables, compare, images
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.run.state import Journal
from pipeline.storage import arrays, parquet, run_folder
from pipeline.storage.files import remove
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.sample import draw_per_class
from pipeline.storage.schema import CHANGES, FOCUS

log = logging.getLogger(__name__)

METADATA_KEY = b"baseline"
"""Key of the metadata of changes.parquet that holds the folder of the earlier run."""


def run(config: Config, _journal: Journal) -> None:
    """Write changes.parquet; without a baseline, remove the file of an earlier attempt.

    Raises:
        NotFinished: verify or rank have not run, in this run or in the baseline.
        ConfigError: the baseline is this run itself, or has no class in common with it.
    """
    here = RunFolder(config.folder)
    if config.baseline is None:
        remove(here.analysis("changes"))
        return
    there = RunFolder(to_path(config.baseline))
    if here.path.resolve() == there.path.resolve():
        raise ConfigError(f"baseline: {there.path} is this run itself")
    before, now = _tables(there), _tables(here)
    if not set(before.classes["class_name"].to_pylist()) & set(
        now.classes["class_name"].to_pylist()
    ):
        raise ConfigError(f"baseline: {there.path} has no class in common with this run")
    changes = pa.concat_tables(
        [
            compare(before, now, config.analysis.fdr),
            _drifts(config, there, here),
            images(run_folder.planned(there), run_folder.planned(here)),
        ]
    )
    log.info("changes since %s: %s", there.path, _count_changes(changes))
    changes = changes.replace_schema_metadata({METADATA_KEY: str(there.path).encode()})
    parquet.write(changes, here.analysis("changes"))


def _drifts(config: Config, *runs: RunFolder) -> pa.Table:
    """Compute the drifts of focus (CHANGES) from a sample of each class in both runs."""
    before, now = (_focus(run, config.analysis.sample_per_class, config.seed) for run in runs)
    rows = list(drift.drifts(before, now, list(FOCUS), config.analysis.fdr))
    return pa.Table.from_pylist(rows, CHANGES)


def _focus(run: RunFolder, per_class: int, seed: int) -> drift.FocusOfRun:
    """Read the focus statistics of a sample of each predicted class, drawn with the seed."""
    rows = run_folder.rows(run, run_folder.read_plan(run, []).setup)
    sample = rows.at(draw_per_class(rows, per_class, seed).index, ["pred", *FOCUS])
    values = np.stack([arrays.numbers(sample, name) for name in FOCUS], axis=1)
    return drift.FocusOfRun(values, np.array(sample["pred"].to_pylist(), object))


def _count_changes(changes: pa.Table) -> str:
    """The number of changes of each kind, in words."""
    counts = changes.filter(pc.is_valid(changes["change"])).group_by(["subject", "change"])
    counted = [
        f"{row['change_count']} {row['change']} {row['subject']}s"
        for row in counts.aggregate([("change", "count")]).to_pylist()
    ]
    return ", ".join(counted) or "none"


def _tables(run: RunFolder) -> ComparedTables:
    return ComparedTables(
        *(parquet.read(run.analysis(name)) for name in ("findings", "suspects", "classes"))
    )
