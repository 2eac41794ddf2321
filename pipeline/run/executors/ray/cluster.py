"""Connect to a Ray cluster, count its workers and their resources, shorten its errors."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.config import AUTO, RayExecutor
from pipeline.errors import ConfigError, NotFinished, one_line


@contextmanager
def connect(settings: RayExecutor) -> Iterator[list[int]]:
    """Connect to the cluster of the settings; without an address, start one on this machine.

    Yields a list to which signals are added as they arrive, because an exception that a handler
    raises inside Ray is lost in its C++ code.

    Raises:
        NotFinished: no cluster answers at the address.
        ConfigError: the cluster has another version of Ray.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network traffic beside the work
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
            f"executor.address: no Ray cluster answers at {settings.address}: {reason(error)}"
        ) from error
    except RuntimeError as error:  # raised when versions differ
        raise ConfigError(f"executor.address: {settings.address}: {reason(error)}") from error
    try:
        signals: list[int] = []
        for number in handlers:  # Ray's handlers exit with other codes
            signal.signal(number, lambda arrived, _frame: signals.append(arrived))
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        ray.shutdown()


def _check_answers(address: str, timeout: float) -> None:
    """Connect to HOST:PORT for a moment, because Ray itself retries for minutes.

    Raises:
        NotFinished: nothing listens there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):  # "auto", or a name that Ray resolves
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except OSError as error:
        raise NotFinished(
            f"executor.address: no Ray cluster answers at {address}: {error}"
        ) from error


def n_workers(settings: RayExecutor, device: str, n_shards: int) -> int:
    """The number of workers: from the settings, or as many as the cluster has room for."""
    if settings.workers != AUTO:
        return min(int(settings.workers), n_shards)
    resources = ray.cluster_resources()
    room = resources.get("CPU", 0) // cpus(settings, device)
    each = gpus(settings, device)
    if each:
        room = min(room, resources.get("GPU", 0) // each)
    return max(1, min(int(room), n_shards))


def gpus(settings: RayExecutor, device: str) -> float:
    """GPUs of a worker; a fraction if several workers share a GPU."""
    if settings.gpus_per_worker != AUTO:
        return float(settings.gpus_per_worker)
    return 1.0 if device == "cuda" else 0.0


def cpus(settings: RayExecutor, device: str) -> int:
    """Cores of a worker; by default, a worker with a GPU gets an equal share, to decode images."""
    if settings.cpus_per_worker != AUTO:
        return int(settings.cpus_per_worker)
    each = gpus(settings, device)
    if not each:
        return 1
    resources = ray.cluster_resources()
    workers = max(1.0, resources.get("GPU", 0) // each)
    return max(1, int(resources.get("CPU", 1) // workers))


def reason(error: BaseException) -> str:
    """The cause of a Ray error in one line, from a message of many lines."""
    text = str(error)
    named = re.search(r"^\s*((?:ModuleNotFound|Import)Error: .*)$", text, re.MULTILINE)
    return named[1] if named else one_line(error, with_type=False, first_line_only=True)
