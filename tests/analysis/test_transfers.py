"""Transfers of statistics and of pixels, against closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import fft
from torch import Tensor
from torch.nn import functional as F

from pipeline.analysis.interventions import transfers


def random_images(n: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """Random images (n, 3, size, size) in [0, 255]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), generator=generator).float()


def smooth(n: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """Random images without fine structure."""
    coarse = random_images(n, 4, seed)
    return F.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 255)


def everywhere(images: Tensor) -> Tensor:
    """Weights of all pixels."""
    return torch.ones_like(images[:, :1])


def covariance(images: Tensor) -> Tensor:
    """Covariances (n, 3, 3) of the colours, by torch.cov."""
    return torch.stack([torch.cov(each.flatten(1), correction=0) for each in images])


def test_colour_transfer_gives_the_sources_mean_and_covariance() -> None:
    images, sources = random_images(seed=1), smooth(seed=2) / 4 + 80
    changed = transfers.transfer_colour(images, sources, everywhere(images))
    torch.testing.assert_close(changed.mean((2, 3)), sources.mean((2, 3)), atol=0.1, rtol=0)
    torch.testing.assert_close(covariance(changed), covariance(sources), atol=3, rtol=0.02)


def test_a_grey_source_makes_grey_images() -> None:
    images = smooth(seed=1)
    grey = smooth(seed=2).mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    changed = transfers.transfer_colour(images, grey, everywhere(images))
    assert float((changed.amax(dim=1) - changed.amin(dim=1)).median()) < 5
    # Independent standard deviations, without the covariance, would leave the colours apart.
    own = (images - images.mean((2, 3), keepdim=True)) / images.std((2, 3), keepdim=True)
    apart = own * grey.std((2, 3), keepdim=True) + grey.mean((2, 3), keepdim=True)
    assert float((apart.amax(dim=1) - apart.amin(dim=1)).median()) > 20


def test_a_constant_image_gets_no_noise() -> None:
    flat, sources = torch.full((2, 3, 32, 32), 7.0), random_images(2, seed=2)
    assert transfers.transfer_colour(flat, sources, everywhere(flat)).std((2, 3)).max() < 0.01
    sharper = transfers.transfer_sharpness(flat, sources, everywhere(flat))
    torch.testing.assert_close(sharper, flat)


def test_lighting_transfer_multiplies_by_the_sources_smooth_layout() -> None:
    """The sources have a known gradient, but for their objects, which are left out."""
    images, ground = random_images(seed=1) / 4 + 96, random_images(seed=2) / 8 + 160
    x = (torch.arange(ground.shape[3]) + 0.5) * 2 / ground.shape[3] - 1
    layout = torch.exp(-0.5 * x - 0.3 * x * x)
    sources = ground * layout
    weights = everywhere(images)
    weights[..., 8:24, 8:24] = 0
    sources = torch.where(weights > 0, sources, torch.full_like(sources, 250.0))
    changed = transfers.transfer_lighting(images, sources, weights)
    ratio = (changed.mean(dim=(0, 1, 2)) / images.mean(dim=(0, 1, 2))).log()
    wanted = layout.log() - layout.log().mean()
    torch.testing.assert_close(ratio - ratio.mean(), wanted, atol=0.06, rtol=0)
    unchanged = transfers.transfer_lighting(images, images, everywhere(images))
    torch.testing.assert_close(unchanged, images, atol=1e-2, rtol=0)


def test_the_block_cosine_transform_equals_scipys_and_is_inverted() -> None:
    images = random_images(2, 24)
    coefficients = transfers._dct(images)
    block = images[1, 2, 8:16, 16:24].numpy()
    expected = fft.dctn(block, norm="ortho").ravel()
    np.testing.assert_allclose(coefficients[1, 2, :, 5].numpy(), expected, atol=1e-3)
    back = transfers._inverse_dct(coefficients, 24, 24)
    torch.testing.assert_close(back, images, atol=1e-3, rtol=0)


def test_texture_transfer_keeps_the_layout() -> None:
    images = smooth(2, 64, seed=3)
    noisy = (images + torch.randint(-20, 20, images.shape)).clamp(0, 255)
    changed = transfers.transfer_texture(noisy, smooth(2, 64, seed=4), everywhere(noisy))
    sharpness = [
        cv2.Laplacian(np.ascontiguousarray(each[0, 0].numpy()), cv2.CV_32F).std()
        for each in (images, noisy, changed)
    ]
    assert sharpness[2] < 0.5 * sharpness[1]  # the remaining structure is between blocks
    pool = F.avg_pool2d
    torch.testing.assert_close(pool(changed, 8), pool(noisy, 8), atol=5, rtol=0)
    # Ranks are matched one to one where all blocks are used.
    back = transfers.transfer_texture(noisy, noisy, everywhere(noisy))
    torch.testing.assert_close(back, noisy, atol=1e-2, rtol=0)


def test_sharpness_transfer_keeps_the_layout() -> None:
    images = random_images(2, 64, seed=3) / 2 + smooth(2, 64, seed=5) / 2
    blurred = torch.from_numpy(
        np.stack([cv2.GaussianBlur(each.permute(1, 2, 0).numpy(), (0, 0), 1.2) for each in images])
    ).permute(0, 3, 1, 2)
    dull = transfers.transfer_sharpness(images, blurred, everywhere(images))
    assert (dull - blurred).abs().mean() < 4
    torch.testing.assert_close(F.avg_pool2d(dull, 16), F.avg_pool2d(images, 16), atol=6, rtol=0)
    same = transfers.transfer_sharpness(images, images, everywhere(images))
    torch.testing.assert_close(same, images, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["colour", "lighting", "texture", "sharpness"])
def test_pixels_without_weight_are_not_transferred(name: str) -> None:
    """Whatever the object of a source looks like, the result is the same."""
    images, sources = random_images(3, 64, seed=1), smooth(3, 64, seed=2)
    weights = everywhere(sources)
    weights[..., 16:48, 16:48] = 0
    repainted = torch.where(weights > 0, sources, torch.full_like(sources, 250.0))
    transfer = getattr(transfers, f"transfer_{name}")
    results = [transfer(images, each, weights) for each in (sources, repainted)]
    if name == "sharpness":  # a blur reaches beyond the edge of the object
        assert (results[0] - results[1]).abs().mean() < 12
    else:
        torch.testing.assert_close(*results)


def test_a_hole_is_filled_from_its_surroundings() -> None:
    images = torch.full((2, 3, 128, 128), 90.0)
    mask = torch.zeros(2, 1, 128, 128, dtype=torch.bool)
    mask[0, :, 40:80, 40:80] = True
    mask[1] = True
    images[0, :, 40:80, 40:80] = 250
    filled = transfers.fill_holes(images, mask)
    assert float((filled[0] - 90).abs().max()) < 6  # of 160
    torch.testing.assert_close(filled[1], images[1])  # nothing to fill it from


def test_statistics_inside_a_mask_are_those_of_its_pixels() -> None:
    images = random_images(2, 32, seed=1)
    weights = torch.zeros(2, 1, 32, 32)
    weights[:, :, :16] = 1
    found = transfers.colour_statistics(images, weights)
    half = images[:, :, :16]
    torch.testing.assert_close(found[:, :3], half.mean((2, 3)))
    torch.testing.assert_close(found[:, 3:], half.std((2, 3), correction=0))
    bands = transfers.log_strengths(images, everywhere(images))
    assert bands.shape == (2, 3)
    assert (bands[:, 0] > bands[:, 1]).all()  # white noise has most of its strength in fine bands
