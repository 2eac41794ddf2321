"""explain: every planned image through the model, one row each, one Parquet part per shard.

Three things go on at once: loader processes decode, this thread keeps the device busy, and a
writing thread fetches finished shards from the device and commits them.
"""

from __future__ import annotations

import importlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import dataset, engine, model, plan, rows, store, summary
from pipeline.batching import Halving
from pipeline.config import Config
from pipeline.dataset import Batch
from pipeline.known import NONE, Known, of_baseline, of_itself
from pipeline.model import Classifier
from pipeline.model.device import pick_device
from pipeline.ops import Journal, progress
from pipeline.places import place
from pipeline.rows import Explained, by_shard
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
    known: list[tuple[set[int], Known]]
    """Shards, and rows of them that need not be computed; the first that has a shard counts."""

    def planned(self, shard: int) -> pa.Table:
        """The planned images of a shard."""
        positions = self.plan.setup.rows(shard)
        return self.plan.table.slice(positions[0], len(positions))

    def known_of(self, shard: int) -> Known | None:
        """Where rows of a shard may be taken from."""
        return next((known for shards, known in self.known if shard in shards), None)

    def wanted(self, shard: int) -> Sequence[int]:
        """Positions of a shard that are to be computed."""
        positions, known = self.plan.setup.rows(shard), self.known_of(shard)
        if known is None:
            return positions
        return [index for index in positions if known.where[index] == NONE]


def run(config: Config, journal: Journal) -> None:
    """Plan the images, compute the shards that are missing, commit each as one part.

    Raises:
        ConfigError: settings that differ from those the run was begun with.
        DataError: a dataset that cannot be listed.
    """
    job = prepare(config, journal)
    setup = job.plan.setup
    missing = store.verify(job.run, setup)
    if config.retry_errors:
        missing = _retried(job, missing)
    planned = sum(len(setup.rows(shard)) for shard in missing)
    todo = sum(len(job.wanted(shard)) for shard in missing)
    log.info("%d images to explain, %d are done", todo, setup.n_images - planned)
    if planned > todo:
        log.info("%d more are as they were; their rows are taken over", planned - todo)
    if missing:
        execute = importlib.import_module(f"pipeline.executors.{config.executor.name}").run
        begun = time.perf_counter()
        with progress(setup.n_images, setup.n_images - todo) as advance:
            execute(partial(explain_shards, job), missing, advance)
        journal.attempt.images = todo
        journal.attempt.images_per_second = round(todo / (time.perf_counter() - begun), 2)
    summary.review(job.run, setup, journal)


def _retried(job: Job, missing: list[int]) -> list[int]:
    """The missing shards and those that hold errors, whose good rows are kept."""
    done = sorted(set(range(job.plan.setup.n_shards)) - set(missing))
    known, failed = of_itself(job.run, job.plan.setup, done)
    job.known.insert(0, (set(failed), known))
    return sorted({*missing, *failed})


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
    known = _of_baseline(config, planned, journal) if config.baseline else []
    return Job(config, folder, planned, source, ready, device, known)


def _of_baseline(config: Config, planned: Plan, journal: Journal) -> list[tuple[set[int], Known]]:
    """Rows of images that are as they were in the baseline, for every shard."""
    known, reasons = of_baseline(place(str(config.baseline)), RunFolder(config.folder), planned)
    if known is None:
        told = f"no row could be taken over from {config.baseline}: {'; '.join(reasons)}"
        log.warning("%s; all images are computed", told)
        journal.engine["baseline"] = told  # it costs time, but says nothing against the audit
        return []
    return [(set(range(planned.setup.n_shards)), known)]


def explain_shards(job: Job, shards: list[int], advance: Callable[[int], object]) -> None:
    """Compute shards and commit each when the last of its images is done."""
    setup, classifier = job.plan.setup, job.classifier
    wanted = {shard: job.wanted(shard) for shard in shards}
    loader = dataset.load(
        job.source.read,
        classifier.preprocess.fit,
        dataset.batches(wanted, setup),
        dataset.workers(job.config.loader.num_workers),
        pin=job.device.type == "cuda",
        timeout=job.config.data.timeout,
    )
    labels = job.plan.table["label_index"].fill_null(engine.NO_LABEL).to_numpy()
    how = job.config.cam
    open_shards: dict[int, Explained] = {}
    with (
        engine.explaining(classifier, how.method, how.embedding_dim, setup.batch_size) as explain,
        _in_background() as commit,
    ):
        for shard in [shard for shard, positions in wanted.items() if not positions]:
            commit(partial(_commit, job, shard, Explained([])))
        for batch in loader:
            columns = _columns(job.device, batch, labels, explain)
            for shard, own, rows in by_shard(batch, columns, setup.shard_size):
                explained = open_shards.setdefault(shard, Explained(wanted[shard]))
                explained.add(own, rows)
                if explained.is_full:
                    commit(partial(_commit, job, shard, open_shards.pop(shard)))
            advance(len(batch.indices) + len(batch.errors))


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
    planned, known = job.planned(shard), job.known_of(shard)
    computed = np.isin(planned["index"].to_numpy(), explained.positions)
    table = rows.shard_table(planned.filter(pa.array(computed)), explained, job.plan.setup)
    if known is not None and not computed.all():
        table = pa.concat_tables([table, known.take(planned).cast(table.schema)]).sort_by("index")
    store.commit_part(job.run, job.plan.setup, shard, table)
