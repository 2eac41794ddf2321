"""Map-style torch datasets: torchvision's own, and whatever a user's factory returns."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import Any

import numpy as np
import torchvision

from pipeline import factory
from pipeline.config import CustomDataset, TorchvisionDataset
from pipeline.decode import to_rgb
from pipeline.errors import ConfigError, DataError
from pipeline.sources.files import box_mask
from pipeline.sources.source import Picture, Source, distinct

log = logging.getLogger(__name__)


def torchvision_dataset(config: TorchvisionDataset, _max_pixels: int) -> Source:
    """A class of torchvision.datasets, which differ in how they name their splits."""
    kind = getattr(torchvision.datasets, config.name, None)
    if not inspect.isclass(kind):
        raise ConfigError(f"dataset.name: torchvision.datasets has no {config.name!r}")
    accepted = inspect.signature(kind.__init__).parameters
    arguments: dict[str, Any] = {"root": config.root}
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
        return _map_style(kind(**arguments))
    except (RuntimeError, ValueError, OSError, TypeError) as error:
        raise DataError(f"dataset.root: {config.name} in {config.root}: {error}") from error


def custom_dataset(config: CustomDataset, _max_pixels: int) -> Source:
    """What the factory returns: items are (image, label), an image, or a dict with image and label.

    The attributes classes (names), targets (labels) and ids, where the dataset has them, spare a
    pass over its items; box and mask in a dict mark the object.
    """
    dataset = factory.build("dataset.factory", config.factory, config.factory_args)
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
        raise ConfigError(
            f"dataset.factory: {config.factory} returned a {type(dataset).__name__}, "
            "not a dataset with __len__ and __getitem__"
        )
    return _map_style(dataset)


def _map_style(dataset: Any) -> Source:
    classes = getattr(dataset, "classes", None)
    names = [str(name) for name in classes] if classes is not None else None
    targets = getattr(dataset, "targets", None)
    if targets is None:
        targets = getattr(dataset, "labels", None)
    if targets is None or len(targets) != len(dataset):
        targets = _labels_of_items(dataset)
    labels = [_label(target, names) for target in targets]
    ids = getattr(dataset, "ids", None)
    return Source(
        image_ids=[str(name) for name in ids] if ids else [f"{i:08d}" for i in range(len(dataset))],
        labels=labels,
        read=partial(_read, dataset),
        class_names=names if names and any(labels) else distinct(labels),
    )


def _labels_of_items(dataset: Any) -> list[Any]:
    log.info(
        "reading the labels of %d items one by one; a `targets` attribute spares this", len(dataset)
    )
    labels = []
    for index in range(len(dataset)):
        try:
            labels.append(_parts(dataset[index])[1])
        except Exception as error:  # noqa: BLE001 - the item becomes an error row when it is read
            log.debug("item %d has no label: %s", index, error)
            labels.append(None)
    return labels


def _label(target: Any, names: list[str] | None) -> str | None:
    """A label as a class name; numbers count into `names`."""
    if target is None:
        return None
    value = target.item() if hasattr(target, "item") else target
    if isinstance(value, int) and names:
        if not 0 <= value < len(names):
            raise DataError(f"label {value} is outside the dataset's {len(names)} classes")
        return names[value]
    return str(value)


def _read(dataset: Any, index: int) -> Picture:
    image, _, marks = _parts(dataset[index])
    pixels = to_rgb(image)
    if marks.get("mask") is not None:
        return Picture(pixels, np.asarray(marks["mask"] != 0, np.uint8) * 255)
    if marks.get("box") is not None:
        return Picture(pixels, box_mask(pixels.shape, tuple(map(float, marks["box"]))))
    return Picture(pixels)


def _parts(item: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Image, label and marks of an item in any of the usual shapes."""
    if isinstance(item, dict):
        return item["image"], item.get("label"), item
    if isinstance(item, tuple | list):
        return item[0], item[1] if len(item) > 1 else None, {}
    return item, None, {}
