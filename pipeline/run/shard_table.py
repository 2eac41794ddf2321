"""Turn the tensors of a shard into Arrow rows: one per planned image, in planned order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.data.loader import Batch
from pipeline.engine import inference
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import part_schema

NOT_FINITE = "the model's logits or heatmap for it are not finite (NaN or infinite)"


class ShardBuffer:
    """The columns and errors of a shard whose images are being explained, batch by batch.

    Each column is one tensor for the whole shard, because hundreds of small tensors that outlive
    their batch would fragment the memory of the device. positions are the plan positions of the
    images of the shard that have to be computed.
    """

    def __init__(self, positions: Sequence[int]) -> None:
        self.positions = positions
        self.indices: list[int] = []
        self.sizes: list[tuple[int, int]] = []
        self.errors: dict[int, str] = {}
        self._columns: dict[str, Tensor] = {}

    def add(self, batch: Batch, columns: dict[str, Tensor]) -> None:
        """Copy the columns of a batch; the device may still be computing them."""
        start = len(self.indices)
        for name, rows in columns.items():
            if name not in self._columns:
                self._columns[name] = rows.new_empty((len(self.positions), *rows.shape[1:]))
            self._columns[name][start : start + len(rows)] = rows
        self.indices += batch.indices
        self.sizes += batch.sizes
        self.errors |= dict(batch.errors)

    @property
    def is_full(self) -> bool:
        """Whether every image of the shard has a row or an error."""
        return len(self.indices) + len(self.errors) == len(self.positions)

    @property
    def columns(self) -> dict[str, Tensor]:
        """The columns, each with one row for each plan position in `indices`."""
        return {name: rows[: len(self.indices)] for name, rows in self._columns.items()}


def split_by_shard(
    batch: Batch, columns: dict[str, Tensor], shard_size: int
) -> Iterator[tuple[int, Batch, dict[str, Tensor]]]:
    """Split a batch and its columns by the shards that the images belong to."""
    shards = {index // shard_size for index in [*batch.indices, *dict(batch.errors)]}
    if len(shards) == 1:
        yield shards.pop(), batch, columns
        return
    for shard in sorted(shards):
        own = [place for place, index in enumerate(batch.indices) if index // shard_size == shard]
        errors = [error for error in batch.errors if error[0] // shard_size == shard]
        part = replace(
            batch,
            indices=[batch.indices[place] for place in own],
            sizes=[batch.sizes[place] for place in own],
            errors=errors,
        )
        yield shard, part, {name: rows[own] for name, rows in columns.items()} if own else {}


def build_table(planned: pa.Table, explained: ShardBuffer, setup: Setup) -> pa.Table:
    """Build the part of a shard (part_schema); wait for the device.

    Args:
        planned: rows of the plan.
        explained: columns and errors of all these images.
        setup: the setup of the plan.
    """
    indices, errors = np.array(explained.indices, np.int64), dict(explained.errors)
    schema = part_schema(setup.grid, setup.embedding_dim)
    columns: dict[str, pa.Array] = {}
    if len(indices):
        found = inference.statistics(explained.columns)
        valid = found.pop("valid").cpu().numpy()
        errors |= dict.fromkeys(indices[~valid].tolist(), NOT_FINITE)
        columns = {name: _array(rows, schema.field(name).type) for name, rows in found.items()}
        columns["pred"] = pa.array(setup.class_names).take(columns["pred_index"])
        sizes = np.array(explained.sizes, np.int32)
        columns |= {"image_width": pa.array(sizes[:, 0]), "image_height": pa.array(sizes[:, 1])}
    return _in_planned_order(planned, indices, columns, errors, schema)


def _in_planned_order(
    planned: pa.Table,
    indices: NDArray[np.int64],
    columns: dict[str, pa.Array],
    errors: dict[int, str],
    schema: pa.Schema,
) -> pa.Table:
    """Build one row for every planned image; a row with an error has no other values."""
    wanted = planned["index"].to_numpy()
    texts = [errors.get(index) for index in wanted.tolist()]
    failed = np.array([text is not None for text in texts])
    place = np.zeros(len(wanted), np.int64)
    place[np.searchsorted(wanted, indices)] = np.arange(len(indices))
    if failed.any() or (place != np.arange(len(wanted))).any():
        taken = pa.array(place, mask=failed)
        columns = {name: column.take(taken) for name, column in columns.items()}
    all_columns = {
        **{name: planned[name] for name in planned.column_names if name in schema.names},
        **columns,
        "status": pa.array(np.where(failed, "error", "ok")),
        "error": pa.array(texts, pa.string()),
    }
    arrays = [
        all_columns[field.name] if field.name in all_columns else pa.nulls(len(wanted), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _array(rows: Tensor, kind: pa.DataType) -> pa.Array:
    """Convert numbers to Arrow, NaN to null; a list whose first number is NaN becomes null."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(rows.cpu().numpy(), kind, from_pandas=True)
    if rows.shape[1] < kind.list_size:  # fewer classes than entries of top_index
        rows = F.pad(rows.float(), (0, kind.list_size - rows.shape[1]), value=torch.nan)
    numbers = (rows.half() if kind.value_type == pa.float16() else rows).cpu().numpy()
    absent = pa.array(np.isnan(numbers[:, 0]))
    flat = numbers.reshape(-1)
    gaps = np.isnan(flat)
    if gaps.any() or kind.value_type != pa.float16():
        flat = np.where(gaps, 0, flat).astype(kind.value_type.to_pandas_dtype())
    values = pa.array(flat, kind.value_type, mask=gaps if gaps.any() else None)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=absent)
