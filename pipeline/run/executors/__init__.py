"""How shards are spread over workers: one module each, with one function run().

run(settings, task, shards, advance) has each shard computed and committed, in whatever process;
advance(images) tells the progress.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[int], object]
Work = Callable[[list[int], Advance], None]
"""Computes shards and commits each; advance(images) as they are done."""


@dataclass(frozen=True)
class Task:
    """What there is to do.

    here is the work in this process; elsewhere(cores) can be pickled, and gives the work in the
    process where it is called, on so many cores. missing(shards) are those that are not committed;
    device is "cpu" or "cuda".
    """

    here: Work
    elsewhere: Callable[[int], Work]
    missing: Callable[[list[int]], list[int]]
    device: str
