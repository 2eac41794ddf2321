"""Local colours and local contrast of images: by pixel, by cell of a grid, and over the image."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

GRID = 16
"""Rows and columns of the grid on which places in images are compared and described."""
COARSER = (2, 4)
"""Factors by which images are reduced, to measure the contrast of coarser structure."""
BATCH = 32
"""Images whose features are computed at once, to bound memory."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class PixelFeatures:
    """Features of the pixels of n images.

    Attributes:
        cells: (n, 4, GRID, GRID), means of the local features in every cell.
        style: (n, d), statistics of the whole image: means and standard deviations of its colours,
            saturation, contrast of fine and COARSER structure, and how far colours and contrast
            differ among cells.
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
    images = pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    found = np.stack([_local_features(image) for image in images])
    return torch.from_numpy(found).permute(0, 3, 1, 2).to(pixels.device)


def _local_features(image: Floats) -> Floats:
    """Local features (H, W, 4) of an image (H, W, 3); OpenCV's filters are the fastest on a CPU."""
    mean, mean_square = (
        cv2.blur(values, (3, 3), borderType=cv2.BORDER_REPLICATE)
        for values in (image, image * image)
    )
    found = np.empty((*image.shape[:2], 4), np.float32)
    found[..., :3] = mean
    variance = (mean_square - mean * mean) @ np.full(3, 1 / 3, np.float32)
    found[..., 3] = np.log1p(np.sqrt(variance.clip(0)))
    return found


def pixel_features(pixels: Tensor) -> PixelFeatures:
    """Compute the features of images (n, 3, H, W) uint8."""
    blocks = [_features_of(block.float()) for block in torch.split(pixels, BATCH)]
    cells, style = (torch.cat(parts).cpu().numpy() for parts in zip(*blocks, strict=True))
    return PixelFeatures(cells, style)


def _features_of(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (n, 4, GRID, GRID) and style (n, d) of images (n, 3, H, W) float32."""
    features = local_features(pixels)
    cells = F.adaptive_avg_pool2d(features, GRID)
    contrasts = [features[:, 3].mean(dim=(1, 2))]
    contrasts += [
        local_features(F.avg_pool2d(pixels, scale))[:, 3].mean(dim=(1, 2))
        for scale in COARSER
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
