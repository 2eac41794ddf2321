"""Draw a bounded random sample of the images of each predicted class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.arrays import NO_CLASS
from pipeline.storage.scan import Rows

EXPLAINED = pc.field("status") == "ok"
"""Filter of the rows whose image could be read and explained."""


@dataclass(frozen=True)
class Sample:
    """Positions in the plan (n,) of the drawn images, ascending, and the size of the population."""

    index: NDArray[np.int64]
    n_images: int


def draw_per_class(
    rows: Rows, per_class: int, seed: int, population: pc.Expression = EXPLAINED
) -> Sample:
    """Draw up to `per_class` images of each predicted class; the same seed draws the same images.

    Args:
        rows: all rows of a run's parts.
        per_class: largest number of images of one class.
        seed: seed of the draw.
        population: filter of the rows from which the images are drawn.
    """
    table = rows.to_table(columns=["index", "pred_index"], filter=population)
    chosen = draw_per_group(arrays.classes(table, "pred_index"), per_class, seed)
    return Sample(arrays.classes(table, "index")[chosen], table.num_rows)


def draw_per_group(groups: NDArray[np.int64], per_group: int, seed: int) -> NDArray[np.int64]:
    """Draw up to `per_group` members of each group (n,); returns their positions, ascending."""
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(groups[order], kind="stable")]
    starts = np.flatnonzero(np.diff(groups[order], prepend=NO_CLASS - 1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[place < per_group])
