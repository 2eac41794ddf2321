"""What runs on the machines of a cluster."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.errors import AuditError
from pipeline.run import faults
from pipeline.run.executors import Work
from pipeline.run.versions import versions


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
        with faults.as_not_finished():
            return Result(work())
    except AuditError as error:
        return Result(error=error)
    except Exception:  # noqa: BLE001 - raised again where the run is led from
        return Result(error=RuntimeError(f"in a worker: {traceback.format_exc()}"))
