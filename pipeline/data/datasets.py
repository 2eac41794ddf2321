"""Where pictures come from: every kind of dataset becomes a Source, a list and a way to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from pipeline.data import huggingface, image_files, torch_dataset
from pipeline.data.source import Source
from pipeline.errors import DataError

KINDS: dict[str, Callable[[Any, int], Source]] = {
    "image_folder": image_files.image_folder,
    "manifest": image_files.manifest,
    "torchvision": torch_dataset.torchvision_dataset,
    "huggingface": huggingface.saved_dataset,
    "custom": torch_dataset.custom_dataset,
}


def open_source(config: Any, max_pixels: int) -> Source:
    """List the dataset that the settings name.

    Raises:
        ConfigError: a path, column or factory that is not there.
        DataError: no images, or two with the same id.
    """
    source = KINDS[config.kind](config, max_pixels)
    if not source.image_ids:
        place = next(
            getattr(config, key) for key in ("path", "root", "factory") if hasattr(config, key)
        )
        ignored = ", ".join(f"{count} {suffix}" for suffix, count in source.ignored.items())
        raise DataError(f"no images in {place}" + (f" (ignored: {ignored})" if ignored else ""))
    _check_ids(source.image_ids)
    return source


def _check_ids(image_ids: list[str]) -> None:
    if len(set(image_ids)) == len(image_ids):
        return
    twice = [name for name, count in Counter(image_ids).items() if count > 1]
    named = ", ".join(map(repr, twice[:5])) + (", ..." if len(twice) > 5 else "")
    raise DataError(f"{len(twice)} image ids stand more than once in the dataset: {named}")
