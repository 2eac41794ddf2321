"""Explain the images of shards and commit each shard as one part.

Three things run at once: loader processes decode images, this thread keeps the device busy, and a
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
from pipeline.data.datasets import open_source
from pipeline.data.loader import Batch, load_images, n_loader_processes, plan_batches
from pipeline.data.source import Source
from pipeline.engine import inference
from pipeline.engine.batch_size import RetryOnOutOfMemory
from pipeline.run import checks, partition, shard_table
from pipeline.run.executors import Advance, Task, Work
from pipeline.run.monitoring.progress import progress_bar
from pipeline.run.shard_table import ShardBuffer, split_by_shard
from pipeline.run.state import Journal
from pipeline.run.worker import ReusableShards, ShardWorker, add_failed_shards, join, prepare
from pipeline.storage import run_folder

log = logging.getLogger(__name__)

MAX_QUEUED_COMMITS = 2
"""Shards that may wait for the writing thread; each holds the memory of its columns."""


def explain_dataset(config: Config, journal: Journal, source: Source) -> None:
    """Plan the images of a source, compute the shards that are missing, commit their parts.

    Raises:
        ConfigError: settings differ from those that the run began with.
    """
    worker = prepare(config, journal, source)
    setup = worker.plan.setup
    mine = partition.partition_of(config.shard).shards(setup.n_shards)
    missing = run_folder.verify(worker.run, setup, mine)
    if config.retry_errors:
        missing = add_failed_shards(worker, missing, mine)
    planned = sum(len(setup.rows(shard)) for shard in missing)
    todo = sum(len(worker.wanted(shard)) for shard in missing)
    done = sum(len(setup.rows(shard)) for shard in mine) - planned
    log.info("%d images to explain, %d are done", todo, done)
    if planned > todo:
        log.info("%d images have not changed; their earlier rows are reused", planned - todo)
    if missing:
        begun = time.perf_counter()
        _execute(config, worker, missing, todo, done)
        journal.attempt.images = todo
        journal.attempt.images_per_second = round(todo / (time.perf_counter() - begun), 2)
    if len(mine) == setup.n_shards:
        checks.review(worker.run, setup, journal)


def _execute(config: Config, worker: ShardWorker, missing: list[int], todo: int, done: int) -> None:
    """Compute the missing shards with the executor of the settings."""
    execute = importlib.import_module(f"pipeline.run.executors.{config.executor.name}").run
    elsewhere = replace(config, device=worker.device.type)
    task = Task(
        here=partial(explain_shards, worker),
        elsewhere=partial(_join_and_explain, elsewhere, worker.reusable),
        missing=partial(run_folder.missing_shards, worker.run, worker.plan.setup),
        device=worker.device.type,
    )
    with progress_bar(todo + done, done) as advance:
        execute(config.executor, task, missing, advance)


def _join_and_explain(config: Config, reusable: ReusableShards, cores: int) -> Work:
    """The work of another process, which opens source and model itself and uses some cores."""
    torch.set_num_threads(cores)
    loader = config.loader
    if loader.num_workers == AUTO:
        loader = replace(loader, num_workers=cores - 1)
    source = open_source(config.dataset, config.data.max_pixels)
    return partial(explain_shards, join(replace(config, loader=loader), source, reusable))


def explain_shards(worker: ShardWorker, shards: list[int], advance: Advance) -> None:
    """Compute shards; commit each as soon as its last image is explained."""
    setup, classifier = worker.plan.setup, worker.classifier
    wanted = {shard: worker.wanted(shard) for shard in shards}
    loader = load_images(
        worker.source.read,
        classifier.preprocess.fit,
        plan_batches(wanted, setup),
        n_loader_processes(worker.config.loader.num_workers),
        pin=worker.device.type == "cuda",
        timeout=worker.config.data.timeout,
    )
    labels = worker.plan.table["label_index"].fill_null(inference.NO_LABEL).to_numpy()
    cam, size = worker.config.cam, setup.resolved.batch_size
    open_shards: dict[int, ShardBuffer] = {}
    with (
        inference.explaining(classifier, cam.method, cam.embedding_dim, size) as explain,
        _writing_thread() as submit,
    ):
        for shard in [shard for shard, positions in wanted.items() if not positions]:
            submit(partial(_commit, worker, shard, ShardBuffer([])))
        for batch in loader:
            columns = _explain_batch(worker.device, batch, labels, explain)
            for shard, own, rows in split_by_shard(batch, columns, setup.shard_size):
                buffer = open_shards.setdefault(shard, ShardBuffer(wanted[shard]))
                buffer.add(own, rows)
                if buffer.is_full:
                    submit(partial(_commit, worker, shard, open_shards.pop(shard)))
            advance(len(batch.indices) + len(batch.errors))


def _explain_batch(
    device: torch.device, batch: Batch, labels: NDArray[np.int32], explain: RetryOnOutOfMemory
) -> dict[str, Tensor]:
    """Columns of a batch; a GPU may still be computing them when this returns."""
    if not batch.indices:
        return {}
    given = torch.from_numpy(labels[batch.indices].astype(np.int64))
    images = batch.images.to(device, non_blocking=True)
    objects = None if batch.objects is None else batch.objects.to(device, non_blocking=True)
    return explain(images, given.to(device, non_blocking=True), objects)


@contextmanager
def _writing_thread() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield submit(commit), which runs commits in a thread and raises what went wrong there."""
    waiting: deque[Future[None]] = deque()
    # PyTorch gets one thread here; more threads would compete with those of the model.
    with ThreadPoolExecutor(1, "commit", torch.set_num_threads, (1,)) as thread:

        def submit(commit: Callable[[], None]) -> None:
            waiting.append(thread.submit(commit))
            while len(waiting) > MAX_QUEUED_COMMITS or (waiting and waiting[0].done()):
                waiting.popleft().result()

        yield submit
        for commit in waiting:
            commit.result()


def _commit(worker: ShardWorker, shard: int, buffer: ShardBuffer) -> None:
    """Commit a shard: the computed rows and the reused ones, in planned order."""
    planned, reusable = worker.planned(shard), worker.reusable_rows(shard)
    computed = np.isin(planned["index"].to_numpy(), buffer.positions)
    table = shard_table.build_table(planned.filter(pa.array(computed)), buffer, worker.plan.setup)
    if reusable is not None and not computed.all():
        earlier = reusable.take(planned).cast(table.schema)
        table = pa.concat_tables([table, earlier]).sort_by("index")
    run_folder.commit_part(worker.run, worker.plan.setup, shard, table)
