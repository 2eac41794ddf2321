"""The local executor: all shards in this process, one after another."""

from __future__ import annotations

from pipeline.config import ExecutorConfig
from pipeline.run.executors import Advance, Task


def run(_settings: ExecutorConfig, task: Task, shards: list[int], advance: Advance) -> None:
    """Compute the shards in this process."""
    task.here(shards, advance)
