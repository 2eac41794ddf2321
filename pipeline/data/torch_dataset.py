"""Map-style torch datasets: those of torchvision, and those of a user's factory."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from pipeline.config import CustomDataset, TorchvisionDataset, factory
from pipeline.data.decode import to_rgb
from pipeline.data.source import (
    DecodedImage,
    Source,
    box_mask,
    class_labels,
    distinct_labels,
    number_duplicates,
    object_mask,
    printable,
)
from pipeline.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

log = logging.getLogger(__name__)


class MapDataset(Protocol):
    """A map-style dataset: a length, and an item of any type at each position."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


TARGETS = ("targets", "labels", "_labels")
"""Attributes that may hold the labels; torchvision's Flowers102 and Food101 have the last one."""


def torchvision_dataset(config: TorchvisionDataset, _max_pixels: int) -> Source:
    """Open a dataset class of torchvision; the split is passed under the name that it expects.

    Raises:
        ConfigError: the name, split or kind of dataset cannot be used.
        DataError: files are missing or damaged.
    """
    kind = _torchvision_class(config.name)
    accepted = inspect.signature(kind).parameters
    arguments: dict[str, object] = {"root": config.root}
    if "split" in accepted:
        arguments["split"] = config.split
    elif "train" in accepted:
        if config.split not in ("train", "test"):
            raise ConfigError(
                f"dataset.split: {config.name} has train and test, not {config.split!r}"
            )
        arguments["train"] = config.split == "train"
    if "download" in accepted:
        arguments["download"] = config.download
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ConfigError(
            f"dataset.name: {config.name} cannot be opened with root and split alone ({error}); "
            "open it in a factory of your own: dataset=custom"
        ) from error
    place = f"{config.name} in {config.root}, split {config.split}"
    try:
        dataset = kind(**arguments)
    except Exception as error:
        reason = one_line(error).replace("download=True", "dataset.download=true")
        if isinstance(error, ValueError) and "split" in reason:
            raise ConfigError(f"dataset.split: {place}: {reason}") from error
        raise DataError(f"dataset.root: {place}: {reason}") from error
    return _map_style(dataset, place, check_item=True)


def custom_dataset(config: CustomDataset, _max_pixels: int) -> Source:
    """Open the dataset that a factory returns.

    An item is (image, label), an image, or a dict with "image" and "label", in which "box" (x0,
    y0, x1, y1) or "mask" (H, W) may mark the object. With the attributes classes (names), targets
    (labels) and ids no pass over the items is needed.

    Raises:
        ConfigError: the factory cannot be used.
        DataError: the length, labels or ids of the dataset cannot be used.
    """
    dataset = factory.build("dataset.factory", config.factory, config.factory_args)
    kind = type(dataset)
    if (
        not (hasattr(kind, "__getitem__") and hasattr(kind, "__len__"))
        or isinstance(dataset, str | bytes | Mapping)
        or _is_stream(kind)
    ):
        raise ConfigError(
            f"dataset.factory: {config.factory} returned a {kind.__name__}, "
            "not a dataset with __len__ and __getitem__"
        )
    return _map_style(cast("MapDataset", dataset), config.factory)


def _is_stream(kind: type) -> bool:
    """Whether a class is PyTorch's IterableDataset, found without the import of PyTorch."""
    return any(base.__name__ == "IterableDataset" for base in kind.__mro__)


def _torchvision_class(name: str) -> type[VisionDataset]:
    from torchvision import datasets  # noqa: PLC0415 - slow, and large in memory

    kind = getattr(datasets, name, None)
    if inspect.isclass(kind) and issubclass(kind, datasets.VisionDataset):
        return kind
    close = difflib.get_close_matches(name, datasets.__all__, cutoff=0.4)
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise ConfigError(f"dataset.name: torchvision.datasets has no {name!r}{hint}")


def _map_style(dataset: MapDataset, place: str, *, check_item: bool = False) -> Source:
    """List a dataset; with check_item also read its first item, whose target may be a mask."""
    try:
        names = _class_names(dataset)
        targets = _targets(dataset)
        if check_item:
            class_labels(_targets_of_items(dataset, range(min(1, len(dataset)))), names)
        if targets is None:
            log.info(
                "%s: reading all items for their labels; an attribute `targets` avoids this", place
            )
            targets = _targets_of_items(dataset, range(len(dataset)))
        labels = class_labels(targets, names)
        ids = _ids(dataset)
    except Exception as error:
        raise DataError(f"{place}: {one_line(error)}") from error
    return Source(
        image_ids=ids,
        labels=labels,
        read=partial(_read, dataset),
        class_names=names if names and any(labels) else distinct_labels(labels),
    )


def _class_names(dataset: MapDataset) -> list[str] | None:
    """Class names in order, of the attribute classes or class_to_idx (a list or a dict)."""
    classes = getattr(dataset, "classes", None)
    if classes is None:
        classes = getattr(dataset, "class_to_idx", None) or []
    if isinstance(classes, Mapping):
        by_index = dict((k, v) if isinstance(k, int) else (v, k) for k, v in classes.items())
        if set(by_index) != set(range(len(classes))):
            raise DataError(f"its classes are not numbered from 0 on: {classes}")
        classes = [by_index[index] for index in range(len(classes))]
    # ImageNet has tuples of synonyms.
    first = [name[0] if isinstance(name, tuple) else name for name in classes]
    return number_duplicates(printable(str(name)).strip() for name in first) or None


def _targets(dataset: MapDataset) -> Sequence[object] | None:
    """The labels of an attribute of the dataset, one per item; None without such an attribute."""
    for attribute in TARGETS:
        values = getattr(dataset, attribute, None)
        if values is not None and hasattr(values, "tolist"):
            values = values.tolist()
        if isinstance(values, list | tuple) and len(values) == len(dataset):
            return values
    return None


def _targets_of_items(dataset: MapDataset, indices: Iterable[int]) -> list[object]:
    targets = []
    for index in indices:
        try:
            targets.append(_parts(dataset[index])[1])
        except Exception as error:  # noqa: BLE001 - the item becomes an error row later
            log.debug("item %d has no label: %s", index, error)
            targets.append(None)
    return targets


def _ids(dataset: MapDataset) -> list[str]:
    ids = getattr(dataset, "ids", None)
    if ids is None:
        return [f"{index:08d}" for index in range(len(dataset))]
    names = [printable(str(name)) for name in (ids.tolist() if hasattr(ids, "tolist") else ids)]
    if len(names) != len(dataset):
        raise DataError(f"it has {len(names)} ids for {len(dataset)} items")
    return names


def _read(dataset: MapDataset, index: int) -> DecodedImage:
    image, _, marks = _parts(dataset[index])
    pixels = to_rgb(image)
    if marks.get("mask") is not None:
        return DecodedImage(pixels, object_mask(pixels.shape, marks["mask"]))
    if marks.get("box") is not None:
        return DecodedImage(pixels, box_mask(pixels.shape, [float(side) for side in marks["box"]]))
    return DecodedImage(pixels)


def _parts(item: object) -> tuple[object, object, Mapping[str, Any]]:
    """Image, label and marks (a dict with box or mask) of an item of any accepted form."""
    if isinstance(item, dict):
        return item["image"], item.get("label"), item
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None, {}
    return item, None, {}
