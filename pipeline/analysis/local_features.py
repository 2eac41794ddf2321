"""Local colours and local contrast of images, by pixel and by cell of a grid."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

GRID = 16
"""Rows and columns of the grid on which places in images are compared and described."""
N_FEATURES = 4
BATCH = 32
"""Images whose features are computed at once, to bound memory."""


def local_features(pixels: Tensor) -> Tensor:
    """Compute the mean colours over 3 x 3 pixels and, in logarithms, their standard deviation.

    Args:
        pixels: (n, 3, H, W) float32 in [0, 255].

    Returns:
        (n, N_FEATURES, H, W).
    """
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    means = F.avg_pool2d(padded, 3, 1)
    variance = F.avg_pool2d(padded.square(), 3, 1) - means.square()
    contrast = variance.clamp_min(0).mean(dim=1, keepdim=True).sqrt().log1p()
    return torch.cat([means, contrast], dim=1)


def cell_features(pixels: Tensor) -> NDArray[np.float32]:
    """Average the local features over cells.

    Args:
        pixels: (n, 3, H, W) uint8.

    Returns:
        (n, N_FEATURES, GRID, GRID).
    """
    found = [
        F.adaptive_avg_pool2d(local_features(block.float()), GRID).cpu()
        for block in torch.split(pixels, BATCH)
    ]
    return np.asarray(torch.cat(found))
