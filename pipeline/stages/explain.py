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
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import dataset, engine, model, plan, rows, store, summary
from pipeline.batching import Halving
from pipeline.config import Config
from pipeline.dataset import Batch
from pipeline.model import Classifier
from pipeline.model.device import pick_device
from pipeline.ops import Journal, progress
from pipeline.rows import Explained
from pipeline.sources import open_source
from pipeline.sources.source import Source
from pipeline.store import Plan, RunFolder

log = logging.getLogger(__name__)

BEHIND = 2
"""Shards that may wait to be written; more would be memory spent on a disk that cannot follow."""


@dataclass(frozen=True)
class Job:
    """All that a worker needs to compute shards."""

    config: Config
    run: RunFolder
    plan: Plan
    source: Source
    classifier: Classifier
    device: torch.device


def run(config: Config, journal: Journal) -> None:
    """Plan the images, compute the shards that are missing, commit each as one part.

    Raises:
        ConfigError: settings that differ from those the run was begun with.
        DataError: a dataset that cannot be listed.
    """
    job = prepare(config, journal)
    setup = job.plan.setup
    missing = store.verify(job.run, setup)
    todo = sum(len(setup.rows(shard)) for shard in missing)
    log.info("%d images to explain, %d are done", todo, setup.n_images - todo)
    if missing:
        execute = importlib.import_module(f"pipeline.executors.{config.executor.name}").run
        begun = time.perf_counter()
        with progress(setup.n_images, setup.n_images - todo) as advance:
            execute(partial(explain_shards, job), missing, advance)
        journal.attempt.images = todo
        journal.attempt.images_per_second = round(todo / (time.perf_counter() - begun), 2)
    summary.review(job.run, setup, journal)


def prepare(config: Config, journal: Journal) -> Job:
    """Open the source, load the model, decide what is left open, and commit the plan.

    Raises:
        ConfigError, DataError: as `run`.
    """
    folder, device = RunFolder(config.folder), pick_device(config.device)
    journal.attempt.device = str(device)
    journal.warnings.clear()
    source = open_source(config.dataset, config.data.max_pixels)
    if source.ignored:
        files = ", ".join(f"{count} {suffix}" for suffix, count in source.ignored.items())
        log.info("files that are no images were left out: %s", files)
    classifier = model.load(config.model, device, config.seed)
    planned, ready = plan.make(config, folder, source, classifier, device)
    journal.engine = planned.setup.decided | planned.setup.measured
    for warning in planned.setup.warnings:
        journal.warn(warning)
    return Job(config, folder, planned, source, ready, device)


def explain_shards(job: Job, shards: list[int], advance: Callable[[int], object]) -> None:
    """Compute shards in order and commit each when its last batch is done."""
    setup, classifier = job.plan.setup, job.classifier
    loader = dataset.make_loader(
        job.source.read,
        classifier.preprocess.fit,
        setup,
        shards,
        dataset.workers(job.config.loader.num_workers),
        pin=job.device.type == "cuda",
    )
    batches = iter(loader)
    labels = job.plan.table["label_index"].fill_null(engine.NO_LABEL).to_numpy()
    how = job.config.cam
    with (
        engine.explaining(classifier, how.method, how.embedding_dim, setup.batch_size) as explain,
        _in_background() as commit,
    ):
        for shard in shards:
            explained = Explained(len(setup.rows(shard)))
            for _ in range(-(-len(setup.rows(shard)) // setup.batch_size)):
                batch = next(batches)
                explained.add(batch, _columns(job.device, batch, labels, explain))
                advance(len(batch.indices) + len(batch.errors))
            commit(partial(_commit, job, shard, explained))


def _columns(
    device: torch.device, batch: Batch, labels: NDArray[np.int32], explain: Halving
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


def _commit(job: Job, shard: int, explained: Explained) -> None:
    positions = job.plan.setup.rows(shard)
    planned = job.plan.table.slice(positions[0], len(positions))
    table = rows.shard_table(planned, explained, job.plan.setup)
    store.commit_part(job.run, job.plan.setup, shard, table)
