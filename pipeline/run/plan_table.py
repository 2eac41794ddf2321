"""The table of the plan: one row per image, with its shard and the version of its file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.config import AUTO
from pipeline.data.loader import n_loader_processes
from pipeline.data.source import DecodedImage, Source
from pipeline.storage.schema import plan_schema

GROUP = 256
"""Number of images whose versions one task of the thread pool reads; a task takes 2 kB."""


def make_plan(
    source: Source, label_index: dict[str, int], shard_size: int, *, content: bool = False
) -> pa.Table:
    """Make the plan: one row per image, in the source's order (plan_schema).

    Args:
        source: the dataset.
        label_index: the index of the model's output of each label.
        shard_size: number of images of a shard.
        content: whether a version is a hash of the content, not size and time of the file.
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
    """Read the version of each image in several threads; None where the source has none."""
    n_images = len(source.image_ids)
    version = source.version
    if version is None:
        if not content:
            return [None] * n_images
        version = partial(_hash_pixels, source.read)
    version_of = partial(version, content=content)
    groups = [range(at, min(at + GROUP, n_images)) for at in range(0, n_images, GROUP)]
    with ThreadPoolExecutor(n_loader_processes(AUTO)) as pool:
        versions = pool.map(lambda group: [*map(version_of, group)], groups)
        return [version for group in versions for version in group]


def _hash_pixels(
    read: Callable[[int], DecodedImage],
    index: int,
    content: bool,  # noqa: FBT001 - the signature of Source.version
) -> str | None:
    """Compute the SHA-256 of an image and its object mask; None if the image cannot be read."""
    assert content
    try:
        picture = read(index)
    except Exception:  # noqa: BLE001 - the loader makes an error row of the same exception
        return None
    digest = hashlib.sha256(repr(picture.pixels.shape).encode())
    for pixels in picture:
        digest.update(b"" if pixels is None else np.ascontiguousarray(pixels).data)
    return digest.hexdigest()
