"""Progress of a run: a bar on a terminal, a log line every ten seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

log = logging.getLogger(__name__)

LOG_INTERVAL = 10.0
"""Seconds between two log lines of progress."""


class ProgressSafeHandler(logging.Handler):
    """Log handler that writes lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to stderr."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 - logging must not end a run
            self.handleError(record)


@contextmanager
def progress_bar(total: int, done: int) -> Iterator[Callable[[int], object]]:
    """Yield advance(images), which reports images, images/s and the time left.

    Args:
        total: number of images of this process.
        done: number of images that are already committed.
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit="img", desc="explain", smoothing=0.1) as bar:
            yield bar.update
        return
    begun = last_line = time.monotonic()
    count = done

    def advance(images: int) -> None:
        nonlocal count, last_line
        count += images
        now = time.monotonic()
        if now - last_line >= LOG_INTERVAL and count > done:
            last_line = now
            rate = (count - done) / (now - begun)
            left = (total - count) / rate
            log.info("explain: %d/%d images, %.1f/s, %.0f s left", count, total, rate, left)

    yield advance
