"""What an unattended run needs: one run at a time, signals, run.json, progress, versions."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pipeline.errors import Stopped


@contextmanager
def signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into Stopped, so that loaders and files are closed on the way out."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
