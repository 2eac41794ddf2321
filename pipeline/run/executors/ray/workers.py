"""The workers of a run, led from the process that was started."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from pipeline.config import RayExecutor
from pipeline.errors import ConfigError, NotFinished, Stopped, some
from pipeline.run.executors import Advance, Task
from pipeline.run.executors.ray.cluster import cpus, gpus, reason
from pipeline.run.executors.ray.shard_queue import ShardQueue
from pipeline.run.executors.ray.worker import Result, Worker
from pipeline.run.versions import versions

log = logging.getLogger(__name__)

NAMED = ("CPU", "GPU", "memory")
"""Resources that a message tells of."""


@dataclass
class WorkerPool:
    """The workers of a run and what each is at."""

    settings: RayExecutor
    task: Task
    queue: ShardQueue
    advance: Advance
    signals: list[int] = field(default_factory=list)
    """Those that arrived."""
    started: dict[Any, Any] = field(default_factory=dict)
    """Workers by the answer awaited to whether they are there, to opening, to shards."""
    opening: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, list[int]]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    false_starts: int = 0
    elsewhere: Any = None
    """The task's, as all workers get it."""

    def work(self, size: int) -> None:
        """Let so many workers compute what waits.

        Raises:
            Stopped: by a signal.
            NotFinished, ConfigError: as run().
        """
        self.elsewhere = ray.put(self.task.elsewhere)  # once, not with each worker
        for _ in range(size):
            self._start()
        deadline = time.monotonic() + self.settings.timeout
        while self._hand_out():
            awaited = [*self.started, *self.opening, *self.busy]
            done, _ = ray.wait(awaited, timeout=1.0)
            if self.signals:
                raise Stopped(self.signals[0])
            for answer in done:
                self._hear(answer)
            if self.opening or self.busy or self.idle:
                deadline = time.monotonic() + self.settings.timeout
            elif time.monotonic() > deadline:
                raise NotFinished(self._nobody())

    def dismiss(self) -> None:
        """End all workers."""
        with_shards = [worker for worker, _ in self.busy.values()]
        for worker in [*self.started.values(), *self.opening.values(), *with_shards, *self.idle]:
            ray.kill(worker)

    @property
    def _needs(self) -> dict[str, float]:
        cores = cpus(self.settings, self.task.device)
        return {"num_cpus": cores, "num_gpus": gpus(self.settings, self.task.device)}

    def _start(self) -> None:
        worker = ray.remote(Worker).options(**self._needs, max_restarts=0).remote()
        self.started[worker.versions.remote()] = worker

    def _hand_out(self) -> bool:
        """Give shards to whoever is idle; whether anything is still to be done."""
        everyone = len(self.idle) + len(self.busy) + len(self.opening)
        while self.idle and (group := self.queue.take(everyone)):
            worker = self.idle.pop()
            self.busy[worker.compute.remote(group)] = (worker, group)
        return bool(self.busy or self.queue.waiting or self.queue.suspected)

    def _hear(self, answer: Any) -> None:
        """Take what a worker answered, or that it will not answer any more."""
        if answer in self.started:
            self._welcome(self.started.pop(answer), answer)
            return
        opened = answer in self.opening
        worker, group = (self.opening.pop(answer), []) if opened else self.busy.pop(answer)
        try:
            result: Result = ray.get(answer)
        except RayError as error:
            self._replace(group, error)
            return
        if result.error is not None:
            raise result.error
        self.idle.append(worker)
        self.advance(result.images)
        _check_shared(self.task.missing(group))

    def _welcome(self, worker: Any, answer: Any) -> None:
        """Let a worker that is there open pictures and model."""
        try:
            _check_versions(ray.get(answer))
        except RayActorError as error:
            self._replace([], error)
            return
        except RayError as error:
            raise ConfigError(
                f"a worker cannot run this, is the same camaudit installed there? {reason(error)}"
            ) from error
        cores = int(self._needs["num_cpus"])
        self.opening[worker.open.remote(self.elsewhere, cores)] = worker

    def _replace(self, group: list[int], error: RayError) -> None:
        """Another worker for one that died, and its shards to whoever is free."""
        left = self.task.missing(group)
        log.warning(
            "a worker died with %s at hand, of which %d are computed again: %s",
            some([f"part-{shard:05d}" for shard in group]) or "nothing",
            len(left),
            reason(error),
        )
        self.false_starts += not group
        if self.false_starts > self.settings.tries:
            raise NotFinished(f"workers die before they are ready: {reason(error)}")
        self.queue.put_back(group, left)
        self._start()

    def _nobody(self) -> str:
        needs = {name.removeprefix("num_"): count for name, count in self._needs.items()}
        has = {name: count for name, count in ray.cluster_resources().items() if name in NAMED}
        return (
            f"no worker could be started within {self.settings.timeout:g} s: each needs {needs}, "
            f"the cluster has {has or 'nothing'}"
        )


def _check_versions(there: dict[str, str]) -> None:
    told = [
        f"{name} {there.get(name)}, here {version}"
        for name, version in versions().items()
        if there.get(name) != version
    ]
    if told:
        raise ConfigError(f"a worker has other versions: {'; '.join(told)}")


def _check_shared(lost: list[int]) -> None:
    if lost:
        raise ConfigError(
            f"output_dir: a worker has committed part-{lost[0]:05d}, which is not to be seen here; "
            "it must be a place that all machines share"
        )
