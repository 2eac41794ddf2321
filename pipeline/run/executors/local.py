"""All shards in this process, one after the other."""

from __future__ import annotations

from pipeline.config import ExecutorConfig
from pipeline.run.executors import Advance, Task


def run(_settings: ExecutorConfig, task: Task, shards: list[int], advance: Advance) -> None:
    """Compute the shards here."""
    task.here(shards, advance)
