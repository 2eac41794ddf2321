"""A bounded, deterministic sample of a run's images per class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline import columns
from pipeline.schema import IMAGE, Setup
from pipeline.store import Rows

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


def draw(rows: Rows, setup: Setup, per_class: int, seed: int) -> Sample:
    """Up to `per_class` images of each predicted class; the same seed draws the same ones."""
    table = rows.to_table(columns=["index", "pred_index"], filter=EXPLAINED)
    index, classes = table["index"].to_numpy(), table["pred_index"].to_numpy()
    chosen = columns.sample(classes, per_class, seed)
    wanted = ["index", "pred_index", "confidence", "heatmap", "embedding", *IMAGE]
    table = rows.at(index[chosen], wanted)
    return Sample(
        index=table["index"].to_numpy(),
        classes=table["pred_index"].to_numpy().astype(np.int64),
        confidence=table["confidence"].to_numpy(),
        heatmaps=columns.vectors(table, "heatmap", math.prod(setup.grid)).reshape(-1, *setup.grid),
        embeddings=columns.vectors(table, "embedding", setup.embedding_dim),
        statistics=np.stack([table[name].to_numpy() for name in IMAGE], axis=1),
    )
