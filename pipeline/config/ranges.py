"""The range of a setting, which stands beside its default in settings.py."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar

AUTO = "auto"
KEY = "range"
"""The key of a dataclass field's metadata that holds the range of the setting."""

Value = TypeVar("Value")


class Range(Protocol):
    """The values that a setting may have."""

    def problem(self, value: object) -> str | None:
        """What is wrong with a value of the right type, as the end of a sentence; None if fine."""


@dataclass(frozen=True)
class AtLeast:
    """A number that is not below `least`."""

    least: float

    def problem(self, value: object) -> str | None:
        """As Range.problem."""
        assert isinstance(value, int | float)
        return f"{value} is below {self.least:g}" if value < self.least else None


@dataclass(frozen=True)
class AutoOrAtLeast:
    """A number that is not below `least`, or AUTO."""

    least: int

    def problem(self, value: object) -> str | None:
        """As Range.problem."""
        if value == AUTO or (isinstance(value, int | float) and value >= self.least):
            return None
        return f"{value!r} is neither auto nor a number from {self.least} up"


@dataclass(frozen=True)
class Above:
    """A number above `bound`."""

    bound: float

    def problem(self, value: object) -> str | None:
        """As Range.problem."""
        assert isinstance(value, int | float)
        return f"{value} is not above {self.bound:g}" if value <= self.bound else None


@dataclass(frozen=True)
class Share:
    """A number in [0, 1]."""

    def problem(self, value: object) -> str | None:
        """As Range.problem."""
        assert isinstance(value, int | float)
        return None if 0 <= value <= 1 else f"{value} is not between 0 and 1"


@dataclass(frozen=True)
class OneOf:
    """One of several texts."""

    names: tuple[str, ...]

    def problem(self, value: object) -> str | None:
        """As Range.problem."""
        return None if value in self.names else f"{value!r} is none of {', '.join(self.names)}"


def setting(default: Value, allowed: Range) -> Value:
    """A field of a settings dataclass: its default, and the range that is checked.

    The type is that of the default, as with dataclasses.field. None is always allowed where the
    field's type allows it.
    """
    made: Value = field(default=default, metadata={KEY: allowed})
    return made
