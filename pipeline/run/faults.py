"""Faults of the machine (disk, bucket, memory): reported in one line, with exit code 75."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import NotFinished
from pipeline.storage.files import StoreError

DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EIO: "the disk fails",
    errno.ESTALE: "the network drive is gone",
    errno.ENOTCONN: "the network drive is gone",
}
AGAIN = "committed parts stay; run the same command again to continue"


@contextmanager
def as_not_finished() -> Iterator[None]:
    """Raise faults of the machine as NotFinished; every other exception passes unchanged.

    Raises:
        NotFinished: the disk is full or gone, the bucket does not answer, memory ran out, or a
            loader process was killed.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        fault = _describe_fault(error)
        if fault is None:
            raise
        raise NotFinished(f"{fault}; {AGAIN}") from error


def _describe_fault(error: OSError | RuntimeError | MemoryError) -> str | None:
    """The fault and its remedy in words; None for an exception that is a bug."""
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{DISK[error.errno]}"
    if type(error).__name__ == "OutOfMemoryError":  # of torch, not imported here
        return "the device is out of memory even for one image; free it, or set another device"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory; set loader.batch_size or loader.num_workers lower"
    killed = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
    if killed:
        return (
            f"a loader process ({killed[1]}) was killed, probably because memory ran out; "
            "set loader.num_workers lower"
        )
    return None
