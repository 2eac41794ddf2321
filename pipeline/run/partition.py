"""A share of the shards: several processes at one run, started by torchrun, Slurm or by hand."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import AUTO, PartitionConfig
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Partition:
    """Every count-th shard, beginning with that of the index."""

    index: int
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the run."""
        return self.count == 1

    @property
    def name(self) -> str:
        """For files of its own: 0-of-8."""
        return f"{self.index}-of-{self.count}"

    def shards(self, n_shards: int) -> range:
        """Its shards; close ones go to different processes, as neighbours are often alike."""
        return range(self.index, n_shards, self.count)


WHOLE = Partition(0, 1)


def partition_of(
    settings: PartitionConfig, environment: Mapping[str, str] = os.environ
) -> Partition:
    """The share that the settings name, or whoever started this process.

    torchrun sets RANK and WORLD_SIZE, Slurm SLURM_ARRAY_TASK_ID and its like.

    Raises:
        ConfigError: an index without a count, or one that is not below it.
    """
    told = _told(environment)
    count = told.count if settings.count == AUTO else int(settings.count)
    index = (told.index if count > 1 else 0) if settings.index == AUTO else int(settings.index)
    if not 0 <= index < count:
        raise ConfigError(f"shard.index: {index} is not below shard.count={count}")
    return Partition(index, count)


def _told(environment: Mapping[str, str]) -> Partition:
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return Partition(int(environment["RANK"]), int(environment["WORLD_SIZE"]))
    if "SLURM_ARRAY_TASK_ID" in environment:
        task, first, last, step = (
            int(environment.get(f"SLURM_ARRAY_TASK_{key}", default))
            for key, default in (("ID", 0), ("MIN", 0), ("MAX", 0), ("STEP", 1))
        )
        count = int(environment.get("SLURM_ARRAY_TASK_COUNT", (last - first) // step + 1))
        return Partition((task - first) // step, count)
    return WHOLE
