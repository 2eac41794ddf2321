"""Shards that wait for a worker, and those that are to blame where one died."""

from __future__ import annotations

from collections import Counter, deque

AT_ONCE = 8
"""Most shards that are handed to a worker at once; fewer towards the end, so that all end alike."""


class ShardQueue:
    """Shards that wait; one that was at hand alone when its worker died has failed once."""

    def __init__(self, shards: list[int], tries: int) -> None:
        self.waiting, self.tries = deque(shards), tries
        self.suspected: deque[int] = deque()
        self.failed = Counter[int]()

    @property
    def given_up(self) -> list[int]:
        """Shards that took as many workers down as there are tries."""
        return sorted(shard for shard, times in self.failed.items() if times >= self.tries)

    def take(self, n_workers: int) -> list[int]:
        """Shards for one of so many workers; those that may be to blame for a death go alone."""
        if self.suspected and not self.waiting:
            return [self.suspected.popleft()]
        size = max(1, min(AT_ONCE, len(self.waiting) // (2 * n_workers)))
        return [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]

    def put_back(self, group: list[int], left: list[int]) -> None:
        """Shards whose worker died, of which some are left."""
        if len(group) == 1:
            self.failed.update(left)
        self.suspected += [shard for shard in left if self.failed[shard] < self.tries]
