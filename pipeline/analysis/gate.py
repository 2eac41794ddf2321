"""Compare the results of a run with the limits that an operator has set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.config import GateConfig
from pipeline.errors import ConfigError

AGAINST_BASELINE = ("new_findings", "accuracy_drop", "drifted_classes")


@dataclass(frozen=True)
class GateValues:
    """Values of a run that limits can be set on; None without the baseline or labels they need.

    suspects counts all suspects by kind, also those that max_suspects cuts off.
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
    """A limit, the value of the run, and whether the limit is broken."""

    key: str
    limit: float
    found: float
    broken: bool

    @property
    def line(self) -> str:
        """One line with the key, the value and the limit."""
        sign = "below" if self.key == "gate.accuracy" else "above"
        state = f"{sign} the limit of" if self.broken else "within the limit of"
        return f"{self.key}: {_number(self.found)} is {state} {_number(self.limit)}"


def check_limits(limits: GateConfig, found: GateValues) -> list[Check]:
    """Check all limits that are set, in the order of conf/gate.

    Raises:
        ConfigError: a limit is set on a value that this run does not have.
    """
    checks = []
    for key, limit, value in _pairs(limits, found):
        if value is None:
            raise ConfigError(f"{key}: {_missing(key)}")
        broken = value < limit if key == "gate.accuracy" else value > limit
        checks.append(Check(key, limit, value, broken))
    return checks


def keys_set(limits: GateConfig) -> list[str]:
    """Keys of the limits that are set."""
    return [key for key, _, _ in _pairs(limits, GateValues(0, {}, 0, 0.0))]


def _pairs(limits: GateConfig, found: GateValues) -> Iterator[tuple[str, float, float | None]]:
    """Key, limit and value of every limit that is set."""
    shares = {kind: n / max(1, found.n_explained) for kind, n in found.suspects.items()}
    of_kinds: dict[str, Mapping[str, float]] = {"suspects": found.suspects, "suspect_share": shares}
    for name, limit in vars(limits).items():
        if name in of_kinds:
            for kind, maximum in limit.items():
                if maximum is not None:
                    yield f"gate.{name}.{kind}", maximum, of_kinds[name].get(kind, 0)
        elif limit is not None:
            yield f"gate.{name}", limit, getattr(found, name)


def _missing(key: str) -> str:
    """What the run lacks for a limit."""
    if key.removeprefix("gate.") in AGAINST_BASELINE:
        return "needs a baseline, and labels in both runs for accuracies"
    return "needs labels, and the dataset has none"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
