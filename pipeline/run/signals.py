"""SIGTERM and SIGINT as exceptions, so that a run closes its files on the way out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Stopped


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise Stopped where SIGTERM or SIGINT arrives; only the main thread may enter.

    Raises:
        Stopped: a signal arrived.
    """

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
