"""Exceptions with the exit code of the run that they end, and error messages in one line."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager


class AuditError(Exception):
    """A run cannot go on; the message names the cause and is shown without a traceback.

    is_message: the text of the exception is a sentence for the user, see `one_line`.
    """

    exit_code = 1
    is_message = True


class ConfigError(AuditError):
    """A setting, model or factory that cannot be used (exit code 1)."""

    exit_code = 1


class GateError(AuditError):
    """The run is complete, and a limit of the gate is broken (exit code 2)."""

    exit_code = 2


class DataError(AuditError):
    """Data that cannot be audited: nothing found, duplicate ids, too many errors (exit code 3)."""

    exit_code = 3


class NotFinished(AuditError):  # noqa: N818 - a state, not a fault
    """The run is not finished, or another process holds its lock; run again (exit code 75)."""

    exit_code = 75


class Held(NotFinished):
    """Another process holds the lock of the run (exit code 75)."""


class Stopped(BaseException):
    """A signal ended the run (exit code 128 + signal number).

    The class is no Exception, like KeyboardInterrupt: code that turns exceptions into error rows
    must not catch it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}; run the same command again to go on")
        self.exit_code = 128 + signum


class Superseded(Stopped):
    """Another process took the run over (exit code 75); this process must write nothing more."""

    def __init__(self, message: str) -> None:
        BaseException.__init__(self, message)
        self.exit_code = NotFinished.exit_code


def one_line(error: BaseException, *, with_type: bool = True, first_line_only: bool = False) -> str:
    """The text of an exception in one line that UTF-8 can encode.

    Args:
        error: the exception.
        with_type: put the name of the exception's type before the text; the name is left out
            anyway where the class has a true attribute `is_message`.
        first_line_only: leave out all lines but the first; otherwise lines are joined.

    Returns:
        The text; the name of the type alone where the text is empty.
    """
    text = str(error).strip()
    text = " ".join((text.splitlines() or [""])[:1] if first_line_only else text.split())
    text = text.encode("utf-8", "backslashreplace").decode()
    name = type(error).__name__
    if not text:
        return name
    return f"{name}: {text}" if with_type and not getattr(error, "is_message", False) else text


def close_names(name: str, names: list[str]) -> str:
    """The end of a message about an unknown name: "; close names: ..." with up to five of `names`.

    The last five are given where none is similar; the text is empty where there are no names.
    """
    close = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[-5:]
    return f"; close names: {', '.join(close)}" if close else ""


def shorten_list(names: list[str], most: int = 10) -> str:
    """The first `most` names, joined by commas, and the number of all where there are more."""
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")


@contextmanager
def as_config_error(prefix: str) -> Iterator[None]:
    """Raise every exception inside as a ConfigError "prefix: first line of its text".

    Raises:
        ConfigError: a library raised inside.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            reason = "its weights are a pickle that could run code; save them as safetensors"
        else:
            with_type = not isinstance(error, OSError | ValueError)
            reason = one_line(error, with_type=with_type, first_line_only=True)
        raise ConfigError(f"{prefix}: {reason}") from error
