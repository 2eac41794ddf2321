"""The Ray executor: shards on the workers of a cluster, each with its own model and loaders.

An idle worker gets the next shards, so that a slow machine does not delay the others. When a worker
dies, its committed shards stay, and other workers compute the rest of its shards.
"""

from __future__ import annotations

from pipeline.config import RayExecutor
from pipeline.errors import ConfigError, NotFinished, shorten_list
from pipeline.run.executors import Advance, Task

try:
    import ray  # noqa: F401
except ImportError as missing:  # an extra
    raise ConfigError(
        f"executor=ray needs Ray here and on every machine: pip install 'camaudit[ray]' ({missing})"
    ) from missing

from pipeline.run.executors.ray.cluster import connect, n_workers
from pipeline.run.executors.ray.shard_queue import ShardQueue
from pipeline.run.executors.ray.workers import WorkerPool


def run(settings: RayExecutor, task: Task, shards: list[int], advance: Advance) -> None:
    """Compute the shards on workers of the cluster.

    Raises:
        NotFinished: no cluster answers, no worker can be started, or shards were given up.
        ConfigError: a worker has other versions, or writes to a folder that is not shared.
    """
    with connect(settings) as signals:
        pool = WorkerPool(settings, task, ShardQueue(shards, settings.tries), advance, signals)
        try:
            pool.work(n_workers(settings, task.device, len(shards)))
        finally:
            pool.stop()
    given_up = pool.queue.given_up
    if given_up:
        names = shorten_list([f"part-{shard:05d}" for shard in given_up])
        raise NotFinished(
            f"{len(given_up)} shards were given up, because {settings.tries} workers died "
            f"with each: {names}; all others are committed; Ray's logs say why the workers died"
        )
