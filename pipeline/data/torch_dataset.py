"""Map-style torch datasets: torchvision's own, and whatever a user's factory returns."""

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
    Picture,
    Source,
    box_mask,
    class_labels,
    distinct,
    numbered,
    object_mask,
    printable,
)
from pipeline.errors import ConfigError, DataError, one_line

if TYPE_CHECKING:
    from torchvision.datasets import VisionDataset

log = logging.getLogger(__name__)


class MapDataset(Protocol):
    """A map-style dataset: a length and items by position, whatever an item is."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> object: ...


# Flowers102, Food101 and others of torchvision keep their labels under the last name.
TARGETS = ("targets", "labels", "_labels")


def torchvision_dataset(config: TorchvisionDataset, _max_pixels: int) -> Source:
    """A class of torchvision.datasets, which differ in how they name their splits.

    Raises:
        ConfigError: a name, split or kind of dataset that cannot be used.
        DataError: where its files are missing or damaged.
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
            f"dataset.name: {config.name} does not open with root and split alone ({error}); "
            "open it in a factory of your own: dataset=custom"
        ) from error
    place = f"{config.name} in {config.root}, split {config.split}"
    try:
        dataset = kind(**arguments)
    except Exception as error:
        told = one_line(error).replace("download=True", "dataset.download=true")
        if isinstance(error, ValueError) and "split" in told:
            raise ConfigError(f"dataset.split: {place}: {told}") from error
        raise DataError(f"dataset.root: {place}: {told}") from error
    return _map_style(dataset, place, probe=True)


def custom_dataset(config: CustomDataset, _max_pixels: int) -> Source:
    """What the factory returns: items are (image, label), an image, or a dict with image and label.

    The attributes classes (names), targets (labels) and ids, where the dataset has them, spare a
    pass over its items; box (x0, y0, x1, y1) and mask (H, W) in a dict mark the object.

    Raises:
        ConfigError: a factory that cannot be used.
        DataError: a dataset whose length, labels or ids cannot be used.
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
    """Whether a class is an IterableDataset of PyTorch, which takes seconds to import."""
    return any(base.__name__ == "IterableDataset" for base in kind.__mro__)


def _torchvision_class(name: str) -> type[VisionDataset]:
    from torchvision import datasets  # noqa: PLC0415 - slow, and large in memory

    kind = getattr(datasets, name, None)
    if inspect.isclass(kind) and issubclass(kind, datasets.VisionDataset):
        return kind
    close = difflib.get_close_matches(name, datasets.__all__, cutoff=0.4)
    hint = f"; close names: {', '.join(close)}" if close else ""
    raise ConfigError(f"dataset.name: torchvision.datasets has no {name!r}{hint}")


def _map_style(dataset: MapDataset, place: str, *, probe: bool = False) -> Source:
    """List a dataset; `probe` looks at its first item too, as targets may be masks or boxes."""
    try:
        names = _class_names(dataset)
        targets = _targets(dataset)
        if probe:
            class_labels(_targets_of_items(dataset, range(min(1, len(dataset)))), names)
        if targets is None:
            log.info(
                "%s: reading all items for their labels; an attribute targets spares it", place
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
        class_names=names if names and any(labels) else distinct(labels),
    )


def _class_names(dataset: MapDataset) -> list[str] | None:
    """The attribute classes or class_to_idx: names in order, or a dict of names and indices."""
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
    return numbered(printable(str(name)).strip() for name in first) or None


def _targets(dataset: MapDataset) -> Sequence[object] | None:
    """The labels that a dataset holds beside its items, one for each, if it does."""
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
        except Exception as error:  # noqa: BLE001 - the item becomes an error row when it is read
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


def _read(dataset: MapDataset, index: int) -> Picture:
    image, _, marks = _parts(dataset[index])
    pixels = to_rgb(image)
    if marks.get("mask") is not None:
        return Picture(pixels, object_mask(pixels.shape, marks["mask"]))
    if marks.get("box") is not None:
        return Picture(pixels, box_mask(pixels.shape, [float(side) for side in marks["box"]]))
    return Picture(pixels)


def _parts(item: object) -> tuple[object, object, Mapping[str, Any]]:
    """Image, label and marks of an item in any of the usual shapes."""
    if isinstance(item, dict):
        return item["image"], item.get("label"), item
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None, {}
    return item, None, {}
