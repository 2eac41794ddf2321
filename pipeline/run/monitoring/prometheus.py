"""metrics.prom: a run for the textfile collector of Prometheus's node exporter.

The text format is that of Prometheus ("Exposition formats", version 0.0.4). What the last success
was is kept when a later attempt fails, so that an alert can ask how long ago it is.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import parquet
from pipeline.storage.files import is_file, read_text
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

Sample = tuple[str, str, dict[str, str], float]
"""Name without prefix, help, labels, value."""
SUCCESS = "last_success_timestamp_seconds"
COMPLETE = (0, 2)
"""Exit codes of a run that came to its end; 2: with a broken gate."""


def path_of(config: Config) -> Path:
    """Where the file of a run stands: the settings' place, or the run's folder."""
    return to_path(config.metrics) if config.metrics else config.folder / "metrics.prom"


def write(config: Config, journal: Journal) -> None:
    """Replace the file; one that cannot be written is a warning, and changes no exit code."""
    path = path_of(config)
    try:
        found = list(samples(config, journal, _success(path, config.run_id)))
        parquet.write_text("".join(_text(config.run_id, found)), path, 0o644)
    except Exception as error:  # noqa: BLE001 - the audit is what counts
        log.warning("metrics: %s cannot be written: %s", path, error)


def samples(config: Config, journal: Journal, success: float | None) -> Iterator[Sample]:
    """All figures of a run; success is when it last came to its end, before this attempt."""
    attempt, counts = journal.attempt, journal.counts
    ended = datetime.fromisoformat(attempt.ended) if attempt.ended else datetime.now(timezone.utc)
    code = 1 if attempt.exit_code is None else attempt.exit_code
    yield "exit_code", "Exit code of the last attempt.", {}, code
    yield "last_attempt_timestamp_seconds", "When the last attempt ended.", {}, ended.timestamp()
    success = ended.timestamp() if code in COMPLETE else success
    if success is not None:
        yield SUCCESS, "When an attempt last came to its end, whatever the gate said.", {}, success
    for stage, seconds in attempt.seconds.items():
        yield "stage_seconds", "Duration of a stage.", {"stage": stage}, seconds
    for state in ("planned", "ok", "error"):
        if state in counts:
            yield "images", "Images by state.", {"state": state}, counts[state]
    if attempt.images_per_second is not None:
        yield "images_per_second", "Speed of the explain stage.", {}, attempt.images_per_second
    if counts.get("labelled"):
        accuracy = counts["correct"] / counts["labelled"]
        yield "accuracy_ratio", "Share of labelled images predicted right.", {}, accuracy
    for name, column in (("findings", "verdict"), ("suspects", "kind")):
        for value, number in _counted(config, name, column).items():
            yield name, f"{name.capitalize()} by {column}.", {column: value}, number
    for check in journal.gate:
        yield "gate_broken", "Whether a limit is broken.", {"key": check["key"]}, check["broken"]


def _counted(config: Config, table: str, column: str) -> Counter[str]:
    path = RunFolder(config.folder).analysis(table)
    if not is_file(path):
        return Counter()
    return Counter(sorted(parquet.read(path, [column])[column].to_pylist()))


def _text(run_id: str, found: list[Sample]) -> Iterator[str]:
    named: set[str] = set()
    for name, words, labels, value in found:
        if name not in named:
            named.add(name)
            yield f"# HELP camaudit_{name} {words}\n# TYPE camaudit_{name} gauge\n"
        told = ",".join(f"{key}={json.dumps(v)}" for key, v in {"run": run_id, **labels}.items())
        yield f"camaudit_{name}{{{told}}} {float(value)!r}\n"


def _success(path: Path, run_id: str) -> float | None:
    """When the run last came to its end, as the earlier file says."""
    start = re.escape(f'camaudit_{SUCCESS}{{run="{run_id}"}} ')
    try:
        found = re.search(rf"^{start}(\S+)$", read_text(path), re.MULTILINE)
    except OSError:
        return None
    return float(found[1]) if found else None
