"""The worker process on a machine of the cluster."""

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
    """The outcome of a call of a worker: number of explained images, or an error."""

    images: int = 0
    error: Exception | None = None


class Worker:
    """Ray actor that computes shards; its methods return an error instead of raising it."""

    def __init__(self) -> None:
        self.work: Work | None = None

    def versions(self) -> dict[str, str]:
        """Versions of the libraries on this machine (run.versions)."""
        return versions()

    def open(self, elsewhere: Callable[[int], Work], cpus: int) -> Result:
        """Open the dataset and load the model, for a number of cores."""

        def load() -> int:
            self.work = elsewhere(cpus)
            return 0

        return _catch(load)

    def compute(self, shards: list[int]) -> Result:
        """Compute shards and commit each."""
        images: list[int] = []

        def explain() -> int:
            assert self.work is not None
            self.work(shards, images.append)
            return sum(images)

        return _catch(explain)


def _catch(work: Callable[[], int]) -> Result:
    """Call work(), which returns a number of images, and catch what it raises."""
    try:
        with faults.as_not_finished():
            return Result(work())
    except AuditError as error:
        return Result(error=error)
    except Exception:  # noqa: BLE001 - raised again by the pool
        return Result(error=RuntimeError(f"in a worker: {traceback.format_exc()}"))
