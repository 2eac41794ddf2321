"""From a source to a plan of shards, and from the plan to batches."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.config import AUTO
from pipeline.data.loader import n_loader_processes
from pipeline.data.source import Picture, Source
from pipeline.data.source import describe as describe  # noqa: PLC0414 - the report's too
from pipeline.storage.schema import plan_schema

ASKED = 256
"""Files that a thread asks for their versions at a time."""


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
    with ThreadPoolExecutor(
        n_loader_processes(AUTO)
    ) as pool:  # a future for each image would take 2 kB
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
