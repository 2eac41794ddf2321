"""One process at a time: a lock of the kernel in a folder, a lease in a bucket."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ConfigError, Held
from pipeline.storage import files, lease
from pipeline.storage.lease import NAME
from pipeline.storage.paths import is_remote

LOCK_ATTEMPTS = 3
"""Attempts, 50 ms apart, before a lock counts as held: camaudit-status takes it for a moment."""


@contextmanager
def hold(folder: Path, name: str = NAME, attempts: int = LOCK_ATTEMPTS) -> Iterator[None]:
    """Hold a lock of a run for this process, however the process ends.

    Args:
        folder: the folder of the run, made where it does not exist.
        name: the name of the lock in it.
        attempts: attempts, 50 ms apart, before the lock counts as held by another process.

    Raises:
        Held: another process holds it.
        ConfigError: the folder cannot be made or written; a bucket has no lock of that name.
    """
    if not is_remote(folder):
        files.make_folder(folder)
        with _flock(folder / name, attempts):
            yield
        return
    if name != NAME:
        raise ConfigError("output_dir: partitions of a run need a folder; use executor=ray")
    with lease.held(folder):
        yield


def partition_locks(folder: Path) -> list[str]:
    """Names of the locks of partitions of a run, held or not; a bucket has none."""
    return [] if is_remote(folder) else [path.name for path in folder.glob(f"{NAME}-*")]


def is_held(folder: Path) -> bool:
    """Whether a process holds a run or a partition of it.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if is_remote(folder):
        return lease.is_held(folder)
    return any(_is_locked(folder / name) for name in [NAME, *partition_locks(folder)])


@contextmanager
def _flock(path: Path, attempts: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, path.parent, attempts)
        yield
    finally:
        os.close(descriptor)  # the kernel releases the lock, also when the process is killed


def _take(descriptor: int, folder: Path, attempts: int) -> None:
    for attempt in range(attempts):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if attempt + 1 == attempts:
                raise Held(f"another camaudit is at work in {folder}") from error
            time.sleep(0.05)
        else:
            return


def _is_locked(path: Path) -> bool:
    """Whether a process holds a lock file; the test takes the lock and releases it at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
