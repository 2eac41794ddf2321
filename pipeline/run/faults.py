"""What goes wrong around a run and not in it: said in one line, with the exit code to run again."""

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
AGAIN = "what was committed stays; run the same command again to go on"


@contextmanager
def as_not_finished() -> Iterator[None]:
    """Faults of the machine inside become NotFinished; bugs stay what they are.

    Raises:
        NotFinished: disk full or gone, bucket out of reach, out of memory, a loader process that
            was killed.
    """
    try:
        yield
    except (OSError, RuntimeError, MemoryError) as error:
        fault = _fault(error)
        if fault is None:
            raise
        raise NotFinished(f"{fault}; {AGAIN}") from error


def _fault(error: OSError | RuntimeError | MemoryError) -> str | None:
    if isinstance(error, StoreError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{DISK[error.errno]}"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for its name
        return "the device is out of memory even for one image; free it, or set another device"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory; set loader.batch_size or loader.num_workers lower"
    killed = re.search(r"DataLoader worker \(pid\(?s?\)? ([\d, ]+)\)", str(error))
    if killed:
        return (
            f"a loader process ({killed[1]}) was killed, as the kernel does where memory is short; "
            "set loader.num_workers lower"
        )
    return None
