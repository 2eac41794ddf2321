"""Failures a user can act on: each carries the exit code of the run it ends."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager


class AuditError(Exception):
    """A run cannot go on; the message names the culprit and is shown without a traceback."""

    exit_code = 1


class ConfigError(AuditError):
    """A setting, model or factory that cannot be used (exit code 1)."""

    exit_code = 1


class GateError(AuditError):
    """The run is complete, and found what it must not find (exit code 2)."""

    exit_code = 2


class DataError(AuditError):
    """Data that cannot be audited: nothing found, duplicate ids, too many errors (exit code 3)."""

    exit_code = 3


class NotFinished(AuditError):  # noqa: N818 - a state, not a fault
    """The run is not finished, or another one holds it; run again (exit code 75)."""

    exit_code = 75


class Held(NotFinished):
    """Another process is at work in the run (exit code 75)."""


class Stopped(BaseException):
    """A signal ended the run (exit code 128 + signal number).

    Like KeyboardInterrupt it is no Exception: what turns errors into rows must not swallow it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}; run the same command again to go on")
        self.exit_code = 128 + signum


class Superseded(Stopped):
    """Another process took the run over (exit code 75), which is no more to be written to."""

    def __init__(self, message: str) -> None:
        BaseException.__init__(self, message)
        self.exit_code = NotFinished.exit_code


def close_names(name: str, names: list[str]) -> str:
    """The end of a message: which of the names there are come close to the one that is not."""
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[-5:]
    return f"; close names: {', '.join(close)}" if close else ""


def some(names: list[str], most: int = 10) -> str:
    """The first of many names, for a message."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


@contextmanager
def told(what: str) -> Iterator[None]:
    """Whatever a library raises inside, as a ConfigError that begins with `what`."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        if isinstance(error, pickle.UnpicklingError):
            reason = "its weights are a pickle that could run code; save them as safetensors"
        elif not isinstance(error, OSError | ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise ConfigError(f"{what}: {reason}") from error
