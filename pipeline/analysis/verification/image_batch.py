"""Images as the model saw them, with the heatmaps that interventions need."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class ImageBatch:
    """n preprocessed images with their predictions and heatmaps, all on one device.

    A cue has heat for its own class only, an object usually for the runner-up class as well; so the
    top-2 heatmaps separate the cue from the object.

    Attributes:
        index: (n,) positions in the plan.
        classes: (n,) predicted class indices.
        pixels: (n, 3, H, W) uint8, before normalisation.
        heat: (n, h, w) heatmap of the predicted class; sums to 1, or to 0 for a dead map.
        runner_up_heat: (n, h, w) the same for the second most probable class.
        activity: (n, h, w) energy of the target layer's activations, whatever the class; sums to 1.
        object_mask: (n, 1, H, W) bool, the annotated object; all false where none is annotated.
    """

    index: Tensor
    classes: Tensor
    pixels: Tensor
    heat: Tensor
    runner_up_heat: Tensor
    activity: Tensor
    object_mask: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def select(self, rows: Tensor) -> ImageBatch:
        """Return some of the images, by their positions in the batch or by a mask (n,)."""
        return ImageBatch(*(values[rows] for values in vars(self).values()))


def to_numpy(values: Tensor) -> NDArray[np.int64]:
    """Copy a tensor of integers from any device into an array of the same shape."""
    return np.asarray(values.cpu(), np.int64)
