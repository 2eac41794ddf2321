"""What an unattended run needs: one run at a time, signals, run.json, progress, versions."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError, Held
from pipeline.run.partition import WHOLE, Partition
from pipeline.run.preflight import make_folder
from pipeline.storage import lease, paths

LOOKS = 3
"""At the lock before it counts as held: camaudit-status takes it for a moment."""


@contextmanager
def lock(folder: Path, mine: Partition = WHOLE, looks: int = LOOKS) -> Iterator[None]:
    """Hold a run folder for this process; the kernel lets go of it however the process ends.

    Shares of a run hold one lock each, and keep out whoever wants the whole run, as it does them.
    In a bucket, where no kernel watches, it is held by a lease.

    Raises:
        Held: where another process holds it.
        ConfigError: where the folder cannot be made or written.
    """
    if paths.is_remote(folder):
        if not mine.is_whole:
            raise ConfigError("output_dir: shares of a run need a folder; use executor=ray")
        with lease.held(folder):
            yield
        return
    make_folder(folder)
    with _held(folder / (".lock" if mine.is_whole else f".lock-{mine.name}"), looks):
        for other in folder.glob(".lock-*") if mine.is_whole else [folder / ".lock"]:
            with _held(other, LOOKS):
                pass
        yield


@contextmanager
def planning(folder: Path, mine: Partition) -> Iterator[None]:
    """Alone among the shares of a run: the first one plans, the others wait and find its plan."""
    if mine.is_whole:
        yield
        return
    with _held(folder / ".planning", sys.maxsize):
        yield


@contextmanager
def _held(path: Path, looks: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, path.parent, looks)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, looks: int) -> None:
    for attempt in range(looks):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if attempt + 1 == looks:
                raise Held(f"another camaudit is at work in {folder}") from error
            time.sleep(0.05)
        else:
            return
