"""Locks of a run folder: one process audits the whole run, or several audit its partitions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.run.partition import WHOLE, Partition
from pipeline.storage.lease import NAME
from pipeline.storage.lock import LOCK_ATTEMPTS, hold, partition_locks


@contextmanager
def lock(folder: Path, mine: Partition = WHOLE, attempts: int = LOCK_ATTEMPTS) -> Iterator[None]:
    """Hold a run folder, or a partition of the run, for this process.

    Each partition holds a lock of its own. A partition excludes a process that wants the whole
    run, and such a process excludes every partition.

    Raises:
        Held: another process holds the run.
        ConfigError: the folder cannot be made or written, or a partition is to run in a bucket.
    """
    own = NAME if mine.is_whole else f"{NAME}-{mine.name}"
    with hold(folder, own, attempts):
        for other in partition_locks(folder) if mine.is_whole else [NAME]:
            with hold(folder, other):
                pass
        yield


@contextmanager
def lock_plan(folder: Path, mine: Partition) -> Iterator[None]:
    """Hold the plan: the first partition makes the plan; the others wait and read it."""
    if mine.is_whole:
        yield
        return
    with hold(folder, ".planning", attempts=sys.maxsize):
        yield
