"""What an unattended run needs: one run at a time, signals, run.json, progress, versions."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pipeline.config import Config
from pipeline.run import partition
from pipeline.run.versions import versions
from pipeline.storage import files, parquet

log = logging.getLogger(__name__)


@dataclass
class Attempt:
    """One start of the command: when, on what, how it ended."""

    started: str
    ended: str | None = None
    state: str = "running"
    exit_code: int | None = None
    message: str | None = None
    device: str | None = None
    images: int = 0
    images_per_second: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Journal:
    """run.json: the state of a run and of every attempt at it, replaced whole at each change."""

    def __init__(self, config: Config) -> None:
        mine = partition.partition_of(config.shard)
        name = "run.json" if mine.is_whole else f"shares/{mine.name}.json"
        self.path = config.folder / name
        self.config = asdict(config)
        self.overrides = _overrides()
        self.attempt = Attempt(started=_now())
        earlier = self._earlier()
        self.attempts: list[dict[str, Any]] = earlier.get("attempts", [])
        # What explain found holds for stages that run alone, until explain runs again.
        self.counts: dict[str, int] = earlier.get("counts", {})
        self.warnings: list[str] = earlier.get("warnings", [])
        self.engine: dict[str, Any] = earlier.get("engine", {})
        self.verification: dict[str, Any] = earlier.get("verification", {})
        self.gate: list[dict[str, Any]] = earlier.get("gate", [])
        self.write()

    def warn(self, text: str) -> None:
        """Note something about the audit itself that its reader must know."""
        if text not in self.warnings:
            log.warning("%s", text)
            self.warnings.append(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, in seconds."""
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
        """Replace run.json."""
        content = {
            "state": self.attempt.state,
            "exit_code": self.attempt.exit_code,
            "counts": self.counts,
            "warnings": self.warnings,
            "device": self.attempt.device,
            "engine": self.engine,
            "verification": self.verification,
            "gate": self.gate,
            "seconds": self.attempt.seconds,
            "images_per_second": self.attempt.images_per_second,
            "versions": versions(),
            "overrides": self.overrides,
            "config": self.config,
            "attempts": [*self.attempts, asdict(self.attempt)],
        }
        try:
            parquet.write_text(json.dumps(content, indent=1, default=str), self.path)
        except OSError as error:  # on a full disk it is the tables that tell
            log.warning("%s cannot be written: %s", self.path, error.strerror or error)

    def _earlier(self) -> dict[str, Any]:
        """What earlier attempts left; one that still says running was killed."""
        try:
            content: dict[str, Any] = json.loads(files.read_text(self.path))
        except (OSError, ValueError):
            return {}
        for attempt in content.get("attempts", []):
            if attempt["state"] == "running":
                attempt["state"], attempt["message"] = "aborted", "killed"
        return content


def _overrides() -> list[str]:
    """What the command line said; for status, where Hydra's own files are on another machine."""
    if not HydraConfig.initialized():
        return []
    return [str(each) for each in HydraConfig.get().overrides.task]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
