"""Executors, which distribute shards over processes: one module each, with one function run().

run(settings, task, shards, advance) returns when every shard is committed; it calls
advance(images) with the number of images that were explained since the last call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Advance = Callable[[int], object]
Work = Callable[[list[int], Advance], None]
"""work(shards, advance) computes shards and commits each."""


@dataclass(frozen=True)
class Task:
    """The work of an executor.

    here is the work in this process. elsewhere(cores) can be pickled; it returns the work for the
    process that calls it, on a number of cores. missing(shards) returns the shards that are not
    committed. device is "cpu" or "cuda".
    """

    here: Work
    elsewhere: Callable[[int], Work]
    missing: Callable[[list[int]], list[int]]
    device: str
