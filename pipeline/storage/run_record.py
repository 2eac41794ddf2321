"""run.json: the record of all attempts at a run, as dataclasses."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TypeVar

from pipeline.errors import DataError
from pipeline.storage import files
from pipeline.storage.run_setup import JsonObject

RUNNING, COMPLETE, FAILED, ABORTED = "running", "complete", "failed", "aborted"
"""States of an attempt; `aborted` after a signal or a kill."""
UNKNOWN = "unknown"
"""State of a run that has no run.json."""


@dataclass
class Attempt:
    """One start of the command.

    started and ended are ISO 8601 in UTC; seconds holds the duration of each stage; images counts
    the images that this attempt explained.
    """

    started: str
    ended: str | None = None
    state: str = RUNNING
    exit_code: int | None = None
    message: str | None = None
    device: str | None = None
    images: int = 0
    images_per_second: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GateResult:
    """A limit of the gate, the value that was found, and both in one sentence."""

    key: str
    limit: float
    found: float
    broken: bool
    line: str


@dataclass
class RunRecord:
    """The content of run.json.

    counts holds numbers of images: planned, ok, error, labelled, correct. engine holds what the
    plan resolved and measured, verification what the stage verify measured about itself. overrides
    are the settings of the command line, config holds all settings as a nested dict.
    """

    counts: dict[str, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    engine: JsonObject = field(default_factory=dict)
    verification: JsonObject = field(default_factory=dict)
    gate: list[GateResult] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)
    config: JsonObject = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def last(self) -> Attempt | None:
        """The last attempt, if there was one."""
        return self.attempts[-1] if self.attempts else None

    @property
    def state(self) -> str:
        """The state of the last attempt."""
        return self.last.state if self.last else UNKNOWN

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last attempt, None while it runs."""
        return self.last.exit_code if self.last else None

    @property
    def accuracy(self) -> float | None:
        """Share of labelled images that are predicted right, in [0, 1]; None without labels."""
        labelled = self.counts.get("labelled", 0)
        return self.counts["correct"] / labelled if labelled else None

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds per stage, over all attempts."""
        total = Counter[str]()
        for attempt in self.attempts:
            total.update(attempt.seconds)
        return {stage: round(seconds, 3) for stage, seconds in total.items()}

    @property
    def images_per_second(self) -> float | None:
        """Speed of the last attempt that explained images."""
        speeds = [attempt.images_per_second for attempt in self.attempts]
        return next((speed for speed in reversed(speeds) if speed), None)

    @property
    def broken_limits(self) -> list[str]:
        """One sentence for each limit of the gate that is broken."""
        return [result.line for result in self.gate if result.broken]

    def to_json(self) -> str:
        """The text of run.json; state, device, seconds and speed of the last attempt come first."""
        last = asdict(self.attempts[-1]) if self.attempts else {}
        content = {
            "state": last.get("state", UNKNOWN),
            "exit_code": last.get("exit_code"),
            "counts": self.counts,
            "warnings": self.warnings,
            "device": last.get("device"),
            "engine": self.engine,
            "verification": self.verification,
            "gate": [asdict(result) for result in self.gate],
            "seconds": last.get("seconds", {}),
            "images_per_second": last.get("images_per_second"),
            "versions": self.versions,
            "overrides": self.overrides,
            "config": self.config,
            "attempts": [asdict(attempt) for attempt in self.attempts],
        }
        return json.dumps(content, indent=1, default=str)

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Make a record from the text of run.json; a key that an older version lacks stays empty.

        Raises:
            ValueError: the text is no JSON object, or an entry has another type.
        """
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        found = {name: content[name] for name in _KINDS if content.get(name) is not None}
        for name, value in found.items():
            if not isinstance(value, _KINDS[name]):
                raise ValueError(f"{name} is a {type(value).__name__}")
        found["gate"] = [_from_dict(GateResult, each) for each in found.get("gate", [])]
        found["attempts"] = [_from_dict(Attempt, each) for each in found.get("attempts", [])]
        return cls(**found)


_KINDS = {
    "counts": dict,
    "warnings": list,
    "engine": dict,
    "verification": dict,
    "gate": list,
    "versions": dict,
    "overrides": list,
    "config": dict,
    "attempts": list,
}


T = TypeVar("T", Attempt, GateResult)


def read_record(path: Path) -> RunRecord:
    """Read run.json; a file that does not exist is an empty record.

    Raises:
        DataError: the file is damaged.
        OSError: the file cannot be read.
    """
    try:
        return RunRecord.from_json(files.read_text(path))
    except FileNotFoundError:
        return RunRecord()
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _from_dict(kind: type[T], values: object) -> T:
    """Make a dataclass from a dict, without the entries that the class does not have."""
    if not isinstance(values, dict):
        raise ValueError(f"an entry of {kind.__name__} is a {type(values).__name__}")
    known = {each.name for each in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in known})
