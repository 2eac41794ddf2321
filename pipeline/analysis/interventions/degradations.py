"""Compression and noise: traces of how images were recorded, estimated in sources and repeated.

Images are (n, 3, H, W) float32 in [0, 255]; the i-th source image goes with the i-th recipient.
A recipient whose source shows no such trace is returned unchanged.
"""

from __future__ import annotations

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
MIN_ERROR = 0.3
"""Root mean square error, in grey levels, that counts as none."""
MAX_SIDE = 96
"""Side, in pixels, of the part of an image that the quality is estimated from."""
MIN_NOISE = 4.0
"""Standard deviation, in grey levels, below which no noise is added."""
NORMAL_MEDIAN = 0.6745
"""Median of the absolute value of a standard normal variable."""


def transfer_compression(images: Tensor, sources: Tensor, _weights: Tensor) -> Tensor:
    """Compress images with the JPEG quality of the sources that were compressed.

    Only sources of the same size and block grid as when they were compressed are recognised.
    """
    result = images.clone()
    for image, source in zip(result, sources, strict=True):
        quality = jpeg_quality(_to_array(source))
        if quality is not None:
            coded = _compress(_to_array(image)[..., ::-1], quality)[..., ::-1]
            image.copy_(torch.from_numpy(coded.copy()).permute(2, 0, 1))
    return result


def transfer_noise(images: Tensor, sources: Tensor, weights: Tensor) -> Tensor:
    """Add Gaussian noise up to the level of the sources, in each colour channel."""
    level, own = noise_levels(sources, weights), noise_levels(images, torch.ones_like(weights))
    added = (level.square() - own.square()).clamp_min(0).sqrt()
    added = torch.where(added.amax(dim=1, keepdim=True) < MIN_NOISE, 0.0, added)
    generator = torch.Generator().manual_seed(0)
    grain = torch.randn(images.shape, generator=generator).to(images.device)
    return images + grain * added[..., None, None]


def jpeg_quality(image: NDArray[np.uint8]) -> int | None:
    """Estimate the JPEG quality of an image (H, W, 3); None if it was compressed little or not.

    Compressing an image again changes it least at the quality that it was compressed with (Farid,
    "Exposing Digital Forgeries From JPEG Ghosts", IEEE Trans. Information Forensics and Security
    2009). Errors of the luma are compared, because JPEG reduces the resolution of the others.
    """
    side = min(MAX_SIDE, *image.shape[:2]) // transfers.BLOCK * transfers.BLOCK
    if not side:
        return None
    luma = np.asarray(cv2.cvtColor(image[:side, :side], cv2.COLOR_RGB2GRAY), np.uint8)
    differences = np.stack([luma.astype(np.float32) - _compress(luma, q) for q in QUALITIES])
    errors = np.sqrt(np.square(differences).mean(axis=(1, 2))).clip(MIN_ERROR)
    rises = np.maximum(errors[1:-1], errors[2:]) > RISE * errors[:-2]
    return QUALITIES[int(rises.argmax())] if rises.any() else None


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


def _compress(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode a grey image (H, W) or a BGR image (H, W, 3) as JPEG, and decode it."""
    _, coded = cv2.imencode(
        ".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    decoded = cv2.imdecode(coded, cv2.IMREAD_UNCHANGED)
    assert decoded is not None  # it was just encoded
    return np.asarray(decoded, np.uint8)
