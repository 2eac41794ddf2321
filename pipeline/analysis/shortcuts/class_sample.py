"""A bounded, deterministic sample of a run's images per predicted class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.storage import arrays
from pipeline.storage.arrays import NO_CLASS
from pipeline.storage.sample import draw_per_class
from pipeline.storage.scan import Rows

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class ClassSample:
    """n sampled images.

    Attributes:
        index: (n,) positions in the plan, ascending.
        predicted: (n,) predicted class indices.
        given: (n,) class indices of the labels, NO_CLASS without a label.
    """

    index: Ints
    predicted: Ints
    given: Ints

    @property
    def own(self) -> Ints:
        """Class (n,) that each image counts as: its label, or its prediction without a label."""
        return np.where(self.given == NO_CLASS, self.predicted, self.given)

    def select(self, rows: Ints | NDArray[np.bool_]) -> ClassSample:
        """Return some of the images, by their positions in the sample or by a mask (n,)."""
        return ClassSample(*(values[rows] for values in vars(self).values()))

    def images_of(self, class_index: int, n_images: int, rng: np.random.Generator) -> ClassSample:
        """Draw up to `n_images` of the images that are labelled or predicted as a class."""
        related = np.flatnonzero((self.own == class_index) | (self.predicted == class_index))
        return self.select(np.sort(rng.permutation(related)[:n_images]))


def draw_sample(rows: Rows, per_class: int, seed: int) -> ClassSample:
    """Draw up to `per_class` images of each predicted class; the same seed draws the same images.

    Args:
        rows: all rows of the run's parts.
        per_class: largest number of images of one class.
        seed: seed of the draw.
    """
    sample = draw_per_class(rows, per_class, seed)
    table = rows.at(sample.index, ["index", "pred_index", "label_index"])
    return ClassSample(
        index=table["index"].to_numpy(),
        predicted=arrays.classes(table, "pred_index"),
        given=arrays.classes(table, "label_index"),
    )
