"""Load images in batches: read, decode and fit them in parallel processes."""

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
from pipeline.data.source import DecodedImage
from pipeline.errors import one_line
from pipeline.storage.run_setup import Setup

Fit = Callable[[NDArray[np.uint8]], Tensor]


@dataclass(frozen=True)
class Batch:
    """The images of a batch that were read, and the errors of the others.

    images is (n, 3, H, W) uint8 for the n positions in `indices`; sizes (n, 2) holds width and
    height in pixels before fitting; objects is (n, H, W) in [0, 1], all zero for an image without
    a marked object, or None if no image of the batch has one.
    """

    indices: list[int]
    images: Tensor
    sizes: list[tuple[int, int]]
    objects: Tensor | None
    errors: list[tuple[int, str]]

    def pin_memory(self) -> Batch:
        """Copy the batch to pinned memory; DataLoader calls the method by this name."""
        objects = None if self.objects is None else self.objects.pin_memory()
        return replace(self, images=self.images.pin_memory(), objects=objects)


@dataclass(frozen=True)
class LoadedImage:
    """One image before it is put into a batch; image is None if there is an error."""

    index: int
    image: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    object: Tensor | None = None
    error: str = ""


class FittedImages(Dataset[Any]):
    """The images of a source, fitted to the model's input size; a bad image becomes an error."""

    def __init__(
        self, read: Callable[[int], DecodedImage], fit: Fit, timeout: float | None = None
    ) -> None:
        self.read, self.fit, self.timeout = read, fit, timeout

    def __getitem__(self, index: int) -> LoadedImage:
        try:
            with _time_limit(self.timeout):
                decoded = self.read(index)
            height, width = decoded.pixels.shape[:2]
            marked = None
            if decoded.object is not None:
                marked = self.fit(decoded.object[..., None])[0].float() / 255
            return LoadedImage(index, self.fit(decoded.pixels), (width, height), marked)
        except Exception as error:  # noqa: BLE001 - any error of a file or dataset becomes a row
            return LoadedImage(index, error=one_line(error))


@contextmanager
def _time_limit(seconds: float | None) -> Iterator[None]:
    """Interrupt the context after a number of seconds; only in a process's main thread.

    Raises:
        DecodeError: the time is over.
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
    read: Callable[[int], DecodedImage],
    fit: Fit,
    batches: Sequence[Sequence[int]],
    n_workers: int,
    *,
    pin: bool = False,
    timeout: float | None = None,
) -> DataLoader[Batch]:
    """Load the images at the given positions, batch by batch, in n_workers processes.

    An image whose reading takes longer than `timeout` seconds becomes an error.
    """
    return DataLoader(
        FittedImages(read, fit, timeout),
        batch_sampler=batches,  # type: ignore[arg-type]  # ranges, which take no memory, work too
        num_workers=n_workers,
        collate_fn=collate,
        worker_init_fn=_quiet_worker,
        pin_memory=pin,
        prefetch_factor=4 if n_workers else None,
        # A forked child has the modules of its parent; a factory's module could not be imported.
        multiprocessing_context="fork" if n_workers and sys.platform == "linux" else None,
    )


def plan_batches(wanted: Mapping[int, Sequence[int]], setup: Setup) -> list[Sequence[int]]:
    """Divide the wanted positions of shards into batches.

    A batch holds images of one shard. Shards of which only some images are wanted come last, and
    share batches: a batch of few images costs as much as a full one.
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
    """Number of loader processes: "auto" leaves one of the allowed cores to the main process.

    The processes that torchrun starts on one machine share its cores equally.
    """
    if isinstance(setting, int):
        return setting
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 16))


def collate(samples: list[LoadedImage]) -> Batch:
    """Stack the images that were read, and collect the errors of the others."""
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
    """Stack images (C, H, W) to (N, C, H, W); the memory order stays rows, columns, channels."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def _quiet_worker(_worker: int) -> None:
    """Set up a loader process: no OpenCV threads, and signals are handled by the main process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
