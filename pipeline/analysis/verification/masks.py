"""Masks of pixels, from cells of a grid or from heatmaps; tensors on the heatmaps' device.

A mask is bool, (H, W) for all images alike or (n, 1, H, W) with one mask per image; heat is
(n, h, w), each map summing to 1 unless said otherwise.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

LATTICE = 32
"""Rows and columns of the lattice on which the corners of windows lie."""
N_MOVES = 16
"""Random moves of a mask, of which `move_masks` takes the one with the least overlap."""


def mask_of_cells(cells: NDArray[np.bool_], height: int, width: int) -> Tensor:
    """Enlarge cells (h, w) of a grid to a mask (height, width), to the nearest pixel."""
    grid = torch.from_numpy(cells.astype(np.float32))[None, None]
    return F.interpolate(grid, size=(height, width), mode="nearest-exact")[0, 0] > 0.5


def dilate(mask: Tensor, margin: int) -> Tensor:
    """Widen a mask (H, W), or masks (n, 1, H, W), by `margin` pixels to all sides."""
    lone = mask.float().view(-1, 1, *mask.shape[-2:])
    return F.max_pool2d(lone, 2 * margin + 1, 1, margin).view(mask.shape) > 0.5


def move_masks(mask: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """Move masks elsewhere in their images, for a control of equal area and shape.

    Args:
        mask: (H, W), or (n, 1, H, W), on the CPU.
        n: number of images.
        rng: random generator of the moves.

    Returns:
        (n, 1, H, W): each mask rolled round the image's edges by the one of N_MOVES random moves
        after which it overlaps least with its old place.
    """
    masks = mask.expand(n, 1, *mask.shape[-2:])[:, 0]
    moved = []
    for own in masks:
        moves = [tuple(int(rng.integers(side)) for side in own.shape) for _ in range(N_MOVES)]
        rolled = torch.stack([torch.roll(own, move, (0, 1)) for move in moves])
        moved.append(rolled[(rolled & own).sum(dim=(1, 2)).argmin()])
    return torch.stack(moved)[:, None]


def hottest_pixels(heat: Tensor, share: float, height: int, width: int) -> Tensor:
    """Masks (n, 1, height, width) of the hottest pixels that hold a share of the heat (n, h, w).

    The heat is interpolated bilinearly between the centres of its cells. The mask of a dead map is
    empty.
    """
    fine = F.interpolate(heat[:, None], size=(height, width), mode="bilinear")[:, 0]
    flat = fine.flatten(1)
    ordered, order = flat.sort(dim=1, descending=True)
    before = ordered.cumsum(dim=1) - ordered
    inside = before < share * ordered.sum(dim=1, keepdim=True)
    return torch.zeros_like(inside).scatter(1, order, inside).view(-1, 1, height, width)


def hottest_windows(heat: Tensor, scale: float) -> Tensor:
    """Find the square window with the most heat in each image.

    Args:
        heat: (n, h, w), of either sign.
        scale: side of a window, as a fraction of the image's.

    Returns:
        (n, 2) top left corners (y, x), as fractions of the image's height and width.
    """
    fine = F.interpolate(heat[:, None], size=(LATTICE, LATTICE), mode="bilinear")
    sums = F.avg_pool2d(fine, max(1, round(scale * LATTICE)), 1)[:, 0]
    best = sums.flatten(1).argmax(dim=1)
    rows = best.div(sums.shape[2], rounding_mode="floor")
    return torch.stack([rows, best % sums.shape[2]], dim=1) / LATTICE


def window_masks(corners: Tensor, scale: float, height: int, width: int) -> Tensor:
    """Masks (n, 1, height, width) of square windows, by corners (n, 2) of `hottest_windows`."""
    y = (torch.arange(height, device=corners.device) + 0.5) / height
    x = (torch.arange(width, device=corners.device) + 0.5) / width
    top, left = corners[:, :1], corners[:, 1:]
    rows = (y >= top) & (y < top + scale)
    columns = (x >= left) & (x < left + scale)
    return (rows[:, :, None] & columns[:, None, :])[:, None]
