"""From the tensors of a shard to its Arrow rows: one per planned image, in planned order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.dataset import Batch
from pipeline.schema import Setup, part_schema

NOT_FINITE = "the model's logits or heatmap for it are not finite (NaN or infinite)"


@dataclass(frozen=True)
class Explained:
    """A batch that went through the model: which images, and the columns of `engine.explain`.

    The columns have a row for each of `indices`, and may still be on their way on the device.
    """

    indices: list[int]
    sizes: list[tuple[int, int]]
    errors: list[tuple[int, str]]
    columns: dict[str, Tensor]

    @classmethod
    def of(cls, batch: Batch, columns: dict[str, Tensor]) -> Explained:
        """The batch without its pictures."""
        return cls(batch.indices, batch.sizes, batch.errors, columns)


def shard_table(planned: pa.Table, batches: list[Explained], setup: Setup) -> pa.Table:
    """The part of a shard (part_schema); waits for the device.

    Args:
        planned: rows of the plan.
        batches: of all the planned images.
        setup: of the plan.
    """
    first = planned["index"][0].as_py()
    indices = np.array([index for batch in batches for index in batch.indices], np.int64)
    errors = {index: text for batch in batches for index, text in batch.errors}
    arrays = _on_host([batch.columns for batch in batches if batch.indices])
    if arrays:
        sizes = np.array([size for batch in batches for size in batch.sizes])
        arrays |= {"image_width": sizes[:, 0], "image_height": sizes[:, 1]}
        valid = arrays.pop("valid")
        errors |= dict.fromkeys(indices[~valid].tolist(), NOT_FINITE)
    return _table(planned, indices - first, arrays, errors, setup)


def _on_host(batches: list[dict[str, Tensor]]) -> dict[str, NDArray[Any]]:
    names = batches[0] if batches else {}
    return {name: torch.cat([batch[name] for batch in batches]).cpu().numpy() for name in names}


def _table(
    planned: pa.Table,
    positions: NDArray[np.int64],
    arrays: dict[str, NDArray[Any]],
    errors: dict[int, str],
    setup: Setup,
) -> pa.Table:
    """Rows for the planned images; `positions` are those of the rows of `arrays` among them."""
    schema = part_schema(setup.grid, setup.embedding_dim)
    texts = [errors.get(index) for index in planned["index"].to_pylist()]
    columns: dict[str, Any] = {name: planned[name] for name in schema.names[:4]}
    columns["status"] = pa.array("ok" if text is None else "error" for text in texts)
    columns["error"] = pa.array(texts, pa.string())
    failed = np.array([text is not None for text in texts])
    for name, values in arrays.items():
        rows = np.full((len(texts), *values.shape[1:]), np.nan, np.float64)
        rows[positions] = values
        rows[failed] = np.nan
        columns[name] = _array(rows, schema.field(name).type)
    if "pred_index" in columns:
        columns["pred"] = pa.array(setup.class_names).take(columns["pred_index"])
    in_order = [
        columns[field.name] if field.name in columns else pa.nulls(len(texts), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(in_order, schema=schema)


def _array(rows: NDArray[np.float64], kind: pa.DataType) -> pa.Array:
    """Numbers to Arrow, NaN to null; a row of a list that begins with NaN has no list."""
    if not pa.types.is_fixed_size_list(kind):
        return pa.array(rows, kind, mask=np.isnan(rows), safe=False)
    if rows.shape[1] < kind.list_size:  # fewer classes than places in the top list
        rows = np.pad(rows, ((0, 0), (0, kind.list_size - rows.shape[1])), constant_values=np.nan)
    flat = rows.reshape(-1)
    to_numpy = kind.value_type.to_pandas_dtype()
    gaps = np.isnan(flat)
    values = pa.array(np.nan_to_num(flat).astype(to_numpy), kind.value_type, mask=gaps)
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(np.isnan(rows[:, 0])))
