"""Open a dataset of any kind as a Source."""

from __future__ import annotations

import importlib
from collections import Counter
from typing import Any

from pipeline.data.source import Source
from pipeline.errors import DataError, shorten_list

OPENERS = {
    "image_folder": ("image_files", "image_folder"),
    "manifest": ("image_files", "manifest"),
    "torchvision": ("torch_dataset", "torchvision_dataset"),
    "huggingface": ("huggingface", "saved_dataset"),
    "custom": ("torch_dataset", "custom_dataset"),
}
"""Kind of dataset -> (module of this package, imported on use; function(config, max_pixels))."""


def open_source(config: Any, max_pixels: int) -> Source:
    """List the images of the dataset that the settings describe.

    Args:
        config: the settings group dataset.
        max_pixels: an image with more pixels becomes an error row.

    Raises:
        ConfigError: a path, column or factory does not exist.
        DataError: the dataset has no images, or two images with the same id.
    """
    module, function = OPENERS[config.kind]
    opener = getattr(importlib.import_module(f"pipeline.data.{module}"), function)
    source: Source = opener(config, max_pixels)
    if not source.image_ids:
        keys = ("path", "root", "factory")
        place = next(getattr(config, key) for key in keys if hasattr(config, key))
        ignored = ", ".join(f"{count} {suffix}" for suffix, count in source.ignored.items())
        raise DataError(f"no images in {place}" + (f" (ignored: {ignored})" if ignored else ""))
    _check_ids(source.image_ids)
    return source


def _check_ids(image_ids: list[str]) -> None:
    if len(set(image_ids)) == len(image_ids):
        return
    twice = [name for name, count in Counter(image_ids).items() if count > 1]
    named = shorten_list([repr(name) for name in twice], 5)
    raise DataError(f"{len(twice)} image ids occur more than once in the dataset: {named}")
