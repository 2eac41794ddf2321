"""The partition of a run among processes that torchrun, Slurm or a person starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.config import AUTO, PartitionConfig
from pipeline.errors import ConfigError


@dataclass(frozen=True)
class Partition:
    """The shards of one process: every count-th shard, beginning at `index`."""

    index: int
    count: int

    @property
    def is_whole(self) -> bool:
        """Whether one process computes all shards of the run."""
        return self.count == 1

    @property
    def name(self) -> str:
        """The name in file names: 0-of-8."""
        return f"{self.index}-of-{self.count}"

    def shards(self, n_shards: int) -> range:
        """The shards of this partition.

        Adjacent shards go to different processes, because their images often cost the same time.
        """
        return range(self.index, n_shards, self.count)


WHOLE = Partition(0, 1)


def partition_of(
    settings: PartitionConfig, environment: Mapping[str, str] = os.environ
) -> Partition:
    """The partition of this process, from the settings or, where they say "auto", the launcher.

    torchrun sets RANK and WORLD_SIZE; a Slurm array job sets SLURM_ARRAY_TASK_ID and _COUNT.

    Raises:
        ConfigError: the index is not below the count.
    """
    launched = _launched_partition(environment)
    count = launched.count if settings.count == AUTO else int(settings.count)
    index = (launched.index if count > 1 else 0) if settings.index == AUTO else int(settings.index)
    if not 0 <= index < count:
        raise ConfigError(f"shard.index: {index} is not below shard.count={count}")
    return Partition(index, count)


def _launched_partition(environment: Mapping[str, str]) -> Partition:
    """The partition that torchrun or Slurm assigned to this process; WHOLE without a launcher."""
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
