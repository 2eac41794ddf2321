"""compare: what changed against an earlier run, where one is named (baseline)."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline import columns, drift, store
from pipeline.comparison import Tables, compare, images
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.ops import Journal
from pipeline.schema import CHANGES, FOCUS
from pipeline.storage.files import remove
from pipeline.storage.places import place
from pipeline.store import RunFolder

log = logging.getLogger(__name__)

METADATA_KEY = b"baseline"
"""Of the table's schema: the folder of the earlier run."""


def run(config: Config, _journal: Journal) -> None:
    """Write changes.parquet; without a baseline there is none, and an old one goes.

    Raises:
        NotFinished: where verify or rank have not run, here or there.
        ConfigError: a baseline that is this run itself, or about other classes.
    """
    here = RunFolder(config.folder)
    if config.baseline is None:
        remove(here.analysis("changes"))
        return
    there = RunFolder(place(config.baseline))
    if here.path.resolve() == there.path.resolve():
        raise ConfigError(f"baseline: {there.path} is this run itself")
    before, now = _tables(there), _tables(here)
    if not set(before.classes["class_name"].to_pylist()) & set(
        now.classes["class_name"].to_pylist()
    ):
        raise ConfigError(f"baseline: {there.path} is about other classes, none of them is here")
    changes = pa.concat_tables(
        [
            compare(before, now, config.analysis.fdr),
            _drifts(config, there, here),
            images(store.planned(there), store.planned(here)),
        ]
    )
    log.info("against %s: %s", there.path, _in_short(changes))
    changes = changes.replace_schema_metadata({METADATA_KEY: str(there.path).encode()})
    store.write(changes, here.analysis("changes"))


def _drifts(config: Config, *runs: RunFolder) -> pa.Table:
    """Drifts of focus (CHANGES), from samples of each class."""
    before, now = (_focus(run, config.analysis.sample_per_class, config.seed) for run in runs)
    rows = list(drift.drifts(before, now, list(FOCUS), config.analysis.fdr))
    return pa.Table.from_pylist(rows, CHANGES)


def _focus(run: RunFolder, per_class: int, seed: int) -> drift.Sample:
    """Focus statistics of some images of each predicted class; the same ones, if none changed."""
    rows = store.rows(run, store.read_plan(run, []).setup)
    table = rows.to_table(columns=["index", "pred_index"], filter=ds.field("status") == "ok")
    chosen = columns.sample(columns.classes(table, "pred_index"), per_class, seed)
    some = rows.at(columns.classes(table, "index")[chosen], ["pred", *FOCUS])
    values = np.stack([columns.numbers(some, name) for name in FOCUS], axis=1)
    return drift.Sample(values, np.array(some["pred"].to_pylist(), object))


def _in_short(changes: pa.Table) -> str:
    counts = changes.filter(pc.is_valid(changes["change"])).group_by(["subject", "change"])
    told = [
        f"{row['change_count']} {row['change']} {row['subject']}s"
        for row in counts.aggregate([("change", "count")]).to_pylist()
    ]
    return ", ".join(told) or "nothing changed"


def _tables(run: RunFolder) -> Tables:
    return Tables(*(store.read(run.analysis(name)) for name in ("findings", "suspects", "classes")))
