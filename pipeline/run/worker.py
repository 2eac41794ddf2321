"""What a process needs to compute shards of a run: its plan, pictures and model, made or joined."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import torch

from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.data.source import Source
from pipeline.engine import precision
from pipeline.errors import ConfigError
from pipeline.model.classifier import Classifier, load_classifier
from pipeline.model.device import pick_device
from pipeline.run import lock, partition, plan
from pipeline.run.reuse import NONE, ReusableRows, of_baseline, of_itself
from pipeline.run.state import Journal
from pipeline.storage import run_folder
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import Plan, RunFolder

log = logging.getLogger(__name__)

KnownShards = list[tuple[set[int], ReusableRows]]
"""Shards, and rows of them that need not be computed; the first that has a shard counts."""


@dataclass(frozen=True)
class ShardWorker:
    """All that a process needs to compute shards."""

    config: Config
    run: RunFolder
    plan: Plan
    source: Source
    classifier: Classifier
    device: torch.device
    known: KnownShards

    def planned(self, shard: int) -> pa.Table:
        """The planned images of a shard."""
        positions = self.plan.setup.rows(shard)
        return self.plan.table.slice(positions[0], len(positions))

    def known_of(self, shard: int) -> ReusableRows | None:
        """Where rows of a shard may be taken from."""
        return next((known for shards, known in self.known if shard in shards), None)

    def wanted(self, shard: int) -> Sequence[int]:
        """Positions of a shard that are to be computed."""
        positions, known = self.plan.setup.rows(shard), self.known_of(shard)
        if known is None:
            return positions
        return [index for index in positions if known.where[index] == NONE]


def prepare(config: Config, journal: Journal) -> ShardWorker:
    """Open the source, load the model, decide what is left open, and commit the plan.

    Raises:
        ConfigError: settings that differ from those the run was begun with.
        DataError: a dataset that cannot be listed.
    """
    folder, device = RunFolder(config.folder), pick_device(config.device)
    journal.attempt.device = str(device)
    journal.warnings.clear()
    source = open_source(config.dataset, config.data.max_pixels)
    if source.ignored:
        files = ", ".join(f"{count} {suffix}" for suffix, count in source.ignored.items())
        log.info("files that are no images were left out: %s", files)
    classifier = load_classifier(config.model, device, config.seed)
    with lock.planning(config.folder, partition.partition_of(config.shard)):
        planned, ready = plan.make(config, folder, source, classifier, device)
    journal.engine = planned.setup.decided | planned.setup.measured
    for warning in planned.setup.warnings:
        journal.warn(warning)
    known = _of_baseline(config, planned, journal) if config.baseline else []
    return ShardWorker(config, folder, planned, source, ready, device, known)


def join(config: Config, known: KnownShards) -> ShardWorker:
    """The job of a run that another process has prepared, on whatever machine this is.

    Raises:
        ConfigError: where this process sees another model, device or other images.
        DataError: a dataset that cannot be listed.
    """
    folder, device = RunFolder(config.folder), pick_device(config.device)
    planned = run_folder.read_plan(folder)
    decided = planned.setup.decided
    if device.type != decided["device"]:
        raise ConfigError(f"device: the run was planned on {decided['device']}, here is {device}")
    source = open_source(config.dataset, config.data.max_pixels)
    if not planned.table["image_id"].equals(pa.chunked_array([pa.array(source.image_ids)])):
        raise ConfigError("dataset: the images seen here are not those that were planned")
    layer = replace(config.model, target_layer=decided["model.target_layer"])
    classifier = load_classifier(layer, device, config.seed)
    if classifier.fingerprint != decided["model.fingerprint"]:
        raise ConfigError("model: the weights loaded here are not those of the run")
    ready = precision.as_decided(classifier, decided)
    return ShardWorker(config, folder, planned, source, ready, device, known)


def retried(job: ShardWorker, missing: list[int], mine: Sequence[int]) -> list[int]:
    """The missing shards and those of `mine` that hold errors, whose good rows are kept."""
    done = sorted(set(mine) - set(missing))
    known, failed = of_itself(job.run, job.plan.setup, done)
    job.known.insert(0, (set(failed), known))
    return sorted({*missing, *failed})


def _of_baseline(config: Config, planned: Plan, journal: Journal) -> KnownShards:
    """Rows of images that are as they were in the baseline, for every shard."""
    known, reasons = of_baseline(to_path(str(config.baseline)), RunFolder(config.folder), planned)
    if known is None:
        told = f"no row could be taken over from {config.baseline}: {'; '.join(reasons)}"
        log.warning("%s; all images are computed", told)
        journal.engine["baseline"] = told  # it costs time, but says nothing against the audit
        return []
    return [(set(range(planned.setup.n_shards)), known)]
