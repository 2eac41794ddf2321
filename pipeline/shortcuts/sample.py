"""A bounded, deterministic sample of a run's images per class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.schema import IMAGE, Setup

EXPLAINED = (ds.field("status") == "ok") & (ds.field("heatmap_max") > 0)


@dataclass(frozen=True)
class Sample:
    """Images with a live map: plan position, predicted class and confidence (n,), map (n, h, w),
    embedding (n, d), and the image_* statistics (n, len(IMAGE)).
    """

    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidence: NDArray[np.float32]
    heatmaps: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    statistics: NDArray[np.float32]

    def at(self, rows: NDArray[Any]) -> Sample:
        """Some of the images, by their position in the sample, or by a mask."""
        return Sample(*(values[rows] for values in vars(self).values()))


def draw(rows: ds.Dataset, setup: Setup, per_class: int, seed: int) -> Sample:
    """Up to `per_class` images of each predicted class; the same seed draws the same ones."""
    table = rows.to_table(columns=["index", "pred_index"], filter=EXPLAINED)
    index, classes = table["index"].to_numpy(), table["pred_index"].to_numpy()
    order = np.random.default_rng(seed).permutation(len(index))
    by_class = order[np.argsort(classes[order], kind="stable")]
    starts = np.flatnonzero(np.diff(classes[by_class], prepend=-1))
    rank = np.arange(len(by_class)) - np.repeat(starts, np.diff(starts, append=len(by_class)))
    chosen = np.sort(index[by_class[rank < per_class]])
    return take(rows, setup, chosen)


def take(rows: ds.Dataset, setup: Setup, index: NDArray[np.int64]) -> Sample:
    """The images at the given plan positions, sorted."""
    table = rows.to_table(
        columns=["index", "pred_index", "confidence", "heatmap", "embedding", *IMAGE],
        filter=EXPLAINED & ds.field("index").isin(pa.array(index)),
    )
    return Sample(
        index=table["index"].to_numpy(),
        classes=table["pred_index"].to_numpy().astype(np.int64),
        confidence=table["confidence"].to_numpy(),
        heatmaps=heatmaps(table["heatmap"], setup),
        embeddings=_lists(table["embedding"], setup.embedding_dim),
        statistics=np.stack([table[name].to_numpy() for name in IMAGE], axis=1),
    )


def heatmaps(column: pa.ChunkedArray, setup: Setup) -> NDArray[np.float32]:
    """A column of maps without nulls as (n, h, w)."""
    return _lists(column, setup.grid[0] * setup.grid[1]).reshape(-1, *setup.grid)


def _lists(column: pa.ChunkedArray, width: int) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), width)
