"""All shards in this process, one after the other."""

from __future__ import annotations

from collections.abc import Callable

Advance = Callable[[int], object]
Work = Callable[[list[int], Advance], None]


def run(work: Work, shards: list[int], advance: Advance) -> None:
    """Compute the shards here."""
    work(shards, advance)
