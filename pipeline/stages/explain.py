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
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import (
    __version__,
    batching,
    dataset,
    engine,
    model,
    precision,
    rows,
    store,
    summary,
)
from pipeline.batching import Halving
from pipeline.config import AUTO, Config, fingerprint, result_settings
from pipeline.dataset import Batch
from pipeline.errors import ConfigError
from pipeline.model import Classifier
from pipeline.ops import Journal, keep_memory, pick_device, progress
from pipeline.rows import Explained
from pipeline.schema import Setup
from pipeline.sources import open_source
from pipeline.sources.source import Source
from pipeline.store import Plan, RunFolder

log = logging.getLogger(__name__)

BEHIND = 2
"""Shards that may wait to be written; more would be memory spent on a disk that cannot follow."""
COMPARED = 128
"""Images on which a faster precision is held against float32."""
WORTH = 16
"""A dataset so many times larger is worth the comparison; a smaller one runs in float32."""


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
    keep_memory()
    job = prepare(config, journal)
    setup = job.plan.setup
    missing = store.missing_shards(job.run, setup)
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
    earlier = store.read_plan(folder) if folder.plan.is_file() else None
    classifier, decided, measured = _decide(config, source, classifier, device, earlier)
    plan = make_plan(config, folder, source, classifier, decided, measured, earlier)
    journal.engine = plan.setup.decided | plan.setup.measured
    for warning in plan.setup.warnings:
        journal.warn(warning)
    return Job(config, folder, plan, source, classifier, device)


def make_plan(
    config: Config,
    folder: RunFolder,
    source: Source,
    classifier: Classifier,
    decided: dict[str, Any],
    measured: dict[str, Any],
    earlier: Plan | None,
) -> Plan:
    """The plan of the run: the committed one where it still holds, else a new one.

    Raises:
        ConfigError: naming the settings or images that changed since the run was begun.
    """
    names, label_index, notes = dataset.match_classes(
        source.class_names, classifier.class_names, classifier.n_outputs
    )
    settings = result_settings(config)
    setup = Setup(
        fingerprint=fingerprint(settings | decided),
        settings=settings,
        decided=decided,
        class_names=names,
        grid=classifier.grid,
        embedding_dim=min(classifier.channels, config.cam.embedding_dim),
        preprocess=asdict(classifier.preprocess),
        n_images=len(source.image_ids),
        shard_size=config.loader.shard_size,
        warnings=classifier.warnings + notes,
        measured=measured,
    )
    table = dataset.make_plan(source, label_index, setup.shard_size)
    if earlier is not None:
        _check_unchanged(folder, earlier, Plan(table, setup))
        return earlier
    plan = Plan(table, setup)
    store.write_plan(folder, plan)
    return plan


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
    with _explaining(job.config, classifier) as explain, _in_background() as commit:
        for shard in shards:
            explained = []
            for _ in range(-(-len(setup.rows(shard)) // setup.batch_size)):
                batch = next(batches)
                explained.append(_explained(job.device, batch, labels, explain))
                advance(len(batch.indices) + len(batch.errors))
            commit(partial(_commit, job, shard, explained))


@contextmanager
def _explaining(config: Config, classifier: Classifier) -> Iterator[Halving]:
    """explain(images, labels, objects) of a batch, while the graph is cut."""
    dimensions = min(classifier.channels, config.cam.embedding_dim)
    device = next(classifier.module.parameters()).device
    with classifier.cut_graph() as forward:
        yield Halving(
            partial(
                engine.explain,
                forward,
                classifier,
                method=config.cam.method,
                projection=engine.projection(classifier.channels, dimensions, device),
            )
        )


def _explained(
    device: torch.device, batch: Batch, labels: NDArray[np.int32], explain: Halving
) -> Explained:
    """A batch through the model; what it gives may still be on its way on the device."""
    if not batch.indices:
        return Explained.of(batch, {})
    given = torch.from_numpy(labels[batch.indices].astype(np.int64))
    images = batch.images.to(device, non_blocking=True)
    objects = None if batch.objects is None else batch.objects.to(device, non_blocking=True)
    return Explained.of(batch, explain(images, given.to(device, non_blocking=True), objects))


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


def _commit(job: Job, shard: int, explained: list[Explained]) -> None:
    positions = job.plan.setup.rows(shard)
    planned = job.plan.table.slice(positions[0], len(positions))
    table = rows.shard_table(planned, explained, job.plan.setup)
    store.commit_part(job.run, job.plan.setup, shard, table)


def _decide(
    config: Config,
    source: Source,
    classifier: Classifier,
    device: torch.device,
    earlier: Plan | None,
) -> tuple[Classifier, dict[str, Any], dict[str, Any]]:
    """The classifier made ready, what decides numbers, and the measurements that decided it.

    What is found automatically is found once: a resume keeps it.
    """
    kept: dict[str, Any] = earlier.setup.decided if earlier else {}
    decided = {
        "camaudit": __version__,
        "device": device.type,
        "model.target_layer": classifier.layer_name,
        "model.fingerprint": classifier.fingerprint,
        "compile": config.compile,
        "channels_last": config.channels_last and precision.takes_channels_last(classifier),
    }
    measured = dict(earlier.setup.measured) if earlier else {}
    decided["precision"] = config.precision
    if config.precision == AUTO:
        decided["precision"] = kept.get("precision")
        if earlier is None:
            decided["precision"], measured = _choose(config, source, classifier, decided, device)
    ready = precision.as_decided(classifier, decided)
    decided["loader.batch_size"] = config.loader.batch_size
    if config.loader.batch_size == AUTO:
        decided["loader.batch_size"] = kept.get("loader.batch_size")
        if earlier is None:
            with _explaining(config, ready) as explain:
                size = batching.fitting(explain, device, classifier.preprocess.crop)
            decided["loader.batch_size"] = size
    return ready, decided, measured


def _choose(
    config: Config,
    source: Source,
    classifier: Classifier,
    decided: dict[str, Any],
    device: torch.device,
) -> tuple[str, dict[str, Any]]:
    """The fastest precision that says the same as float32 on images of the dataset."""
    fastest, n_images = precision.fastest(device), len(source.image_ids)
    if fastest == "fp32" or n_images < WORTH * COMPARED:
        return "fp32", {}
    images = _pictures(config, source, classifier, device)
    if not images:
        return "fp32", {}
    exact, fast = (
        precision.as_decided(classifier, decided | {"precision": name, "compile": False})
        for name in ("fp32", fastest)
    )
    found = precision.agreement(exact, fast, images)
    log.info(
        "%s on %d images: %.1f %% of the predictions and %.4f of the heatmaps (cosine) as in fp32",
        *(fastest, found.images, 100 * found.top1, found.cosine),
    )
    return fastest if found.holds else "fp32", {fastest: asdict(found)}


def _pictures(
    config: Config, source: Source, classifier: Classifier, device: torch.device
) -> list[Tensor]:
    """COMPARED images (N, 3, H, W) uint8 from all over the dataset, in batches."""
    spread = np.linspace(0, len(source.image_ids) - 1, COMPARED).round().astype(int).tolist()
    batches = [spread[at : at + 16] for at in range(0, COMPARED, 16)]
    loader = dataset.load(
        source.read,
        classifier.preprocess.fit,
        batches,
        dataset.workers(config.loader.num_workers),
    )
    return [batch.images.to(device) for batch in loader if batch.indices]


def _check_unchanged(folder: RunFolder, earlier: Plan, now: Plan) -> None:
    before = earlier.setup.settings | earlier.setup.decided
    after = now.setup.settings | now.setup.decided
    changed = [
        f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    if earlier.setup.class_names != now.setup.class_names:
        changed.append("class names")
    if not changed and not earlier.table.equals(now.table):
        old, new = (set(plan.table["image_id"].to_pylist()) for plan in (earlier, now))
        changed.append(
            f"dataset: {len(new - old)} images new, {len(old - new)} gone, or other labels"
        )
    if changed:
        raise ConfigError(
            f"{folder.path} was begun differently; set these back or choose another run_id:\n  "
            + "\n  ".join(changed)
        )
