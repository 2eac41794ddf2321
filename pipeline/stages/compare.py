"""compare: what changed against an earlier run, where one is named (baseline)."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline import store
from pipeline.comparison import Tables, compare
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.ops import Journal
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
        here.analysis("changes").unlink(missing_ok=True)
        return
    there = RunFolder(Path(config.baseline))
    if here.path.resolve() == there.path.resolve():
        raise ConfigError(f"baseline: {there.path} is this run itself")
    before, now = _tables(there), _tables(here)
    if not set(before.classes["class_name"].to_pylist()) & set(
        now.classes["class_name"].to_pylist()
    ):
        raise ConfigError(f"baseline: {there.path} is about other classes, none of them is here")
    changes = compare(before, now, config.analysis.fdr)
    log.info("against %s: %s", there.path, _in_short(changes.to_pylist()))
    changes = changes.replace_schema_metadata({METADATA_KEY: str(there.path).encode()})
    store.write(changes, here.analysis("changes"))


def _in_short(changes: list[dict[str, Any]]) -> str:
    counts = Counter(f"{row['change']} {row['subject']}s" for row in changes if row["change"])
    return ", ".join(f"{number} {what}" for what, number in counts.items()) or "nothing changed"


def _tables(run: RunFolder) -> Tables:
    return Tables(*(store.read(run.analysis(name)) for name in ("findings", "suspects", "classes")))
