"""Images with masks of their objects, and with maps of a candidate's concepts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.analysis.audited_model import Ints
from pipeline.analysis.interventions import outlines

COVERING_PRESENCE = 0.3
"""Presence of a candidate's concepts from which they cover a pixel."""
MARGIN = 1 / 32
"""Width of the margin around an object, as a fraction of the image's shorter side."""


@dataclass(frozen=True)
class Scenes:
    """n images, all tensors on one device.

    Attributes:
        index: (n,) positions in the plan.
        classes: (n,) predicted class indices.
        pixels: (n, 3, H, W) float32 in [0, 255].
        objects: (n, 1, H, W) in {0, 1}, the object with a margin around it.
        active: (n, 1, H, W) in {0, 1}, where the target layer is most active, whatever the class.
        presence: (n, 1, H, W) in [0, 1], strength of the candidate's concepts, or the place of its
            mark.
        evidence: (n, 1, H, W) in [0, 1], their positive contribution to the class.
    """

    index: Tensor
    classes: Tensor
    pixels: Tensor
    objects: Tensor
    active: Tensor
    presence: Tensor
    evidence: Tensor

    def __len__(self) -> int:
        return len(self.pixels)

    def select(self, rows: Tensor) -> Scenes:
        """Return some of the images, by their positions or by a mask (n,)."""
        return Scenes(*(values[rows] for values in vars(self).values()))


def concatenate(*batches: Scenes) -> Scenes:
    """Join batches of images."""
    columns = zip(*(vars(batch).values() for batch in batches), strict=True)
    return Scenes(*(torch.cat(column) for column in columns))


def outline(
    pixels: Tensor, activity: Tensor, annotated: Tensor, presence: Tensor | None = None
) -> Tensor:
    """Masks (n, 1, H, W) in {0, 1} of the objects of images, widened by MARGIN.

    Args:
        pixels: (n, 3, H, W) uint8.
        activity: (n, h, w), largest where the object probably is.
        annotated: (n, 1, H, W) bool, all false where no object is annotated.
        presence: (n, 1, H, W) in [0, 1], strength of a candidate's concepts. Activity where they
            are strong does not count, and a connected part that they cover does not belong to the
            object.
    """
    if presence is not None:
        height, width = activity.shape[1:]
        away = 1 - F.adaptive_avg_pool2d(presence, (height, width))[:, 0]
        activity = activity * away.square()
    shares = activity / activity.sum(dim=(1, 2), keepdim=True).clamp_min(1e-9)
    found = outlines.outline_objects(pixels, shares, annotated)
    if presence is not None:
        found = outlines.drop_parts(found, presence > COVERING_PRESENCE)
    margin = max(1, round(MARGIN * min(pixels.shape[2:])))
    return F.max_pool2d(found.float(), 2 * margin + 1, 1, margin)


def most_active(activity: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (n, 1, *size) in {0, 1} of the pixels with half of the activity (n, h, w)."""
    return outlines.hottest_pixels(activity, outlines.LIKELY_ACTIVITY, *size).float()


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Enlarge maps (n, h, w) to (n, 1, *size), in fractions of each map's maximum."""
    large = F.interpolate(maps[:, None], size=size, mode="bicubic").clamp_min(0)
    return large / large.amax(dim=(2, 3), keepdim=True).clamp_min(1e-9)


def draw_rows(size: int, n: int, rng: np.random.Generator) -> Ints:
    """Draw n of `size` positions (n,); none is drawn again before all were drawn."""
    rounds = [rng.permutation(size) for _ in range(-(-n // size))]
    return np.concatenate(rounds)[:n]


def to_tensor(rows: Ints, like: Tensor) -> Tensor:
    """Positions (n,) as a tensor on the device of another tensor."""
    return torch.from_numpy(rows.copy()).to(like.device)
