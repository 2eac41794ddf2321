"""metrics.prom: the figures of a run, for the textfile collector of Prometheus's node exporter.

The time of the last success is kept when a later attempt fails, so that an alert can fire where
it is too long ago.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import atomic, files, parquet
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

PREFIX = "camaudit_"
SUCCESS = "last_success_timestamp_seconds"
COMPLETE_CODES = (0, 2)
"""Exit codes of a complete run; 2 is a complete run with a broken gate."""


class Figure(NamedTuple):
    """A value of a metric: name without prefix, help text, labels, value."""

    name: str
    help: str
    labels: dict[str, str]
    value: float


def path_of(config: Config) -> Path:
    """The path of the file: that of the settings, or metrics.prom in the run folder."""
    return to_path(config.metrics) if config.metrics else config.folder / "metrics.prom"


def write(config: Config, journal: Journal) -> None:
    """Replace the file; a failure is a warning and changes no exit code."""
    path = path_of(config)
    try:
        found = figures(config, journal, _last_success(path, config.run_id))
        atomic.write_text(_exposition(config.run_id, found), path, 0o644)
    except Exception as error:  # noqa: BLE001 - the audit itself is complete
        log.warning("metrics: %s cannot be written: %s", path, error)


def figures(config: Config, journal: Journal, success: float | None) -> Iterator[Figure]:
    """All figures of a run; `success` is the time of the last complete attempt before this one."""
    attempt, counts = journal.attempt, journal.counts
    ended = datetime.fromisoformat(attempt.ended) if attempt.ended else datetime.now(timezone.utc)
    code = 1 if attempt.exit_code is None else attempt.exit_code
    yield Figure("exit_code", "Exit code of the last attempt.", {}, code)
    when = ended.timestamp()
    yield Figure("last_attempt_timestamp_seconds", "When the last attempt ended.", {}, when)
    success = when if code in COMPLETE_CODES else success
    if success is not None:
        words = "When an attempt last came to its end, whatever the gate said."
        yield Figure(SUCCESS, words, {}, success)
    for stage, seconds in attempt.seconds.items():
        yield Figure("stage_seconds", "Duration of a stage.", {"stage": stage}, seconds)
    for state in ("planned", "ok", "error"):
        if state in counts:
            yield Figure("images", "Images by state.", {"state": state}, counts[state])
    if attempt.images_per_second is not None:
        speed = attempt.images_per_second
        yield Figure("images_per_second", "Speed of the explain stage.", {}, speed)
    if journal.accuracy is not None:
        words = "Share of labelled images predicted right."
        yield Figure("accuracy_ratio", words, {}, journal.accuracy)
    for name, column in (("findings", "verdict"), ("suspects", "kind")):
        for value, number in _count_values(config, name, column).items():
            yield Figure(name, f"{name.capitalize()} by {column}.", {column: value}, number)
    for result in journal.gate:
        words = "Whether a limit is broken."
        yield Figure("gate_broken", words, {"key": result.key}, result.broken)


def _count_values(config: Config, table: str, column: str) -> Counter[str]:
    path = RunFolder(config.folder).analysis(table)
    if not files.is_file(path):
        return Counter()
    return Counter(sorted(parquet.read(path, [column])[column].to_pylist()))


def _exposition(run_id: str, found: Iterator[Figure]) -> str:
    """Figures in the text format of Prometheus ("Exposition formats", version 0.0.4)."""
    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for figure in found:
        if figure.name not in gauges:
            labels = ["run", *figure.labels]
            name = PREFIX + figure.name
            gauges[figure.name] = Gauge(name, figure.help, labels, registry=registry)
        gauges[figure.name].labels(run_id, *figure.labels.values()).set(figure.value)
    return generate_latest(registry).decode()


def _last_success(path: Path, run_id: str) -> float | None:
    """When the run was last complete, from the file of the last attempt."""
    try:
        families = list(text_string_to_metric_families(files.read_text(path)))
    except (OSError, ValueError):
        return None
    return next(
        (
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == PREFIX + SUCCESS and sample.labels.get("run") == run_id
        ),
        None,
    )
