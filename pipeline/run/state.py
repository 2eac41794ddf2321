"""The journal of a running audit: a run record that is written to run.json at each change."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import DataError
from pipeline.run import partition
from pipeline.run.versions import versions
from pipeline.storage import atomic
from pipeline.storage.run_record import ABORTED, RUNNING, Attempt, RunRecord, read_record

log = logging.getLogger(__name__)


class Journal(RunRecord):
    """The record of this attempt and of earlier ones; `write` replaces run.json as a whole.

    What earlier attempts found (counts, warnings, verification, gate) stays until the stage that
    finds it runs again.
    """

    def __init__(self, config: Config) -> None:
        mine = partition.partition_of(config.shard)
        name = "run.json" if mine.is_whole else f"shares/{mine.name}.json"
        self.path = config.folder / name
        earlier = _read_earlier(self.path)
        super().__init__(**vars(earlier))
        self.config, self.overrides, self.versions = asdict(config), _overrides(), versions()
        self.attempt = Attempt(started=_now())
        self.attempts.append(self.attempt)
        self.write()

    def warn(self, text: str) -> None:
        """Note, once, what a reader has to know about the audit itself."""
        if text not in self.warnings:
            log.warning("%s", text)
            self.warnings.append(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds of a stage."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.attempt.seconds[name] = round(time.perf_counter() - begun, 3)
            self.write()

    def end(self, state: str, exit_code: int, message: str | None = None) -> None:
        """Note how the attempt ended: complete, failed or aborted."""
        self.attempt.ended, self.attempt.state = _now(), state
        self.attempt.exit_code, self.attempt.message = exit_code, message
        self.write()

    def write(self) -> None:
        """Replace run.json; a failure is a log line, as the tables are what counts."""
        try:
            atomic.write_text(self.to_json(), self.path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.path, error.strerror or error)


def _read_earlier(path: Path) -> RunRecord:
    """The record of earlier attempts; an attempt that is still marked as running was killed."""
    try:
        record = read_record(path)
    except (OSError, DataError):
        return RunRecord()
    for attempt in record.attempts:
        if attempt.state == RUNNING:
            attempt.state, attempt.message = ABORTED, "killed"
    return record


def _overrides() -> list[str]:
    """The settings of the command line; camaudit-status makes the next command of them."""
    from hydra.core.hydra_config import HydraConfig  # noqa: PLC0415 - absent in use from Python

    if not HydraConfig.initialized():
        return []
    return [str(each) for each in HydraConfig.get().overrides.task]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
