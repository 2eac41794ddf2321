"""Transfers of pixels or statistics from source images to recipient images; pure tensor code.

Images are (n, 3, H, W) float32 in [0, 255] on any device; the i-th source image goes with the i-th
recipient. Statistics of a source are taken where its weights (n, 1, H, W) in [0, 1] are positive,
so that its object can be left out. Every function returns new images and leaves its arguments as
they are; results may lie outside [0, 255].
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

LAYOUT = 16
"""Rows and columns of the grid to which `transfer_lighting` reduces an image."""
DARK = 8.0
"""Grey levels added before the logarithm, so that black pixels do not count for too much."""
RIDGE = 0.1
"""Penalty of the coefficients of the fitted polynomial, in cells of full weight."""
OCTAVES = (1.0, 2.0, 4.0)
"""Standard deviations, in pixels, of the Gaussian blurs that separate the bands of a pyramid."""
MIN_STRENGTH = 0.5
"""Standard deviation, in grey levels, below which a band holds rounding errors only; it bounds the
amplification of a band."""
MIN_BAND_SHARE = 0.02
"""Share of the coarsest band below which a band holds rounding errors only."""
TINY = 1e-9
MIN_VARIANCE = 4.0
"""Variance added to every direction of colour, in squared grey levels, for the same reason."""
BLOCK = 8
"""Side, in pixels, of a block of the cosine transform, as in JPEG (ITU-T T.81)."""
MIN_BLOCK_WEIGHT, MIN_BLOCKS = 0.9, 4
"""Mean weight from which a source's block is used, and fewest such blocks of a source; with fewer,
all blocks are used."""
INPAINT_SIDE = 96
"""Longer side, in pixels, to which images are reduced to fill large holes."""


def blend(images: Tensor, sources: Tensor, alpha: Tensor) -> Tensor:
    """Mix images with sources, by the share alpha (n, 1, H, W) in [0, 1] of the sources."""
    return images + (sources - images) * alpha


def transfer_colour(
    images: Tensor, sources: Tensor, weights: Tensor, own_weights: Tensor | None = None
) -> Tensor:
    """Give images the sources' mean and covariance of colours, so that a grey source makes grey.

    The linear Monge-Kantorovitch solution (Pitie and Kokaram, "The Linear Monge-Kantorovitch Linear
    Colour Mapping for Example-Based Colour Transfer", CVMP 2007, equation 15).

    Args:
        images, sources, weights: as in the module.
        own_weights: (n, 1, H, W), the pixels of the images whose statistics are replaced; all by
            default.
    """
    everything = torch.ones_like(weights) if own_weights is None else own_weights
    mean, covariance = _colour_moments(images, everything)
    new_mean, new_covariance = _colour_moments(sources, weights)
    root, inverse = _matrix_power(covariance, 0.5), _matrix_power(covariance, -0.5)
    mapping = inverse @ _matrix_power(root @ new_covariance @ root, 0.5) @ inverse
    moved: Tensor = torch.einsum("ncd,ndp->ncp", mapping, (images - mean).flatten(2))
    return moved.reshape(images.shape) + new_mean


def transfer_lighting(
    images: Tensor, sources: Tensor, weights: Tensor, own_weights: Tensor | None = None
) -> Tensor:
    """Give images the sources' layout of light and colour: a gradient, a vignette, a leak of light.

    In every channel, the logarithm of the brightness outside the objects is fitted by a polynomial
    of the second degree in the coordinates; light multiplies what it falls on. The mean of an
    image's logarithms stays, as `transfer_colour` transfers it.

    Args:
        images, sources, weights: as in the module.
        own_weights: (n, 1, H, W), the pixels of the images to which their own layout is fitted; all
            by default.
    """
    everything = torch.ones_like(weights) if own_weights is None else own_weights
    change = _log_layout(sources, weights) - _log_layout(images, everything)
    change = change - change.mean(dim=(2, 3), keepdim=True)
    return (images + DARK) * change.exp() - DARK


def transfer_texture(
    images: Tensor, sources: Tensor, weights: Tensor, own_weights: Tensor | None = None
) -> Tensor:
    """Give images the sources' distribution of fine structure.

    In each frequency of the block cosine transform, the image's coefficients are replaced by the
    source's of the same rank. Their order over the blocks and the means of the blocks stay.

    Args:
        images, sources, weights: as in the module.
        own_weights: (n, 1, H, W), the pixels of the images whose structure is replaced; all by
            default. The structure of a background would take an object's contours away.
    """
    height, width = (side // BLOCK * BLOCK for side in images.shape[2:])
    own, others = (_dct(every[..., :height, :width]) for every in (images, sources))
    used = _blocks_of(weights[..., :height, :width])
    replaced = torch.ones_like(used)
    if own_weights is not None:
        replaced = _blocks_of(own_weights[..., :height, :width])
    n_used, n_replaced = (each.sum(dim=1)[:, None, None, None] for each in (used, replaced))
    ordered = others.masked_fill(~used[:, None, None], torch.inf).sort(dim=-1).values
    rank = own.masked_fill(~replaced[:, None, None], torch.inf).argsort(dim=-1).argsort(dim=-1)
    place = torch.div((2 * rank + 1) * n_used, 2 * n_replaced, rounding_mode="floor")
    matched = ordered.gather(-1, place.clamp_max(ordered.shape[-1] - 1))
    matched = torch.where(replaced[:, None, None], matched, own)
    matched[:, :, 0] = own[:, :, 0]
    result = images.clone()
    result[..., :height, :width] = _inverse_dct(matched, height, width)
    return result


def transfer_sharpness(images: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
    """Give images the sources' share of fine structure: blur, focus, grain.

    The bands of a Laplacian pyramid without subsampling (Burt and Adelson, "The Laplacian Pyramid
    as a Compact Image Code", IEEE Trans. Communications 1983) are scaled so that the standard
    deviation of each, as a fraction of that of the coarsest band, is the source's. How much
    structure there is stays, so that a smooth background does not blur an object. Where the
    coarsest band of either image is empty, nothing is changed.
    """
    own, low = _laplacian_pyramid(images)
    others, _ = _laplacian_pyramid(sources)
    shares, other_shares = (
        _band_shares(own, torch.ones_like(weights)),
        _band_shares(others, weights),
    )
    for band, share, other_share in zip(own, shares, other_shares, strict=True):
        ratio = other_share / share.clamp_min(MIN_BAND_SHARE)
        is_known = (share > 0) & (other_share > 0)
        low = low + band * torch.where(is_known, ratio, 1.0)
    return low


def _band_shares(bands: list[Tensor], weights: Tensor) -> list[Tensor]:
    """Strengths (n, 1, 1, 1) of bands as fractions of that of the last one; 0 if that is empty."""
    strengths = [
        _strength(band, _away_from_objects(weights, round(2 * sigma)))
        for band, sigma in zip(bands, OCTAVES, strict=False)
    ]
    is_empty = strengths[-1] < MIN_STRENGTH
    return [
        torch.where(is_empty, 0.0, strength.clamp_min(TINY) / strengths[-1].clamp_min(MIN_STRENGTH))
        for strength in strengths
    ]


def fill_holes(images: Tensor, mask: Tensor) -> Tensor:
    """Fill the masked pixels of images (n, 3, H, W) from the pixels around them.

    Telea, "An Image Inpainting Technique Based on the Fast Marching Method", Journal of Graphics
    Tools 2004, as in OpenCV, on images of at most INPAINT_SIDE pixels. An image without a hole, or
    with nothing else, stays as it is.

    Args:
        images: (n, 3, H, W) float32.
        mask: (n, 1, H, W) bool, true where pixels are replaced.
    """
    height, width = images.shape[2:]
    scale = min(1.0, INPAINT_SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    small = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    holes = F.adaptive_max_pool2d(mask.float(), size)
    if scale < 1:  # a reduced pixel beside a hole has the hole's colour in it
        holes = F.max_pool2d(holes, 3, 1, 1)
    pixels = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    filled = [
        cv2.inpaint(np.ascontiguousarray(array), hole.astype(np.uint8), 3, cv2.INPAINT_TELEA)
        if hole.any() and not hole.all()
        else array
        for array, hole in zip(pixels, holes[:, 0].cpu().numpy() > 0, strict=True)
    ]
    large = torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2).float().to(images.device)
    large = F.interpolate(large, size=(height, width), mode="bilinear")
    return torch.where(mask & ~mask.all(dim=(2, 3), keepdim=True), large, images)


def colour_statistics(images: Tensor, weights: Tensor) -> Tensor:
    """Weighted means and standard deviations (n, 6) of the colour channels."""
    mean, covariance = _colour_moments(images, weights)
    return torch.cat([mean[:, :, 0, 0], covariance.diagonal(dim1=1, dim2=2).sqrt()], dim=1)


def log_strengths(images: Tensor, weights: Tensor) -> Tensor:
    """Logarithms of the weighted strengths (n, octaves) of the bands of fine structure."""
    bands, _ = _laplacian_pyramid(images)
    strengths = torch.cat([_strength(band, weights)[:, :, 0, 0] for band in bands], dim=1)
    return strengths.clamp_min(MIN_STRENGTH).log()


def to_uint8(images: Tensor) -> Tensor:
    """Round images to uint8."""
    return images.round().clamp(0, 255).to(torch.uint8)


def _colour_moments(images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means (n, 3, 1, 1) and covariances (n, 3, 3) of colours."""
    shares = weights / weights.sum(dim=(2, 3), keepdim=True).clamp_min(1)
    mean = (images * shares).sum(dim=(2, 3), keepdim=True)
    deviation = (images - mean).flatten(2)
    return mean, torch.einsum("ncp,ndp,np->ncd", deviation, deviation, shares.flatten(1))


def _matrix_power(covariance: Tensor, power: float) -> Tensor:
    """Power of symmetric matrices (n, 3, 3), of which no eigenvalue is below MIN_VARIANCE."""
    values, vectors = torch.linalg.eigh(covariance)
    scaled = torch.diag_embed(values.clamp_min(MIN_VARIANCE) ** power)
    return torch.matmul(torch.matmul(vectors, scaled), vectors.mT)


def _log_layout(images: Tensor, weights: Tensor) -> Tensor:
    """Polynomials (n, 3, H, W) of the second degree, fitted to log(images + DARK) by weight."""
    height, width = images.shape[2:]
    values = F.adaptive_avg_pool2d((images.clamp_min(0) + DARK).log() * weights, LAYOUT)
    share = F.adaptive_avg_pool2d(weights, LAYOUT)
    coarse = _polynomials(LAYOUT, LAYOUT, images)
    normal = torch.einsum("pk,np,pl->nkl", coarse, share.flatten(1), coarse)
    normal = normal + RIDGE * torch.eye(normal.shape[1], device=images.device)
    right = torch.einsum("pk,ncp->nkc", coarse, values.flatten(2))
    coefficients = torch.linalg.solve(normal, right)
    fitted: Tensor = torch.einsum("pk,nkc->ncp", _polynomials(height, width, images), coefficients)
    return fitted.reshape(images.shape)


def _polynomials(height: int, width: int, like: Tensor) -> Tensor:
    """Values (height * width, 6) of 1, x, y, x^2, x y and y^2 at pixels, for x and y in [-1, 1]."""
    axes = [
        (torch.arange(side, device=like.device) + 0.5) * 2 / side - 1 for side in (height, width)
    ]
    y, x = torch.meshgrid(*axes, indexing="ij")
    terms = [torch.ones_like(x), x, y, x * x, x * y, y * y]
    return torch.stack(terms, dim=-1).flatten(0, 1).to(like.dtype)


def _laplacian_pyramid(images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Bands of images (n, C, H, W) from fine to coarse, and the blurred images below them."""
    blurred = [images]
    for sigma in OCTAVES:
        reach = math.ceil(3 * sigma)
        if reach < min(images.shape[2:]):
            blurred.append(gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2))
    return [fine - coarse for fine, coarse in itertools.pairwise(blurred)], blurred[-1]


def _away_from_objects(weights: Tensor, distance: int) -> Tensor:
    """Weights (n, 1, H, W) of pixels at a distance from those without, which are blurred into them.

    Where nothing is left of an image's weights, they stay.
    """
    away = 1 - F.max_pool2d(1 - weights, 2 * distance + 1, 1, distance)
    return torch.where(away.sum(dim=(2, 3), keepdim=True) > 0, away, weights)


def _strength(band: Tensor, weights: Tensor) -> Tensor:
    """Root mean square (n, 1, 1, 1) of a band, whose mean is 0, over the weighted pixels."""
    squares = (band.square() * weights).sum(dim=(1, 2, 3), keepdim=True)
    n_values = band.shape[1] * weights.sum(dim=(1, 2, 3), keepdim=True)
    return (squares / n_values.clamp_min(1)).sqrt()


def _blocks_of(weights: Tensor) -> Tensor:
    """Blocks (n, blocks) that are weighted; all of them where there are fewer than MIN_BLOCKS."""
    weighted = F.avg_pool2d(weights, BLOCK).flatten(1) > MIN_BLOCK_WEIGHT
    return weighted | (weighted.sum(dim=1, keepdim=True) < MIN_BLOCKS)


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
