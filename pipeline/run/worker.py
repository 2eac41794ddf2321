"""Prepare a process to compute shards of a run: plan, source and classifier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch

from pipeline.config import Config
from pipeline.data.source import Source
from pipeline.engine.precision import load_audited, prepare_as_resolved
from pipeline.errors import ConfigError
from pipeline.model.classifier import Classifier, load_classifier
from pipeline.model.device import pick_device
from pipeline.run import partition
from pipeline.run.lock import lock_plan
from pipeline.run.plan import plan_run
from pipeline.run.reuse import NONE, ReusableRows, rows_of_baseline, rows_of_run
from pipeline.run.state import Journal
from pipeline.storage import run_folder
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import Plan, RunFolder

log = logging.getLogger(__name__)

ReusableShards = list[tuple[set[int], ReusableRows]]
"""Sets of shards with their reusable rows; the first entry that holds a shard counts."""


@dataclass(frozen=True)
class ShardWorker:
    """A process that is ready to compute shards: settings, plan, source and prepared model."""

    config: Config
    run: RunFolder
    plan: Plan
    source: Source
    classifier: Classifier
    device: torch.device
    reusable: ReusableShards

    def planned(self, shard: int) -> pa.Table:
        """The planned images of a shard (plan_schema)."""
        positions = self.plan.setup.rows(shard)
        return self.plan.table.slice(positions[0], len(positions))

    def reusable_rows(self, shard: int) -> ReusableRows | None:
        """The earlier rows that can be reused in a shard; None if there are none."""
        return next((rows for shards, rows in self.reusable if shard in shards), None)

    def wanted(self, shard: int) -> Sequence[int]:
        """Plan positions of the images of a shard that have to be computed."""
        positions, reusable = self.plan.setup.rows(shard), self.reusable_rows(shard)
        if reusable is None:
            return positions
        return [index for index in positions if reusable.where[index] == NONE]


def prepare(config: Config, journal: Journal, source: Source) -> ShardWorker:
    """Load the model, resolve the settings, and commit the plan.

    Raises:
        ConfigError: settings differ from those that the run began with.
    """
    folder, device = RunFolder(config.folder), pick_device(config.device)
    journal.attempt.device = str(device)
    journal.warnings.clear()
    if source.ignored:
        ignored = ", ".join(f"{count} {suffix}" for suffix, count in source.ignored.items())
        log.info("files that are no images are left out: %s", ignored)
    classifier = load_classifier(config.model, device, config.seed)
    with lock_plan(config.folder, partition.partition_of(config.shard)):
        plan, ready = plan_run(config, folder, source, classifier, device)
    journal.engine = plan.setup.resolved.to_json() | plan.setup.measured
    for warning in plan.setup.warnings:
        journal.warn(warning)
    reusable = _reuse_baseline(config, plan, journal) if config.baseline else []
    return ShardWorker(config, folder, plan, source, ready, device, reusable)


def join(config: Config, source: Source, reusable: ReusableShards) -> ShardWorker:
    """Load source, model and plan of a run that another process, on any machine, has planned.

    Raises:
        ConfigError: the model, the kind of device or the images differ from those planned.
    """
    folder, device = RunFolder(config.folder), pick_device(config.device)
    plan = run_folder.read_plan(folder)
    resolved = plan.setup.resolved
    if device.type != resolved.device:
        raise ConfigError(f"device: the run was planned on {resolved.device}, here is {device}")
    if not plan.table["image_id"].equals(pa.chunked_array([pa.array(source.image_ids)])):
        raise ConfigError("dataset: the images seen here are not those that were planned")
    classifier = load_audited(config.model, resolved, device, config.seed)
    ready = prepare_as_resolved(classifier, resolved)
    return ShardWorker(config, folder, plan, source, ready, device, reusable)


def add_failed_shards(worker: ShardWorker, missing: list[int], mine: Sequence[int]) -> list[int]:
    """Add the shards of `mine` with error rows to the missing shards; reuse their good rows."""
    done = sorted(set(mine) - set(missing))
    reusable, failed = rows_of_run(worker.run, worker.plan.setup, done)
    worker.reusable.insert(0, (set(failed), reusable))
    return sorted({*missing, *failed})


def _reuse_baseline(config: Config, plan: Plan, journal: Journal) -> ReusableShards:
    """Find the rows of the baseline whose images have not changed, for every shard."""
    here = RunFolder(config.folder)
    reusable, reasons = rows_of_baseline(to_path(str(config.baseline)), here, plan)
    if reusable is None:
        message = f"no row of {config.baseline} can be reused: {'; '.join(reasons)}"
        log.warning("%s; all images are computed", message)
        journal.engine["baseline"] = message  # no warning: only the speed is affected
        return []
    return [(set(range(plan.setup.n_shards)), reusable)]
