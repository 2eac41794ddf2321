"""Limits on what a run may find, as an operator sets them, held against what it found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.config import GateConfig
from pipeline.errors import ConfigError

AGAINST_BASELINE = ("new_findings", "accuracy_drop", "drifted_classes")


@dataclass(frozen=True)
class Found:
    """What a run found; None where it cannot be known, for want of a baseline or of labels.

    suspects counts all images by the kind of their strongest suspicion, listed or not.
    """

    confirmed_findings: int
    suspects: dict[str, int]
    n_explained: int
    error_rate: float
    accuracy: float | None = None
    new_findings: int | None = None
    accuracy_drop: float | None = None
    drifted_classes: int | None = None


@dataclass(frozen=True)
class Check:
    """A limit, and what was found."""

    key: str
    limit: float
    found: float
    broken: bool

    @property
    def line(self) -> str:
        """For people: the key, what was found, the limit."""
        sign = "below" if self.key == "gate.accuracy" else "above"
        state = f"{sign} the limit of" if self.broken else "within the limit of"
        return f"{self.key}: {_number(self.found)} is {state} {_number(self.limit)}"


def checks(limits: GateConfig, found: Found) -> list[Check]:
    """All limits that are set, in the order of conf/gate.

    Raises:
        ConfigError: a limit on what this run cannot know.
    """
    told = []
    for key, limit, value in _pairs(limits, found):
        if value is None:
            raise ConfigError(f"{key}: {_why(key)}")
        broken = value < limit if key == "gate.accuracy" else value > limit
        told.append(Check(key, limit, value, broken))
    return told


def wants(limits: GateConfig) -> list[str]:
    """Keys of the limits that are set."""
    return [key for key, _, _ in _pairs(limits, Found(0, {}, 0, 0.0))]


def _pairs(limits: GateConfig, found: Found) -> Iterator[tuple[str, float, float | None]]:
    """Key, limit and what was found, of every limit that is set."""
    shares = {kind: n / max(1, found.n_explained) for kind, n in found.suspects.items()}
    of_kinds: dict[str, Mapping[str, float]] = {"suspects": found.suspects, "suspect_share": shares}
    for name, limit in vars(limits).items():
        if name in of_kinds:
            for kind, most in limit.items():
                if most is not None:
                    yield f"gate.{name}.{kind}", most, of_kinds[name].get(kind, 0)
        elif limit is not None:
            yield f"gate.{name}", limit, getattr(found, name)


def _why(key: str) -> str:
    if key.removeprefix("gate.") in AGAINST_BASELINE:
        return "needs a baseline, and labels in both runs for accuracies"
    return "needs labels, of which the dataset has none"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
