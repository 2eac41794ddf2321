"""The gate stage: compares results with limits; a broken limit ends the run after the report."""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import asdict, replace

import pyarrow.compute as pc

from pipeline.analysis import gate
from pipeline.analysis.gate import GateValues
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.stages.rank import KINDS_KEY
from pipeline.storage import parquet
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import GateResult
from pipeline.storage.values import Verdict

log = logging.getLogger(__name__)


def run(config: Config, journal: Journal) -> None:
    """Write every limit and the value found into run.json; without limits, no table is read.

    Raises:
        NotFinished: a stage whose table is needed has not run.
        ConfigError: a limit on a value that this run does not have.
    """
    journal.gate = []
    if not gate.keys_set(config.gate):
        return
    for check in gate.check_limits(config.gate, read_values(config, journal)):
        journal.gate.append(GateResult(**asdict(check), line=check.line))
        log.info("%s", check.line)


def read_values(config: Config, journal: Journal) -> GateValues:
    """Read the values that limits can be set on from the tables of a run.

    Raises:
        NotFinished: a stage whose table is needed has not run.
    """
    folder, counts = RunFolder(config.folder), journal.counts
    verdicts = parquet.read(folder.analysis("findings"), ["verdict"])["verdict"].to_pylist()
    suspects = parquet.read(folder.analysis("suspects"), ["kind"])
    values = GateValues(
        confirmed_findings=verdicts.count(Verdict.CONFIRMED),
        suspects=json.loads((suspects.schema.metadata or {})[KINDS_KEY]),
        n_explained=counts.get("ok", 0),
        error_rate=counts.get("error", 0) / max(1, counts.get("planned", 0)),
        accuracy=journal.accuracy,
    )
    return _add_changes(values, folder) if config.baseline else values


def _add_changes(values: GateValues, folder: RunFolder) -> GateValues:
    """Add the changes since the baseline, from changes.parquet."""
    table = parquet.read(folder.analysis("changes"))
    rows = table.filter(pc.field("subject") != "image").to_pylist()
    kinds = Counter((row["subject"], row["change"]) for row in rows)
    accuracy = next((row for row in rows if row["subject"] == "run"), None)
    drifted = {row["class_name"] for row in rows if row["subject"] == "focus"}
    return replace(
        values,
        new_findings=kinds["finding", "new"],
        accuracy_drop=accuracy and accuracy["before"] - accuracy["after"],
        drifted_classes=len(drifted),
    )
