"""gate: what was found, held against the limits; the verdict comes at the end, after the report."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import asdict
from typing import Any

import pyarrow.compute as pc

from pipeline.analysis import gate
from pipeline.analysis.gate import Found
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.stages.rank import KINDS_KEY
from pipeline.storage import parquet
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import GateResult

log = logging.getLogger(__name__)


def run(config: Config, journal: Journal) -> None:
    """Note every limit and what was found in run.json; without limits nothing is read.

    Raises:
        NotFinished: where a stage has not run whose table is needed.
        ConfigError: a limit on what this run cannot know.
    """
    journal.gate = []
    if not gate.wants(config.gate):
        return
    for check in gate.checks(config.gate, found(config, journal)):
        journal.gate.append(GateResult(**asdict(check), line=check.line))
        log.info("%s", check.line)


def found(config: Config, journal: Journal) -> Found:
    """What the tables of a run say.

    Raises:
        NotFinished: where one of them is not there.
    """
    folder, counts = RunFolder(config.folder), journal.counts
    verdicts = parquet.read(folder.analysis("findings"), ["verdict"])["verdict"].to_pylist()
    suspects = parquet.read(folder.analysis("suspects"), ["kind"])
    changes: dict[str, Any] = _changes(folder) if config.baseline else {}
    return Found(
        confirmed_findings=verdicts.count("confirmed"),
        suspects=json.loads((suspects.schema.metadata or {})[KINDS_KEY]),
        n_explained=counts.get("ok", 0),
        error_rate=counts.get("error", 0) / max(1, counts.get("planned", 0)),
        accuracy=journal.accuracy,
        **changes,
    )


def _changes(folder: RunFolder) -> dict[str, Any]:
    """What changed against the baseline."""
    table = parquet.read(folder.analysis("changes"))
    rows = table.filter(pc.field("subject") != "image").to_pylist()
    kinds = Counter((row["subject"], row["change"]) for row in rows)
    accuracy = next((row for row in rows if row["subject"] == "run"), None)
    drifted = {row["class_name"] for row in rows if row["subject"] == "focus"}
    return {
        "new_findings": kinds["finding", "new"],
        "accuracy_drop": accuracy and accuracy["before"] - accuracy["after"],
        "drifted_classes": len(drifted),
    }
