"""Transfers of pixels or statistics from source images to recipient images; pure tensor code.

Images are (n, C, H, W) uint8 on any device; the i-th source image goes with the i-th recipient
image. Every function returns new images and leaves its arguments as they are.
"""

from __future__ import annotations

import itertools
import math

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

COARSE = 4
"""Rows and columns of the grid of low frequencies that `transfer_lighting` exchanges."""
OCTAVES = (1.0, 2.0, 4.0)
"""Standard deviations, in pixels, of the Gaussian blurs that separate the bands of a pyramid."""
MIN_STRENGTH = 0.5
"""Standard deviation, in grey levels, below which a band holds rounding errors only; it bounds the
amplification of a band."""
BLOCK = 8
"""Side, in pixels, of a block of the cosine transform, as in JPEG (ITU-T T.81)."""


def paste(images: Tensor, sources: Tensor, mask: Tensor) -> Tensor:
    """Replace the pixels where the mask (H, W) or (n, 1, H, W) is true by those of the sources."""
    return torch.where(mask.to(images.device), sources, images)


def shift(images: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Roll images so that the content at corners `start` comes to corners `target`.

    Args:
        images: (n, C, H, W).
        start, target: (n, 2) corners (y, x), as fractions of the height and the width.
    """
    height, width = images.shape[2:]
    size = torch.tensor([height, width], device=start.device)
    moves = (target * size).ceil().long() - (start * size).ceil().long()
    rows = (torch.arange(height, device=images.device) - moves[:, :1]) % height
    columns = (torch.arange(width, device=images.device) - moves[:, 1:]) % width
    n = torch.arange(len(images), device=images.device)
    return images.permute(0, 2, 3, 1)[n[:, None, None], rows[:, :, None], columns[:, None]].permute(
        0, 3, 1, 2
    )


def transfer_colour(images: Tensor, sources: Tensor) -> Tensor:
    """Give images the sources' mean and standard deviation of each channel.

    Reinhard et al., "Color Transfer between Images", IEEE CG&A 2001, equations 10 and 11, here in
    red, green and blue.
    """
    own, others = images.float(), sources.float()
    mean, spread = _moments(own)
    new_mean, new_spread = _moments(others)
    return _to_uint8((own - mean) / spread.clamp_min(1) * new_spread + new_mean)


def transfer_lighting(images: Tensor, sources: Tensor) -> Tensor:
    """Give images the sources' low frequencies: light and colour on a grid of COARSE cells."""
    return _to_uint8(images.float() - _low_frequencies(images) + _low_frequencies(sources))


def transfer_texture(images: Tensor, sources: Tensor) -> Tensor:
    """Give images the sources' distribution of fine structure: sharpness, noise, compression.

    In each frequency of the block cosine transform, the image's coefficients are replaced by the
    source's of the same rank. Their order over the blocks and the means of the blocks stay.
    """
    height, width = (side // BLOCK * BLOCK for side in images.shape[2:])
    own, others = (_dct(every[..., :height, :width].float()) for every in (images, sources))
    rank = own.argsort(dim=-1).argsort(dim=-1)
    matched = others.sort(dim=-1).values.gather(-1, rank)
    matched[:, :, 0] = own[:, :, 0]
    result = images.clone()
    result[..., :height, :width] = _to_uint8(_inverse_dct(matched, height, width))
    return result


def transfer_sharpness(images: Tensor, sources: Tensor) -> Tensor:
    """Give images the sources' strength of structure in each octave: blur, focus, grain.

    Each band of a Laplacian pyramid without subsampling (Burt and Adelson, "The Laplacian Pyramid
    as a Compact Image Code", IEEE Trans. Communications 1983) is scaled to the standard deviation
    of the source's band. The content of the bands and the blurred image below them stay.
    """
    own, low = _laplacian_pyramid(images.float())
    others, _ = _laplacian_pyramid(sources.float())
    for band, other in zip(own, others, strict=True):
        low = low + band * (_strength(other) / _strength(band).clamp_min(MIN_STRENGTH))
    return _to_uint8(low)


def inpaint(images: Tensor, mask: Tensor) -> Tensor:
    """Fill the masked pixels of images (n, 3, H, W) from the pixels around them.

    Telea, "An Image Inpainting Technique Based on the Fast Marching Method", Journal of Graphics
    Tools 2004, as in OpenCV.

    Args:
        images: (n, 3, H, W) uint8.
        mask: (n, 1, H, W) or (H, W) bool, true where pixels are replaced.
    """
    masks = np.asarray(mask.expand(len(images), 1, *images.shape[2:])[:, 0].cpu(), np.uint8)
    arrays = np.ascontiguousarray(images.permute(0, 2, 3, 1).cpu().numpy())
    filled = [
        cv2.inpaint(array, covered, 3, cv2.INPAINT_TELEA)
        for array, covered in zip(arrays, masks, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).to(images.device)


def _laplacian_pyramid(images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Bands of images (n, C, H, W) from fine to coarse, and the blurred images below them."""
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


def _low_frequencies(images: Tensor) -> Tensor:
    cells = F.adaptive_avg_pool2d(images.float(), COARSE)
    return F.interpolate(cells, size=images.shape[2:], mode="bilinear")


def _basis(device: torch.device) -> Tensor:
    """(BLOCK, BLOCK) matrix of the orthonormal cosine transform (type II)."""
    k = torch.arange(BLOCK, device=device, dtype=torch.float32)
    basis = torch.cos(math.pi / BLOCK * (k[None] + 0.5) * k[:, None]) * math.sqrt(2 / BLOCK)
    basis[0] = math.sqrt(1 / BLOCK)
    return basis


def _dct(images: Tensor) -> Tensor:
    """Cosine transform of each block: (n, C, H, W) to (n, C, BLOCK * BLOCK frequencies, blocks)."""
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    basis = _basis(images.device)
    coefficients = torch.einsum("ui,vj,ncyixj->ncuvyx", basis, basis, blocks)
    return coefficients.reshape(n, channels, BLOCK * BLOCK, -1)


def _inverse_dct(coefficients: Tensor, height: int, width: int) -> Tensor:
    """Invert `_dct` to images (n, C, height, width)."""
    n, channels = coefficients.shape[:2]
    shape = (n, channels, BLOCK, BLOCK, height // BLOCK, width // BLOCK)
    basis = _basis(coefficients.device)
    blocks = torch.einsum("ui,vj,ncuvyx->ncyixj", basis, basis, coefficients.reshape(shape))
    return blocks.reshape(n, channels, height, width)


def _to_uint8(images: Tensor) -> Tensor:
    return images.round().clamp(0, 255).to(torch.uint8)
