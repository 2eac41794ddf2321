"""Traces of how images were recorded, estimated in sources and repeated in recipients.

These are compression, a lower resolution, and noise.

Images are (n, 3, H, W) float32 in [0, 255]; the i-th source image goes with the i-th recipient.
A recipient whose source shows no such trace is returned unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.interventions import transfers

QUALITIES = range(5, 90, 3)
"""JPEG qualities that are tried; a weaker compression is not recognised."""
RISE = 1.1
"""Factor by which the error must rise at the next qualities beyond a minimum. The error of an image
that was not compressed falls with the quality."""
RISE_ENLARGED = 1.02
"""The same factor for images that were compressed and then enlarged, which blurs the minimum."""
MIN_ERROR = 0.3
"""Root mean square error, in grey levels, that counts as none."""
MAX_SIDE = 96
"""Side, in pixels, of the part of an image that the quality is estimated from."""
ENLARGED = 0.84
"""Ratio of the error at one size to that at the next sizes below which an image was enlarged from
this size. It was at most 0.83 in 40 enlarged photographs, and lower in fewer than 5 of 40 others,
which may have been enlarged before."""
SIZES = (1 / 8, 0.85)
"""Smallest and largest size that is tried, as fractions of the image's height."""
MIN_SIZE = 8
"""Smallest height, in pixels, that is tried."""
MAX_COLUMNS = 32
"""Columns and rows from which the size is estimated."""
N_REMEMBERED = 128
"""Estimates that are kept: sources are used again with other recipients."""
MIN_NOISE = 4.0
"""Standard deviation, in grey levels, below which no noise is added."""
NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a standard normal variable."""


@dataclass(frozen=True)
class Reduction:
    """The height of an image before it was enlarged, and its JPEG quality then; None if unknown."""

    height: int
    quality: int | None


def transfer_compression(images: Tensor, sources: Tensor, _weights: Tensor) -> Tensor:
    """Compress images with the JPEG quality of the sources that were compressed.

    Only sources of the same size and block grid as when they were compressed are recognised.
    """
    result = images.clone()
    for image, source in zip(result, sources, strict=True):
        array = _to_array(source)
        quality = _quality_of(array.tobytes(), array.shape)
        if quality is not None:
            image.copy_(_to_tensor(_compress(_to_array(image), quality)))
    return result


def transfer_resolution(images: Tensor, sources: Tensor, _weights: Tensor) -> Tensor:
    """Reduce images to the size that the sources had before they were enlarged, and enlarge them.

    In between they are compressed where the sources were.
    """
    result = images.clone()
    for image, source in zip(result, sources, strict=True):
        array = _to_array(source)
        found = _reduction_of(array.tobytes(), array.shape)
        if found is not None:
            image.copy_(_to_tensor(_reduce(_to_array(image), found)))
    return result


def transfer_noise(images: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
    """Add Gaussian noise up to the level of the sources, in each colour channel."""
    level, own = noise_levels(sources, weights), noise_levels(images, torch.ones_like(weights))
    added = (level.square() - own.square()).clamp_min(0).sqrt()
    added = torch.where(added.amax(dim=1, keepdim=True) < MIN_NOISE, 0.0, added)
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn(images.shape, generator=generator).to(images.device)
    return images + grain * added[..., None, None]


def are_compressed(images: Tensor) -> NDArray[np.bool_]:
    """Whether each image (n, 3, H, W) shows a compression, as `transfer_compression` finds it."""
    return np.array([jpeg_quality(_to_array(image)) is not None for image in images], bool)


def are_enlarged(images: Tensor) -> NDArray[np.bool_]:
    """Whether each image (n, 3, H, W) was enlarged, as `transfer_resolution` finds it."""
    return np.array([find_reduction(_to_array(image)) is not None for image in images], bool)


def are_noisy(images: Tensor) -> NDArray[np.bool_]:
    """Whether each image (n, 3, H, W) has noise, as `transfer_noise` finds it."""
    levels = noise_levels(images, torch.ones_like(images[:, :1]))
    return np.asarray((levels.amax(dim=1) >= MIN_NOISE).cpu())


def jpeg_quality(image: NDArray[np.uint8], rise: float = RISE) -> int | None:
    """Estimate the JPEG quality of an image (H, W, 3); None if it was compressed little or not.

    Compressing an image again changes it least at the quality that it was compressed with (Farid,
    "Exposing Digital Forgeries From JPEG Ghosts", IEEE Trans. Information Forensics and Security
    2009). Errors of the luma are compared, because JPEG reduces the resolution of the others.

    Args:
        image: the image.
        rise: factor by which the error must rise at the next qualities.
    """
    side = min(MAX_SIDE, *image.shape[:2]) // transfers.BLOCK * transfers.BLOCK
    if not side:
        return None
    luma = np.asarray(cv2.cvtColor(image[:side, :side], cv2.COLOR_RGB2GRAY), np.uint8)
    differences = np.stack([luma.astype(np.float32) - _compress(luma, q) for q in QUALITIES])
    errors = np.sqrt(np.square(differences).mean(axis=(1, 2))).clip(MIN_ERROR)
    rises = np.maximum(errors[1:-1], errors[2:]) > rise * errors[:-2]
    return QUALITIES[int(rises.argmax())] if rises.any() else None


def find_reduction(image: NDArray[np.uint8]) -> Reduction | None:
    """Estimate the size of an image (H, W, 3) before it was enlarged; None if it was not.

    An enlarged image that is reduced to its original size and enlarged again changes less than at
    the sizes next to it. Lines of the image are resized along their length, by linear and by cubic
    interpolation. An image that was compressed as it is counts as not enlarged.
    """
    if jpeg_quality(image) is not None:
        return None
    height, width = image.shape[:2]
    luma = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    lines = [luma[:, :: max(1, width // MAX_COLUMNS)]]
    if height == width:
        lines.append(luma.T[:, :: max(1, height // MAX_COLUMNS)])
    columns = np.ascontiguousarray(np.concatenate(lines, axis=1))
    sizes = range(max(MIN_SIZE, round(SIZES[0] * height)), round(SIZES[1] * height))
    if len(sizes) < 3:
        return None
    errors = _errors_of_sizes(columns, sizes)
    ratios = errors[:, 1:-1] / np.minimum(errors[:, :-2], errors[:, 2:])
    best = int(ratios.min(axis=0).argmin())
    if not ratios[:, best].min() < ENLARGED:
        return None
    found = Reduction(sizes[best + 1], None)
    return Reduction(found.height, jpeg_quality(_shrink(image, found), RISE_ENLARGED))


@lru_cache(N_REMEMBERED)
def _quality_of(content: bytes, shape: tuple[int, ...]) -> int | None:
    return jpeg_quality(np.frombuffer(content, np.uint8).reshape(shape))


@lru_cache(N_REMEMBERED)
def _reduction_of(content: bytes, shape: tuple[int, ...]) -> Reduction | None:
    return find_reduction(np.frombuffer(content, np.uint8).reshape(shape))


def _errors_of_sizes(columns: NDArray[np.float32], sizes: range) -> NDArray[np.float32]:
    """Root mean square errors (2, sizes) of columns (H, n) reduced to each size and enlarged.

    They are enlarged by linear and by cubic interpolation.
    """
    height, n = columns.shape
    small = [cv2.resize(columns, (n, size), interpolation=cv2.INTER_AREA) for size in sizes]
    kinds = (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    enlarged = [
        [cv2.resize(each, (n, height), interpolation=kind) for each in small] for kind in kinds
    ]
    errors = np.sqrt(np.square(np.stack(enlarged) - columns).mean(axis=(2, 3)))
    return np.asarray(errors.clip(MIN_ERROR), np.float32)


def _shrink(image: NDArray[np.uint8], reduction: Reduction) -> NDArray[np.uint8]:
    width = max(1, round(image.shape[1] * reduction.height / image.shape[0]))
    small = cv2.resize(image, (width, reduction.height), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8)


def _reduce(image: NDArray[np.uint8], reduction: Reduction) -> NDArray[np.uint8]:
    """Reduce an image (H, W, 3), compress it where the reduction says so, and enlarge it."""
    small = _shrink(image, reduction)
    if reduction.quality is not None:
        small = _compress(small, reduction.quality)
    size = (image.shape[1], image.shape[0])
    return np.asarray(cv2.resize(small, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def noise_levels(images: Tensor, weights: Tensor) -> Tensor:
    """Robust standard deviation (n, 3) of the noise in each channel, in grey levels.

    The median absolute diagonal detail of the Haar transform over the weighted pixels, as in Donoho
    and Johnstone, "Ideal Spatial Adaptation by Wavelet Shrinkage", Biometrika 1994.
    """
    height, width = (side // 2 * 2 for side in images.shape[2:])
    blocks = images[..., :height, :width].unfold(2, 2, 2).unfold(3, 2, 2)
    detail = (blocks[..., 0, 0] - blocks[..., 0, 1] - blocks[..., 1, 0] + blocks[..., 1, 1]) / 2
    used = weights[..., :height:2, :width:2].expand_as(detail) > 0
    values = torch.where(used, detail.abs(), torch.nan).flatten(2)
    return torch.nan_to_num(values.nanmedian(dim=2).values) / NORMAL_MEDIAN


def _to_array(image: Tensor) -> NDArray[np.uint8]:
    return np.ascontiguousarray(transfers.to_uint8(image).permute(1, 2, 0).cpu().numpy())


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def _compress(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a grey image (H, W) or an RGB image (H, W, 3) as JPEG, and decode it."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, coded = cv2.imencode(
        ".jpg", np.ascontiguousarray(image[..., ::-1] if image.ndim == 3 else image), options
    )
    decoded = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    assert decoded is not None  # it was just encoded
    return np.asarray(decoded[..., ::-1] if image.ndim == 3 else decoded, np.uint8)
