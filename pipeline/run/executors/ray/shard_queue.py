"""The queue of shards that wait for a worker; a shard that kills its workers is given up."""

from __future__ import annotations

from collections import Counter, deque

MAX_GROUP = 8
"""Most shards that a worker gets at once; fewer near the end, so that all workers end together."""


class ShardQueue:
    """Waiting shards.

    A shard is suspected after a worker died with it and other shards. It has failed once for each
    worker that died while it computed this shard alone.
    """

    def __init__(self, shards: list[int], tries: int) -> None:
        self.waiting, self.tries = deque(shards), tries
        self.suspected: deque[int] = deque()
        self.failed = Counter[int]()

    @property
    def given_up(self) -> list[int]:
        """Shards that have failed `tries` times."""
        return sorted(shard for shard, times in self.failed.items() if times >= self.tries)

    def take(self, n_workers: int) -> list[int]:
        """Take shards for one of n_workers workers; a suspected shard is taken alone."""
        if self.suspected and not self.waiting:
            return [self.suspected.popleft()]
        size = max(1, min(MAX_GROUP, len(self.waiting) // (2 * n_workers)))
        return [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]

    def put_back(self, group: list[int], missing: list[int]) -> None:
        """Put back the missing shards of a group whose worker died."""
        if len(group) == 1:
            self.failed.update(missing)
        self.suspected += [shard for shard in missing if self.failed[shard] < self.tries]
