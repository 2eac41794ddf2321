"""A bounded, deterministic sample of a run's images per class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.run_setup import Setup
from pipeline.storage.sample import sample_per_class
from pipeline.storage.scan import Rows
from pipeline.storage.schema import IMAGE

EXPLAINED = (ds.field("status") == "ok") & (ds.field("heatmap_max") > 0)


@dataclass(frozen=True)
class ClassSample:
    """Images with a live map: plan position, predicted class and confidence (n,), map (n, h, w),
    embedding (n, d), and the image_* statistics (n, len(IMAGE)).
    """

    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidence: NDArray[np.float32]
    heatmaps: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    statistics: NDArray[np.float32]

    def at(self, rows: NDArray[Any]) -> ClassSample:
        """Some of the images, by their position in the sample, or by a mask."""
        return ClassSample(*(values[rows] for values in vars(self).values()))


def draw(rows: Rows, setup: Setup, per_class: int, seed: int) -> ClassSample:
    """Up to `per_class` images of each predicted class; the same seed draws the same ones."""
    table = rows.to_table(columns=["index", "pred_index"], filter=EXPLAINED)
    index, classes = table["index"].to_numpy(), table["pred_index"].to_numpy()
    chosen = sample_per_class(classes, per_class, seed)
    wanted = ["index", "pred_index", "confidence", "heatmap", "embedding", *IMAGE]
    table = rows.at(index[chosen], wanted)
    return ClassSample(
        index=table["index"].to_numpy(),
        classes=table["pred_index"].to_numpy().astype(np.int64),
        confidence=table["confidence"].to_numpy(),
        heatmaps=arrays.vectors(table, "heatmap", math.prod(setup.grid)).reshape(-1, *setup.grid),
        embeddings=arrays.vectors(table, "embedding", setup.embedding_dim),
        statistics=np.stack([table[name].to_numpy() for name in IMAGE], axis=1),
    )
