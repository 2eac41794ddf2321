"""The pool of workers, which the process that was started controls."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

import ray
from ray import ObjectRef
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from pipeline.config import RayExecutor
from pipeline.errors import ConfigError, NotFinished, Stopped, shorten_list
from pipeline.run.executors import Advance, Task
from pipeline.run.executors.ray.cluster import cpus, gpus, reason
from pipeline.run.executors.ray.shard_queue import ShardQueue
from pipeline.run.executors.ray.worker import Result, Worker
from pipeline.run.versions import versions

log = logging.getLogger(__name__)

RESOURCES = ("CPU", "GPU", "memory")
"""Resources of the cluster that a message lists."""


@dataclass
class WorkerPool:
    """The workers of a run, by state.

    started, loading and busy map the pending result of each worker's call (versions, open,
    compute) to the worker; busy holds its shards, too. signals are those that have arrived.
    false_starts counts workers that died before they computed a shard; elsewhere is Task.elsewhere
    in Ray's object store.
    """

    settings: RayExecutor
    task: Task
    queue: ShardQueue
    advance: Advance
    signals: list[int] = field(default_factory=list)
    started: dict[ObjectRef, ActorHandle] = field(default_factory=dict)
    loading: dict[ObjectRef, ActorHandle] = field(default_factory=dict)
    busy: dict[ObjectRef, tuple[ActorHandle, list[int]]] = field(default_factory=dict)
    idle: list[ActorHandle] = field(default_factory=list)
    false_starts: int = 0
    elsewhere: ObjectRef | None = None

    def work(self, size: int) -> None:
        """Compute the shards of the queue with a number of workers.

        Raises:
            Stopped: a signal arrived.
            NotFinished, ConfigError: as run().
        """
        self.elsewhere = ray.put(self.task.elsewhere)  # stored once for all workers
        for _ in range(size):
            self._start()
        deadline = time.monotonic() + self.settings.timeout
        while self._assign_shards():
            pending = [*self.started, *self.loading, *self.busy]
            done, _ = ray.wait(pending, timeout=1.0)
            if self.signals:
                raise Stopped(self.signals[0])
            for result in done:
                self._receive(result)
            if self.loading or self.busy or self.idle:
                deadline = time.monotonic() + self.settings.timeout
            elif time.monotonic() > deadline:
                raise NotFinished(self._no_worker_message())

    def stop(self) -> None:
        """End all workers."""
        with_shards = [worker for worker, _ in self.busy.values()]
        for worker in [*self.started.values(), *self.loading.values(), *with_shards, *self.idle]:
            ray.kill(worker)

    @property
    def _needs(self) -> dict[str, float]:
        cores = cpus(self.settings, self.task.device)
        return {"num_cpus": cores, "num_gpus": gpus(self.settings, self.task.device)}

    def _start(self) -> None:
        worker = ray.remote(Worker).options(**self._needs, max_restarts=0).remote()
        self.started[worker.versions.remote()] = worker

    def _assign_shards(self) -> bool:
        """Give shards to every idle worker; return whether any shard is not committed yet."""
        n_workers = len(self.idle) + len(self.busy) + len(self.loading)
        while self.idle and (group := self.queue.take(n_workers)):
            worker = self.idle.pop()
            self.busy[worker.compute.remote(group)] = (worker, group)
        return bool(self.busy or self.queue.waiting or self.queue.suspected)

    def _receive(self, pending: ObjectRef) -> None:
        """Process the result of a worker's call, or the worker's death."""
        if pending in self.started:
            self._load(self.started.pop(pending), pending)
            return
        loaded = pending in self.loading
        worker, group = (self.loading.pop(pending), []) if loaded else self.busy.pop(pending)
        try:
            result: Result = ray.get(pending)
        except RayError as error:
            self._replace(group, error)
            return
        if result.error is not None:
            raise result.error
        self.idle.append(worker)
        self.advance(result.images)
        _check_shared(self.task.missing(group))

    def _load(self, worker: ActorHandle, versions_there: ObjectRef) -> None:
        """Check the versions of a worker that has started; let it open dataset and model."""
        try:
            _check_versions(ray.get(versions_there))
        except RayActorError as error:
            self._replace([], error)
            return
        except RayError as error:
            raise ConfigError(
                f"a worker cannot run this, is the same camaudit installed there? {reason(error)}"
            ) from error
        cores = int(self._needs["num_cpus"])
        self.loading[worker.open.remote(self.elsewhere, cores)] = worker

    def _replace(self, group: list[int], error: RayError) -> None:
        """Start another worker for one that died; put its missing shards back into the queue."""
        missing = self.task.missing(group)
        log.warning(
            "a worker died while it computed %s; %d shards are computed again: %s",
            shorten_list([f"part-{shard:05d}" for shard in group]) or "no shard",
            len(missing),
            reason(error),
        )
        self.false_starts += not group
        if self.false_starts > self.settings.tries:
            raise NotFinished(f"workers die before they are ready: {reason(error)}")
        self.queue.put_back(group, missing)
        self._start()

    def _no_worker_message(self) -> str:
        """What a worker needs, and what the cluster has."""
        needs = {name.removeprefix("num_"): count for name, count in self._needs.items()}
        has = {name: count for name, count in ray.cluster_resources().items() if name in RESOURCES}
        return (
            f"no worker could be started within {self.settings.timeout:g} s: each needs {needs}, "
            f"the cluster has {has or 'nothing'}"
        )


def _check_versions(there: dict[str, str]) -> None:
    """Compare the versions on a worker's machine with those of this machine.

    Raises:
        ConfigError: naming every library that differs.
    """
    differences = [
        f"{name} {there.get(name)}, here {version}"
        for name, version in versions().items()
        if there.get(name) != version
    ]
    if differences:
        raise ConfigError(f"a worker has other versions: {'; '.join(differences)}")


def _check_shared(missing: list[int]) -> None:
    """Fail if parts that a worker committed cannot be read here.

    Raises:
        ConfigError: the folder of the run is not shared by all machines.
    """
    if missing:
        raise ConfigError(
            f"output_dir: a worker has committed part-{missing[0]:05d}, which cannot be read "
            "here; it must be a folder that all machines share"
        )
