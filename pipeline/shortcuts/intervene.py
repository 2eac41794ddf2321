"""Interventions on pictures and what they prove: batched tensor code and paired tests, no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.nn import functional as F

Predict = Callable[[Tensor], Tensor]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Effect:
    """What an intervention did, and what the same one did with a control, image by image.

    hit and control are shares of images in [0, 1]; low and high bound their difference (95 %,
    bootstrap); p_value is McNemar's, exact and one-sided, of the pairs in which only one turned.
    """

    hit: float
    control: float
    low: float
    high: float
    p_value: float

    @property
    def gain(self) -> float:
        """Effect minus control, in [-1, 1]."""
        return self.hit - self.control


NO_EFFECT = Effect(0.0, 0.0, 0.0, 0.0, 1.0)


def pixels(cells: NDArray[np.bool_], height: int, width: int) -> Tensor:
    """Cells (h, w) of a grid as a mask (height, width) of the model's picture."""
    grid = torch.from_numpy(cells.astype(np.float32))[None, None]
    return F.interpolate(grid, size=(height, width), mode="nearest-exact")[0, 0] > 0.5


def paste(images: Tensor, donors: Tensor, mask: Tensor) -> Tensor:
    """Images (n, C, H, W) with the donors' pixels where the mask (H, W) or (n, 1, H, W) is true."""
    return torch.where(mask, donors, images)


def elsewhere(mask: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """n masks (n, 1, H, W): the mask (H, W) moved, round the edges, to where it overlaps least.

    Each is the least overlapping of 16 random moves, so that the control has the size and shape
    of the region, but not its content.
    """
    moves = [tuple(int(rng.integers(side)) for side in mask.shape) for _ in range(16 * n)]
    moved = torch.stack([torch.roll(mask, move, (0, 1)) for move in moves]).view(n, 16, *mask.shape)
    overlap = (moved & mask).sum(dim=(2, 3))
    return moved[torch.arange(n), overlap.argmin(dim=1)][:, None]


def compare(hit: Bools, control: Bools, rng: np.random.Generator, draws: int = 1000) -> Effect:
    """Paired comparison of which images turned: (n,) with the cue, (n,) with the control."""
    only_hit, only_control = int((hit & ~control).sum()), int((control & ~hit).sum())
    discordant = only_hit + only_control
    p_value = (
        stats.binomtest(only_hit, discordant, 0.5, alternative="greater").pvalue
        if discordant
        else 1.0
    )
    differences = hit.astype(float) - control.astype(float)
    means = differences[rng.integers(len(hit), size=(draws, len(hit)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Effect(float(hit.mean()), float(control.mean()), float(low), float(high), float(p_value))


def holds_broadly(
    hit: Bools, control: Bools, classes: NDArray[np.int64], least_gain: float
) -> bool:
    """Whether the gain reaches `least_gain` in more than half of the target classes (n,)."""
    gains = [
        hit[classes == label].mean() - control[classes == label].mean()
        for label in np.unique(classes)
    ]
    return bool(gains) and float(np.mean(np.asarray(gains) >= least_gain)) > 0.5
