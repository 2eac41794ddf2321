"""explain: every planned image through the model, one row each, one Parquet part per shard.

Three things go on at once: loader processes decode, this thread keeps the device busy, and a
writing thread fetches finished shards from the device and commits them.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config import AUTO, Config
from pipeline.data.loader import Batch, load_images, n_loader_processes, plan_batches
from pipeline.engine import inference
from pipeline.engine.batch_size import RetryOnOutOfMemory
from pipeline.run import checks, partition, shard_table
from pipeline.run.executors import Advance, Task, Work
from pipeline.run.monitoring.progress import progress_bar
from pipeline.run.shard_table import ShardBuffer, by_shard
from pipeline.run.state import Journal
from pipeline.run.worker import KnownShards, ShardWorker, join, prepare, retried
from pipeline.storage import run_folder

log = logging.getLogger(__name__)

BEHIND = 2
"""Shards that may wait to be written; more would be memory spent on a disk that cannot follow."""


def run(config: Config, journal: Journal) -> None:
    """Plan the images, compute the shards that are missing, commit each as one part.

    Raises:
        ConfigError: settings that differ from those the run was begun with.
        DataError: a dataset that cannot be listed.
    """
    job = prepare(config, journal)
    setup = job.plan.setup
    mine = partition.partition_of(config.shard).shards(setup.n_shards)
    missing = run_folder.verify(job.run, setup, mine)
    if config.retry_errors:
        missing = retried(job, missing, mine)
    planned = sum(len(setup.rows(shard)) for shard in missing)
    todo = sum(len(job.wanted(shard)) for shard in missing)
    done = sum(len(setup.rows(shard)) for shard in mine) - planned
    log.info("%d images to explain, %d are done", todo, done)
    if planned > todo:
        log.info("%d more are as they were; their rows are taken over", planned - todo)
    if missing:
        execute = importlib.import_module(f"pipeline.run.executors.{config.executor.name}").run
        task = Task(
            here=partial(explain_shards, job),
            elsewhere=partial(_joined, replace(config, device=job.device.type), job.known),
            missing=partial(run_folder.missing_shards, job.run, setup),
            device=job.device.type,
        )
        begun = time.perf_counter()
        with progress_bar(todo + done, done) as advance:
            execute(config.executor, task, missing, advance)
        journal.attempt.images = todo
        journal.attempt.images_per_second = round(todo / (time.perf_counter() - begun), 2)
    if len(mine) == setup.n_shards:
        checks.review(job.run, setup, journal)


def _joined(config: Config, known: KnownShards, cores: int) -> Work:
    """The work in another process, which opens pictures and model for itself."""
    torch.set_num_threads(cores)
    loaders = config.loader
    if loaders.num_workers == AUTO:
        loaders = replace(loaders, num_workers=cores - 1)
    return partial(explain_shards, join(replace(config, loader=loaders), known))


def explain_shards(job: ShardWorker, shards: list[int], advance: Advance) -> None:
    """Compute shards and commit each when the last of its images is done."""
    setup, classifier = job.plan.setup, job.classifier
    wanted = {shard: job.wanted(shard) for shard in shards}
    loader = load_images(
        job.source.read,
        classifier.preprocess.fit,
        plan_batches(wanted, setup),
        n_loader_processes(job.config.loader.num_workers),
        pin=job.device.type == "cuda",
        timeout=job.config.data.timeout,
    )
    labels = job.plan.table["label_index"].fill_null(inference.NO_LABEL).to_numpy()
    how = job.config.cam
    open_shards: dict[int, ShardBuffer] = {}
    with (
        inference.explaining(
            classifier, how.method, how.embedding_dim, setup.batch_size
        ) as explain,
        _in_background() as commit,
    ):
        for shard in [shard for shard, positions in wanted.items() if not positions]:
            commit(partial(_commit, job, shard, ShardBuffer([])))
        for batch in loader:
            columns = _columns(job.device, batch, labels, explain)
            for shard, own, shard_table in by_shard(batch, columns, setup.shard_size):
                explained = open_shards.setdefault(shard, ShardBuffer(wanted[shard]))
                explained.add(own, shard_table)
                if explained.is_full:
                    commit(partial(_commit, job, shard, open_shards.pop(shard)))
            advance(len(batch.indices) + len(batch.errors))


def _columns(
    device: torch.device, batch: Batch, labels: NDArray[np.int32], explain: RetryOnOutOfMemory
) -> dict[str, Tensor]:
    """A batch through the model; what it gives may still be on its way on the device."""
    if not batch.indices:
        return {}
    given = torch.from_numpy(labels[batch.indices].astype(np.int64))
    images = batch.images.to(device, non_blocking=True)
    objects = None if batch.objects is None else batch.objects.to(device, non_blocking=True)
    return explain(images, given.to(device, non_blocking=True), objects)


@contextmanager
def _in_background() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Hands commits to a thread, at most BEHIND of them, and raises what went wrong in it."""
    waiting: deque[Future[None]] = deque()
    # One thread of PyTorch will do for it; more would take turns with those of the model.
    with ThreadPoolExecutor(1, "commit", torch.set_num_threads, (1,)) as thread:

        def commit(work: Callable[[], None]) -> None:
            waiting.append(thread.submit(work))
            while len(waiting) > BEHIND or (waiting and waiting[0].done()):
                waiting.popleft().result()

        yield commit
        for work in waiting:
            work.result()


def _commit(job: ShardWorker, shard: int, explained: ShardBuffer) -> None:
    planned, known = job.planned(shard), job.known_of(shard)
    computed = np.isin(planned["index"].to_numpy(), explained.positions)
    table = shard_table.build_table(planned.filter(pa.array(computed)), explained, job.plan.setup)
    if known is not None and not computed.all():
        table = pa.concat_tables([table, known.take(planned).cast(table.schema)]).sort_by("index")
    run_folder.commit_part(job.run, job.plan.setup, shard, table)
