"""From a source to a plan of shards, and from the plan to batches."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.config import AUTO
from pipeline.decode import DecodeError
from pipeline.errors import ConfigError, some
from pipeline.schema import Setup, plan_schema
from pipeline.sources.source import Picture, Source, numbered
from pipeline.sources.source import describe as describe  # noqa: PLC0414 - the report's too

log = logging.getLogger(__name__)

ASKED = 256
"""Files that a thread asks for their versions at a time."""
Fit = Callable[[NDArray[np.uint8]], Tensor]


def match_classes(
    dataset_names: list[str] | None, model_names: list[str] | None, n_outputs: int
) -> tuple[list[str], dict[str, int], list[str]]:
    """Bring the dataset's class names and the model's outputs together, by name.

    A name that is there as it stands goes first; then case, spaces, dashes and underscores do not
    count. Names that the model has more than once get their position: "crane (134)".

    Returns:
        The name of each output, the output of each dataset label, and warnings.

    Raises:
        ConfigError: where they contradict, showing both.
    """
    if model_names is None:
        return _by_order(dataset_names, n_outputs)
    if len(model_names) != n_outputs:
        raise ConfigError(
            f"model.class_names: {len(model_names)} names for {n_outputs} outputs: "
            f"{some(model_names)}"
        )
    names, labels = numbered(model_names), dataset_names or []
    exact = {name: [index] for index, name in enumerate(names)}
    alike: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        alike.setdefault(folded(name), []).append(index)
    outputs = {label: exact.get(label) or alike.get(folded(label), []) for label in labels}
    unknown = [label for label, found in outputs.items() if not found]
    if labels and unknown == labels and all(_is_output(label, n_outputs) for label in labels):
        note = "the dataset's labels are numbers; they were taken as positions in model.class_names"
        outputs = {label: [int(label)] for label in labels}
        return names, _one_each(outputs, names), [note]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} of the dataset's {len(labels)} labels are unknown to the model: "
            f"{some(unknown)}\n  dataset: {some(labels)}\n  model:   {some(names)}\n"
            "  set model.class_names to the dataset's names in the order of the model's outputs"
        )
    return names, _one_each(outputs, names), []


def make_plan(
    source: Source, label_index: dict[str, int], shard_size: int, *, content: bool = False
) -> pa.Table:
    """One row per image, in the source's order (plan_schema).

    Args:
        source: what is to be planned.
        label_index: output of each label.
        shard_size: images of a part.
        content: whether images are told unchanged by their content.
    """
    n_images = len(source.image_ids)
    indices = [None if label is None else label_index[label] for label in source.labels]
    columns = [
        pa.array(range(n_images), pa.int64()),
        pa.array(source.image_ids, pa.string()),
        pa.array(indices, pa.int32()),
        pa.array(source.labels, pa.string()),
        pa.array(np.arange(n_images) // shard_size, pa.int32()),
        pa.array(_versions(source, content=content), pa.string()),
    ]
    if source.metadata is None:
        return pa.Table.from_arrays(columns, schema=plan_schema())
    metadata = source.metadata.to_struct_array()
    return pa.Table.from_arrays([*columns, metadata], schema=plan_schema(metadata.type))


def _versions(source: Source, *, content: bool) -> list[str | None]:
    """What tells each picture from an earlier one; files are asked side by side."""
    n_images = len(source.image_ids)
    version = source.version
    if version is None:
        if not content:
            return [None] * n_images
        version = partial(_pixels, source.read)
    ask = partial(version, content=content)
    groups = [range(at, min(at + ASKED, n_images)) for at in range(0, n_images, ASKED)]
    with ThreadPoolExecutor(workers(AUTO)) as pool:  # a future for each image would take 2 kB
        return [
            told for group in pool.map(lambda group: [*map(ask, group)], groups) for told in group
        ]


def _pixels(read: Callable[[int], Picture], index: int, content: bool) -> str | None:  # noqa: FBT001
    """Hash of a picture and its object; None of one that cannot be read."""
    assert content
    try:
        picture = read(index)
    except Exception:  # noqa: BLE001 - as in Fitted, where it becomes an error row
        return None
    digest = hashlib.sha256(repr(picture.pixels.shape).encode())
    for pixels in picture:
        digest.update(b"" if pixels is None else np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


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
class Sample:
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

    def __getitem__(self, index: int) -> Sample:
        try:
            with _in_time(self.timeout):
                picture = self.read(index)
            height, width = picture.pixels.shape[:2]
            marked = None
            if picture.object is not None:
                marked = self.fit(picture.object[..., None])[0].float() / 255
            return Sample(index, self.fit(picture.pixels), (width, height), marked)
        except Exception as error:  # noqa: BLE001 - whatever a bad file or dataset raises is its row
            return Sample(index, error=describe(error))


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


def load(
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


def batches(wanted: Mapping[int, Sequence[int]], setup: Setup) -> list[Sequence[int]]:
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
    size = setup.batch_size
    return [rows[at : at + size] for rows in [*groups, few] for at in range(0, len(rows), size)]


def workers(setting: int | str) -> int:
    """Number of loader processes: auto leaves one of the allowed cores to the main process.

    Processes that torchrun started on this machine have an equal share of the cores.
    """
    if isinstance(setting, int):
        return setting
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1, 16))


def collate(samples: list[Sample]) -> Batch:
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


def _by_order(
    dataset_names: list[str] | None, n_outputs: int
) -> tuple[list[str], dict[str, int], list[str]]:
    if dataset_names is None:
        note = "neither the dataset nor the model names its classes; outputs are called by number"
        return [str(index) for index in range(n_outputs)], {}, [note]
    if len(dataset_names) == n_outputs:
        note = "the model has no class names; its outputs were taken in order as "
        note += some(dataset_names)
        as_text = sorted(dataset_names)
        if all(map(str.isdecimal, as_text)) and as_text != dataset_names:
            note += f" (torchvision's ImageFolder would sort them as text: {some(as_text)})"
        return dataset_names, {name: index for index, name in enumerate(dataset_names)}, [note]
    if all(_is_output(name, n_outputs) for name in dataset_names):
        note = "the model has no class names; the dataset's numbers were taken as its outputs"
        names = [str(index) for index in range(n_outputs)]
        return names, _one_each({name: [int(name)] for name in dataset_names}, names), [note]
    raise ConfigError(
        f"the model has {n_outputs} outputs, the dataset {len(dataset_names)} classes: "
        f"{some(dataset_names)}\n  set model.class_names to the name of each output, in order"
    )


def _one_each(outputs: dict[str, list[int]], names: list[str]) -> dict[str, int]:
    """The output of each label, where that is one, and no other label's."""
    for label, found in outputs.items():
        if len(found) > 1:
            raise ConfigError(
                f"the dataset's label {label!r} may be any of the model's classes "
                f"{some([names[index] for index in found])}; set model.class_names"
            )
    labels_of: dict[int, str] = {}
    for label, (index,) in outputs.items():
        if index in labels_of:
            raise ConfigError(
                f"the dataset's labels {labels_of[index]!r} and {label!r} both match the model's "
                f"class {names[index]!r}; make them one, or set model.class_names"
            )
        labels_of[index] = label
    return {label: index for label, (index,) in outputs.items()}


def folded(name: str) -> str:
    """Names that differ in case, spaces, dashes or underscores only are the same."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _is_output(name: str, n_outputs: int) -> bool:
    return name.isdecimal() and int(name) < n_outputs
