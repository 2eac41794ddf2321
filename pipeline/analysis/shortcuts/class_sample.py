"""A bounded, deterministic sample of a run's images per predicted class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.run_setup import Setup
from pipeline.storage.sample import EXPLAINED, draw_per_class
from pipeline.storage.scan import Rows
from pipeline.storage.schema import IMAGE

HAS_HEATMAP = EXPLAINED & (pc.field("heatmap_max") > 0)
"""Filter of the explained rows whose heatmap is not dead (all zero)."""


@dataclass(frozen=True)
class ClassSample:
    """n sampled images, none with a dead heatmap.

    Attributes:
        index: (n,) positions in the plan, ascending.
        classes: (n,) predicted class indices.
        confidence: (n,) probabilities of the predicted class.
        heatmaps: (n, h, w) in [0, 1], on the target layer's grid.
        embeddings: (n, d), of unit length.
        statistics: (n, len(IMAGE)), the image_* columns in the order of IMAGE.
    """

    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    confidence: NDArray[np.float32]
    heatmaps: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    statistics: NDArray[np.float32]

    def select(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> ClassSample:
        """Return some of the images, by their positions in the sample or by a mask (n,)."""
        return ClassSample(*(values[rows] for values in vars(self).values()))


def draw_sample(rows: Rows, setup: Setup, per_class: int, seed: int) -> ClassSample:
    """Draw up to `per_class` images of each predicted class; the same seed draws the same images.

    Args:
        rows: all rows of the run's parts.
        setup: the run's setup, for the grid and the width of the embedding.
        per_class: largest number of images of one class.
        seed: seed of the draw.
    """
    sample = draw_per_class(rows, per_class, seed, HAS_HEATMAP)
    columns = ["index", "pred_index", "confidence", "heatmap", "embedding", *IMAGE]
    table = rows.at(sample.index, columns)
    return ClassSample(
        index=table["index"].to_numpy(),
        classes=table["pred_index"].to_numpy().astype(np.int64),
        confidence=table["confidence"].to_numpy(),
        heatmaps=arrays.vectors(table, "heatmap", math.prod(setup.grid)).reshape(-1, *setup.grid),
        embeddings=arrays.vectors(table, "embedding", setup.embedding_dim),
        statistics=np.stack([table[name].to_numpy() for name in IMAGE], axis=1),
    )
