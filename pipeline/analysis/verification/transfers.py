"""Interventions on pictures: what is pasted, moved or transferred from one to another.

Pure tensor code on the pictures' device. Pictures are (n, C, H, W) uint8, heat (n, h, w) shares
that sum to 1; the i-th donor goes into the i-th host.
"""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

LATTICE = 32
"""Rows and columns of the places where a window may lie."""
COARSE = 4
"""Rows and columns of the low frequencies of a picture."""
OCTAVES = (1.0, 2.0, 4.0)
"""Standard deviations in pixels of the blurs between which a band of structure lies."""
FAINT = 0.5
"""Standard deviation of grey levels up to which a band holds rounding, and is not amplified."""
BLOCK = 8
"""Side in pixels of a block of the cosine transform, as in JPEG (ITU-T T.81)."""


def pixels(cells: NDArray[np.bool_], height: int, width: int) -> Tensor:
    """Cells (h, w) of a grid as a mask (height, width) of the model's picture."""
    grid = torch.from_numpy(cells.astype(np.float32))[None, None]
    return F.interpolate(grid, size=(height, width), mode="nearest-exact")[0, 0] > 0.5


def wider(mask: Tensor, margin: int) -> Tensor:
    """A mask (H, W) or masks (n, 1, H, W) that reach `margin` pixels further to all sides."""
    lone = mask.float().view(-1, 1, *mask.shape[-2:])
    return F.max_pool2d(lone, 2 * margin + 1, 1, margin).view(mask.shape) > 0.5


def paste(images: Tensor, donors: Tensor, mask: Tensor) -> Tensor:
    """Images with the donors' pixels where the mask (H, W) or (n, 1, H, W) is true."""
    return torch.where(mask.to(images.device), donors, images)


def elsewhere(mask: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """n masks (n, 1, H, W): masks (H, W) or (n, 1, H, W) moved to where they overlap least.

    Each is the least overlapping of 16 random moves round the edges, so that the control has the
    size and shape of the region, but not its content.
    """
    masks = mask.expand(n, 1, *mask.shape[-2:])[:, 0]
    moved = []
    for own in masks:
        moves = [tuple(int(rng.integers(side)) for side in own.shape) for _ in range(16)]
        tried = torch.stack([torch.roll(own, move, (0, 1)) for move in moves])
        moved.append(tried[(tried & own).sum(dim=(1, 2)).argmin()])
    return torch.stack(moved)[:, None]


def hot(heat: Tensor, share: float, height: int, width: int) -> Tensor:
    """Masks (n, 1, height, width) of the hottest pixels that hold a share of the heat (n, h, w).

    The heat is interpolated between its cells, as they are drawn.
    """
    fine = F.interpolate(heat[:, None], size=(height, width), mode="bilinear")[:, 0]
    flat = fine.flatten(1)
    ordered, order = flat.sort(dim=1, descending=True)
    before = ordered.cumsum(dim=1) - ordered
    inside = before < share * ordered.sum(dim=1, keepdim=True)
    return torch.zeros_like(inside).scatter(1, order, inside).view(-1, 1, height, width)


def window(heat: Tensor, scale: float) -> Tensor:
    """Corners (n, 2), as fractions (top, left), of the square windows with the most heat.

    Args:
        heat: (n, h, w), of either sign.
        scale: side of a window, as a fraction of the picture's.
    """
    fine = F.interpolate(heat[:, None], size=(LATTICE, LATTICE), mode="bilinear")
    sums = F.avg_pool2d(fine, max(1, round(scale * LATTICE)), 1)[:, 0]
    best = sums.flatten(1).argmax(dim=1)
    rows = best.div(sums.shape[2], rounding_mode="floor")
    return torch.stack([rows, best % sums.shape[2]], dim=1) / LATTICE


def squares(corners: Tensor, scale: float, height: int, width: int) -> Tensor:
    """Masks (n, 1, height, width) of windows at corners (n, 2) given as fractions."""
    y = (torch.arange(height, device=corners.device) + 0.5) / height
    x = (torch.arange(width, device=corners.device) + 0.5) / width
    top, left = corners[:, :1], corners[:, 1:]
    rows = (y >= top) & (y < top + scale)
    columns = (x >= left) & (x < left + scale)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def shifted(images: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Images rolled so that what was at corners `source` (n, 2) is at corners `target` (n, 2)."""
    height, width = images.shape[2:]
    size = torch.tensor([height, width], device=source.device)
    moves = (target * size).ceil().long() - (source * size).ceil().long()
    rows = (torch.arange(height, device=images.device) - moves[:, :1]) % height
    columns = (torch.arange(width, device=images.device) - moves[:, 1:]) % width
    n = torch.arange(len(images), device=images.device)
    return images.permute(0, 2, 3, 1)[n[:, None, None], rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def colour(images: Tensor, donors: Tensor) -> Tensor:
    """Images with the donors' mean and standard deviation of each channel.

    Reinhard et al., "Color Transfer between Images", IEEE CG&A 2001, equations 10 and 11 (here of
    red, green and blue).
    """
    own, others = images.float(), donors.float()
    mean, spread = _moments(own)
    wanted_mean, wanted_spread = _moments(others)
    return _to_uint8((own - mean) / spread.clamp_min(1) * wanted_spread + wanted_mean)


def lighting(images: Tensor, donors: Tensor) -> Tensor:
    """Images with the donors' low frequencies: the layout of light and colour in COARSE cells."""
    return _to_uint8(images.float() - _low(images) + _low(donors))


def texture(images: Tensor, donors: Tensor) -> Tensor:
    """Images whose fine structure is distributed as the donors': sharpness, noise, compression.

    Each frequency of the cosine transform in blocks is brought to the donor's values, the largest
    to the largest and so on; where in the picture they stand, and the means of the blocks, stay.
    """
    height, width = (side // BLOCK * BLOCK for side in images.shape[2:])
    own, others = (_dct(every[..., :height, :width].float()) for every in (images, donors))
    rank = own.argsort(dim=-1).argsort(dim=-1)
    matched = others.sort(dim=-1).values.gather(-1, rank)
    matched[:, :, 0] = own[:, :, 0]
    result = images.clone()
    result[..., :height, :width] = _to_uint8(_inverse_dct(matched, height, width))
    return result


def sharpness(images: Tensor, donors: Tensor) -> Tensor:
    """Images whose structure is as strong as the donors' in each octave: blur, focus, grain.

    The bands of a Laplacian pyramid (Burt and Adelson, "The Laplacian Pyramid as a Compact Image
    Code", IEEE Trans. Communications 1983), not subsampled, are scaled to the donor's spread; what
    they show, and the layout of light and colour below them, stay.
    """
    own, low = _octaves(images.float())
    others, _ = _octaves(donors.float())
    for band, other in zip(own, others, strict=True):
        low = low + band * (_strength(other) / _strength(band).clamp_min(FAINT))
    return _to_uint8(low)


def inpainted(images: Tensor, mask: Tensor) -> Tensor:
    """Images (n, 3, H, W) with what the mask (n, 1, H, W) or (H, W) covers filled from around it.

    Telea, "An Image Inpainting Technique Based on the Fast Marching Method", JGT 2004 (OpenCV).
    """
    masks = np.asarray(mask.expand(len(images), 1, *images.shape[2:])[:, 0].cpu(), np.uint8)
    pictures = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
    filled = [
        cv2.inpaint(picture, covered, 3, cv2.INPAINT_TELEA)
        for picture, covered in zip(pictures, masks, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(images.device)


def _octaves(images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Bands of structure of images (n, C, H, W), and what is left below them."""
    blurred = [images]
    for sigma in OCTAVES:
        reach = math.ceil(3 * sigma)
        if reach < min(images.shape[2:]):
            blurred.append(gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2))
    return [fine - coarse for fine, coarse in itertools.pairwise(blurred)], blurred[-1]


def _strength(band: Tensor) -> Tensor:
    return band.std(dim=(1, 2, 3), keepdim=True)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    return images.mean(dim=(2, 3), keepdim=True), images.std(dim=(2, 3), keepdim=True)


def _low(images: Tensor) -> Tensor:
    cells = F.adaptive_avg_pool2d(images.float(), COARSE)
    return F.interpolate(cells, size=images.shape[2:], mode="bilinear")


def _basis(device: torch.device) -> Tensor:
    """(BLOCK, BLOCK) matrix of the orthonormal cosine transform (type II)."""
    k = torch.arange(BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi / BLOCK * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] = math.sqrt(1 / BLOCK)
    return basis


def _dct(images: Tensor) -> Tensor:
    """(n, C, BLOCK * BLOCK frequencies, blocks) of (n, C, H, W)."""
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    basis = _basis(images.device)
    coefficients = torch.einsum("ui,vj,ncyixj->ncuvyx", basis, basis, blocks)
    return coefficients.reshape(n, channels, BLOCK * BLOCK, -1)


def _inverse_dct(coefficients: Tensor, height: int, width: int) -> Tensor:
    n, channels = coefficients.shape[:2]
    shape = (n, channels, BLOCK, BLOCK, height // BLOCK, width // BLOCK)
    basis = _basis(coefficients.device)
    blocks = torch.einsum("ui,vj,ncuvyx->ncyixj", basis, basis, coefficients.reshape(shape))
    return blocks.reshape(n, channels, height, width)


def _to_uint8(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
