"""What an unattended run needs: one run at a time, signals, run.json, progress, versions."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

log = logging.getLogger(__name__)


LOG_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""


class ProgressSafeHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to stderr."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 - logging must not end a run
            self.handleError(record)


@contextmanager
def progress_bar(total: int, done: int) -> Iterator[Any]:
    """A tqdm bar with images/s and time left on a terminal, a line every ten seconds elsewhere.

    Yields advance(images).
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit="img", desc="explain", smoothing=0.1) as bar:
            yield bar.update
        return
    begun = told = time.monotonic()
    count = done

    def advance(images: int) -> None:
        nonlocal count, told
        count += images
        now = time.monotonic()
        if now - told >= LOG_EVERY and count > done:
            told = now
            rate = (count - done) / (now - begun)
            left = (total - count) / rate
            log.info("explain: %d/%d images, %.1f/s, %.0f s left", count, total, rate, left)

    yield advance
