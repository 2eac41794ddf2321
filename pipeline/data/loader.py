"""From a source to a plan of shards, and from the plan to batches."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.data.decode import DecodeError
from pipeline.data.source import Picture
from pipeline.errors import one_line
from pipeline.storage.run_setup import Setup

Fit = Callable[[NDArray[np.uint8]], Tensor]


@dataclass(frozen=True)
class Batch:
    """Images of one shard that could be read, and the errors of those that could not.

    images is (n, 3, H, W) uint8 for the n positions in `indices`; sizes (n, 2) holds width and
    height before fitting; objects is (n, H, W) in [0, 1], all zero where no object is marked, or
    None where none of the batch is.
    """

    indices: list[int]
    images: Tensor
    sizes: list[tuple[int, int]]
    objects: Tensor | None
    errors: list[tuple[int, str]]

    def pin_memory(self) -> Batch:
        """The batch in memory that a GPU reads by itself; DataLoader knows the method by name."""
        objects = None if self.objects is None else self.objects.pin_memory()
        return replace(self, images=self.images.pin_memory(), objects=objects)


@dataclass(frozen=True)
class LoadedImage:
    """One image on its way into a batch; image is None where there is an error."""

    index: int
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    object: Tensor | None = None
    error: str = ""


class Fitted(Dataset[Any]):
    """The pictures of a source, fitted to the model's input; a bad one becomes an error."""

    def __init__(
        self, read: Callable[[int], Picture], fit: Fit, timeout: float | None = None
    ) -> None:
        self.read, self.fit, self.timeout = read, fit, timeout

    def __getitem__(self, index: int) -> LoadedImage:
        try:
            with _in_time(self.timeout):
                picture = self.read(index)
            height, width = picture.pixels.shape[:2]
            marked = None
            if picture.object is not None:
                marked = self.fit(picture.object[..., None])[0].float() / 255
            return LoadedImage(index, self.fit(picture.pixels), (width, height), marked)
        except Exception as error:  # noqa: BLE001 - whatever a bad file or dataset raises is its row
            return LoadedImage(index, error=one_line(error))


@contextmanager
def _in_time(seconds: float | None) -> Iterator[None]:
    """Interrupt what waits too long, in the main thread of a process, where signals arrive.

    Raises:
        DecodeError: after so many seconds.
    """

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise DecodeError(f"not read within {seconds:g} s")

    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def load_images(
    read: Callable[[int], Picture],
    fit: Fit,
    batches: Sequence[Sequence[int]],
    n_workers: int,
    *,
    pin: bool = False,
    timeout: float | None = None,
) -> DataLoader[Batch]:
    """The images at the given positions, batch by batch, decoded in n_workers processes.

    An image that takes longer than `timeout` seconds to be read is an error.
    """
    return DataLoader(
        Fitted(read, fit, timeout),
        batch_sampler=batches,  # type: ignore[arg-type]  # ranges take no memory, and will do
        num_workers=n_workers,
        collate_fn=collate,
        worker_init_fn=_quiet_worker,
        pin_memory=pin,
        prefetch_factor=4 if n_workers else None,
        # What the parent has loaded, a child must have too: a factory's module has no other way in.
        multiprocessing_context="fork" if n_workers and sys.platform == "linux" else None,
    )


def plan_batches(wanted: Mapping[int, Sequence[int]], setup: Setup) -> list[Sequence[int]]:
    """The wanted positions of shards, as batches.

    A batch holds images of one shard. Where a few images of a shard are wanted, which would cost as
    much as a whole batch, those of several shards are put together, after all others.
    """
    groups: list[Sequence[int]] = []
    few: list[int] = []
    for shard, positions in wanted.items():
        if len(positions) == len(setup.rows(shard)):
            groups.append(positions)
        else:
            few += positions
    size = setup.resolved.batch_size
    return [rows[at : at + size] for rows in [*groups, few] for at in range(0, len(rows), size)]


def n_loader_processes(setting: int | str) -> int:
    """Number of loader processes: auto leaves one of the allowed cores to the main process.

    Processes that torchrun started on this machine have an equal share of the cores.
    """
    if isinstance(setting, int):
        return setting
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 16))


def collate(samples: list[LoadedImage]) -> Batch:
    """Stack the images that could be read; keep the errors of the others."""
    good = [sample for sample in samples if sample.image is not None]
    images = [sample.image for sample in good if sample.image is not None]
    objects = None
    if any(sample.object is not None for sample in good):
        empty = torch.zeros(images[0].shape[1:])
        objects = torch.stack([empty if s.object is None else s.object for s in good])
    return Batch(
        indices=[sample.index for sample in good],
        images=_stacked(images) if images else torch.empty(0),
        sizes=[sample.size for sample in good],
        objects=objects,
        errors=[(sample.index, sample.error) for sample in samples if sample.image is None],
    )


def _stacked(images: list[Tensor]) -> Tensor:
    """(N, C, H, W) of (C, H, W), whose memory holds rows, columns, channels; so does the stack."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _quiet_worker(_worker: int) -> None:
    """Leave threads and signals to the main process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
