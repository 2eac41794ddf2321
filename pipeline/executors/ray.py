"""Shards to the workers of a Ray cluster, each with a model and loaders of its own.

A worker asks for shards when it has none, so that a slow machine does not hold the others. What a
worker committed is committed; one that dies costs what it had at hand, which others compute again.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pipeline import faults
from pipeline.config import AUTO, RayExecutor
from pipeline.errors import AuditError, ConfigError, NotFinished, Stopped, some
from pipeline.executors import Advance, Task, Work
from pipeline.ops import versions

log = logging.getLogger(__name__)

try:
    import ray
    from ray.exceptions import RayError
except ImportError as missing:  # an extra
    raise ConfigError(
        f"executor=ray needs Ray here and on every machine: pip install 'camaudit[ray]' ({missing})"
    ) from missing

AT_ONCE = 8
"""Most shards that are handed to a worker at once; fewer towards the end, so that all end alike."""


def run(settings: RayExecutor, task: Task, shards: list[int], advance: Advance) -> None:
    """Have the shards computed by workers of the cluster.

    Raises:
        NotFinished: nobody answers, no worker can be started, or shards that were given up.
        ConfigError: machines that differ from this one, or do not write where this one reads.
    """
    with _cluster(settings) as signals:
        crew = Crew(settings, task, Queue(shards, settings.tries), advance, signals)
        try:
            crew.work(_size(settings, task.device, len(shards)))
        finally:
            crew.dismiss()
    given_up = crew.queue.given_up
    if given_up:
        names = some([f"part-{shard:05d}" for shard in given_up])
        raise NotFinished(
            f"{len(given_up)} shards were given up, as each took {settings.tries} workers down: "
            f"{names}; all others are committed, see Ray's logs for why workers died"
        )


@dataclass(frozen=True)
class Result:
    """What a worker says of its shards: images done, and what went wrong, if anything did."""

    images: int = 0
    error: Exception | None = None


class Worker:
    """In a process of its own, on whatever machine: computes shards, never raises."""

    def __init__(self) -> None:
        self.work: Work | None = None

    def versions(self) -> dict[str, str]:
        """What runs here."""
        return versions()

    def open(self, elsewhere: Callable[[int], Work], cpus: int) -> Result:
        """Open pictures and model."""

        def opened() -> int:
            self.work = elsewhere(cpus)
            return 0

        return _told(opened)

    def compute(self, shards: list[int]) -> Result:
        """Compute shards and commit each."""
        images: list[int] = []

        def computed() -> int:
            assert self.work is not None
            self.work(shards, images.append)
            return sum(images)

        return _told(computed)


def _told(work: Callable[[], int]) -> Result:
    """The images that work() has done, or what it raised."""
    try:
        with faults.told():
            return Result(work())
    except AuditError as error:
        return Result(error=error)
    except Exception:  # noqa: BLE001 - raised again where the run is led from
        return Result(error=RuntimeError(f"in a worker: {traceback.format_exc()}"))


class Queue:
    """Shards that wait; one that was at hand alone when its worker died has failed once."""

    def __init__(self, shards: list[int], tries: int) -> None:
        self.waiting, self.tries = deque(shards), tries
        self.suspected: deque[int] = deque()
        self.failed = Counter[int]()

    @property
    def given_up(self) -> list[int]:
        """Shards that took as many workers down as there are tries."""
        return sorted(shard for shard, times in self.failed.items() if times >= self.tries)

    def take(self, n_workers: int) -> list[int]:
        """Shards for one of so many workers; those that may be to blame for a death go alone."""
        if self.suspected and not self.waiting:
            return [self.suspected.popleft()]
        size = max(1, min(AT_ONCE, len(self.waiting) // (2 * n_workers)))
        return [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]

    def put_back(self, group: list[int], left: list[int]) -> None:
        """Shards whose worker died, of which some are left."""
        if len(group) == 1:
            self.failed.update(left)
        self.suspected += [shard for shard in left if self.failed[shard] < self.tries]


@dataclass
class Crew:
    """The workers of a run and what each is at."""

    settings: RayExecutor
    task: Task
    queue: Queue
    advance: Advance
    signals: list[int] = field(default_factory=list)
    """Those that arrived."""
    started: dict[Any, Any] = field(default_factory=dict)
    """Workers by the answer awaited to whether they are there, to opening, to shards."""
    opening: dict[Any, Any] = field(default_factory=dict)
    busy: dict[Any, tuple[Any, list[int]]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    false_starts: int = 0

    def work(self, size: int) -> None:
        """Let so many workers compute what waits.

        Raises:
            Stopped: by a signal.
            NotFinished, ConfigError: as run().
        """
        self.elsewhere = ray.put(self.task.elsewhere)
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
        cpus = _cpus(self.settings, self.task.device)
        return {"num_cpus": cpus, "num_gpus": _gpus(self.settings, self.task.device)}

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
            worker = self.started.pop(answer)
            _check_versions(_answered_at_start(answer))
            cpus = int(self._needs["num_cpus"])
            self.opening[worker.open.remote(self.elsewhere, cpus)] = worker
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

    def _replace(self, group: list[int], error: RayError) -> None:
        """Another worker for one that died, and its shards to whoever is free."""
        left = self.task.missing(group)
        log.warning(
            "a worker died with %s at hand, of which %d are computed again: %s",
            some([f"part-{shard:05d}" for shard in group]) or "nothing",
            len(left),
            _reason(error),
        )
        self.false_starts += not group
        if self.false_starts > self.settings.tries:
            raise NotFinished(f"workers die as they open model and pictures: {_reason(error)}")
        self.queue.put_back(group, left)
        self._start()

    def _nobody(self) -> str:
        needs = {name.removeprefix("num_"): count for name, count in self._needs.items()}
        has = {name: count for name, count in ray.cluster_resources().items() if name in NAMED}
        return (
            f"no worker could be started within {self.settings.timeout:g} s: each needs {needs}, "
            f"the cluster has {has or 'nothing'}"
        )


NAMED = ("CPU", "GPU", "memory")


def _size(settings: RayExecutor, device: str, n_shards: int) -> int:
    """Number of workers."""
    if settings.workers != AUTO:
        return min(int(settings.workers), n_shards)
    resources = ray.cluster_resources()
    room = resources.get("CPU", 0) // _cpus(settings, device)
    gpus = _gpus(settings, device)
    if gpus:
        room = min(room, resources.get("GPU", 0) // gpus)
    return max(1, min(int(room), n_shards))


def _gpus(settings: RayExecutor, device: str) -> float:
    if settings.gpus_per_worker != AUTO:
        return float(settings.gpus_per_worker)
    return 1.0 if device == "cuda" else 0.0


def _cpus(settings: RayExecutor, device: str) -> int:
    """Cores of a worker: on a GPU by default all that come to it, as they decode its images."""
    if settings.cpus_per_worker != AUTO:
        return int(settings.cpus_per_worker)
    gpus = _gpus(settings, device)
    if not gpus:
        return 1
    resources = ray.cluster_resources()
    workers = max(1.0, resources.get("GPU", 0) // gpus)
    return max(1, int(resources.get("CPU", 1) // workers))


@contextmanager
def _cluster(settings: RayExecutor) -> Iterator[list[int]]:
    """Connected to the cluster of the settings, or to one of this machine's own for so long.

    Yields the signals that arrive: a handler that raised inside Ray would be lost in its C++.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network but for the work
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    own = {"include_dashboard": False, "num_cpus": len(os.sched_getaffinity(0))}
    if settings.address is not None:
        _check_answers(settings.address, settings.timeout)
    try:
        ray.init(
            address=settings.address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if settings.address is None else {}),
        )
    except (ConnectionError, TimeoutError) as error:
        raise NotFinished(
            f"executor.address: no Ray cluster answers at {settings.address}: {_reason(error)}"
        ) from error
    except RuntimeError as error:  # so it is when versions differ
        raise ConfigError(f"executor.address: {settings.address}: {_reason(error)}") from error
    try:
        signals: list[int] = []
        for number in handlers:  # Ray's own would exit with a code of its own
            signal.signal(number, lambda arrived, _frame: signals.append(arrived))
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ray.shutdown()


def _check_answers(address: str, timeout: float) -> None:
    """Ask at HOST:PORT before Ray does, which would wait and try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):  # auto, or a name of Ray's
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except OSError as error:
        raise NotFinished(f"executor.address: nobody answers at {address}: {error}") from error


def _answered_at_start(answer: Any) -> dict[str, str]:
    try:
        found: dict[str, str] = ray.get(answer)
    except RayError as error:
        raise ConfigError(
            f"a worker cannot be started, is the same camaudit installed there? {_reason(error)}"
        ) from error
    return found


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


def _reason(error: BaseException) -> str:
    """What matters of an error of Ray's, which tells it in many lines."""
    text = str(error)
    named = re.search(r"^\s*((?:ModuleNotFound|Import)Error: .*)$", text, re.MULTILINE)
    return named[1] if named else (text.strip().splitlines() or [type(error).__name__])[0]
