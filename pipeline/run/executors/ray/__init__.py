"""Shards to the workers of a Ray cluster, each with a model and loaders of its own.

A worker asks for shards when it has none, so that a slow machine does not hold the others. What a
worker committed is committed; one that dies costs what it had at hand, which others compute again.
"""

from __future__ import annotations

from pipeline.config import RayExecutor
from pipeline.errors import ConfigError, NotFinished, some
from pipeline.run.executors import Advance, Task

try:
    import ray  # noqa: F401
except ImportError as missing:  # an extra
    raise ConfigError(
        f"executor=ray needs Ray here and on every machine: pip install 'camaudit[ray]' ({missing})"
    ) from missing

from pipeline.run.executors.ray.cluster import connected, n_workers
from pipeline.run.executors.ray.shard_queue import ShardQueue
from pipeline.run.executors.ray.workers import WorkerPool


def run(settings: RayExecutor, task: Task, shards: list[int], advance: Advance) -> None:
    """Have the shards computed by workers of the cluster.

    Raises:
        NotFinished: nobody answers, no worker can be started, or shards that were given up.
        ConfigError: machines that differ from this one, or do not write where this one reads.
    """
    with connected(settings) as signals:
        crew = WorkerPool(settings, task, ShardQueue(shards, settings.tries), advance, signals)
        try:
            crew.work(n_workers(settings, task.device, len(shards)))
        finally:
            crew.dismiss()
    given_up = crew.queue.given_up
    if given_up:
        names = some([f"part-{shard:05d}" for shard in given_up])
        raise NotFinished(
            f"{len(given_up)} shards were given up, as each took {settings.tries} workers down: "
            f"{names}; all others are committed, see Ray's logs for why workers died"
        )
