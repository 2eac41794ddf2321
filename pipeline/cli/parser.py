"""The argument parser, error report and exit code that all commands share."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from pipeline.errors import AuditError, ConfigError

JOINERS = "\u200c\u200d"
"""Characters that Python counts as unprintable, but that Persian words and emoji contain."""


class Parser(argparse.ArgumentParser):
    """A parser that exits with 1 for a wrong option: 2 is the code of a broken gate."""

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        formatter = argparse.RawDescriptionHelpFormatter
        super().__init__(prog, None, description, epilog, formatter_class=formatter)

    def error(self, message: str) -> NoReturn:
        """Print usage and message on stderr and exit."""
        self.print_usage(sys.stderr)
        self.exit(ConfigError.exit_code, f"{self.prog}: {escaped(message)}\n")


def escaped(text: object) -> str:
    """Escape unprintable characters, so that a text stays on one line and controls no terminal."""
    return "".join(
        char
        if char.isprintable() or char in JOINERS
        else char.encode("unicode_escape").decode("ascii")
        for char in str(text)
    )


def exit_code_of(prog: str, command: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error is one line on stderr.

    A reader that closes the pipe ends the command as SIGPIPE ends the tools of the system.
    """
    try:
        code = command()
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (AuditError, OSError) as error:
        sys.stderr.write(f"{prog}: {escaped(error)}\n")
        return error.exit_code if isinstance(error, AuditError) else ConfigError.exit_code
    return code
