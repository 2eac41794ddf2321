"""Local colours and local contrast of images: by pixel, by cell of a grid, and over the image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

GRID = 16
"""Rows and columns of the grid on which places in images are compared and described."""
SCALES = (1, 2, 4)
"""Factors by which images are reduced, to measure the contrast of fine and coarse structure."""
BATCH = 32
"""Images whose features are computed at once, to bound memory."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PixelFeatures:
    """Features of the pixels of n images.

    Attributes:
        cells: (n, 4, GRID, GRID), means of the local features in every cell.
        style: (n, d), statistics of the whole image: means and standard deviations of its colours,
            saturation, contrast at SCALES, and how far colours and contrast differ among cells.
    """

    cells: Floats
    style: Floats

    def select(self, rows: NDArray[np.bool_]) -> PixelFeatures:
        """Some of the images, by a mask (n,)."""
        return PixelFeatures(self.cells[rows], self.style[rows])


def local_features(pixels: Tensor) -> Tensor:
    """Compute the mean colours over 3 x 3 pixels and, in logarithms, their standard deviation.

    Args:
        pixels: (n, 3, H, W) float32 in [0, 255].

    Returns:
        (n, 4, H, W).
    """
    padded = F.pad(pixels, (1, 1, 1, 1), mode="replicate")
    means = F.avg_pool2d(padded, 3, 1)
    variance = F.avg_pool2d(padded.square(), 3, 1) - means.square()
    contrast = variance.clamp_min(0).mean(dim=1, keepdim=True).sqrt().log1p()
    return torch.cat([means, contrast], dim=1)


def pixel_features(pixels: Tensor) -> PixelFeatures:
    """Compute the features of images (n, 3, H, W) uint8."""
    blocks = [_features_of(block.float()) for block in torch.split(pixels, BATCH)]
    cells, style = (torch.cat(parts).cpu().numpy() for parts in zip(*blocks, strict=True))
    return PixelFeatures(cells, style)


def _features_of(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (n, 4, GRID, GRID) and style (n, d) of images (n, 3, H, W) float32."""
    cells = F.adaptive_avg_pool2d(local_features(pixels), GRID)
    contrasts = [
        local_features(F.avg_pool2d(pixels, scale))[:, 3].mean(dim=(1, 2))
        for scale in SCALES
        if scale <= min(pixels.shape[2:])
    ]
    saturation = (pixels.amax(dim=1) - pixels.amin(dim=1)).mean(dim=(1, 2))
    style = [
        pixels.mean(dim=(2, 3)),
        pixels.std(dim=(2, 3)),
        torch.stack([saturation, *contrasts], dim=1),
        cells.std(dim=(2, 3)),
    ]
    return cells, torch.cat(style, dim=1)
