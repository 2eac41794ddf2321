"""Compression, low resolution and noise are recognised in sources, and repeated in recipients."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from pipeline.analysis.interventions import degradations


def photographs(n: int, side: int = 64, seed: int = 0) -> Tensor:
    """Random images (n, 3, side, side) float32, smooth within 8 pixels, with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(30, 220, (n, 3, side // 8, side // 8)).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    return (smooth + torch.from_numpy(rng.normal(0, 2, smooth.shape).astype(np.float32))).clamp(
        0, 255
    )


def compressed(images: Tensor, quality: int) -> Tensor:
    """By another implementation of JPEG than the one under test."""
    result = []
    for image in images:
        buffer = io.BytesIO()
        pixels = np.asarray(image.round().byte().permute(1, 2, 0))
        Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
        result.append(np.asarray(Image.open(buffer)))
    return torch.from_numpy(np.stack(result)).permute(0, 3, 1, 2).float()


def quality_of(image: Tensor) -> int | None:
    return degradations.jpeg_quality(np.asarray(image.byte().permute(1, 2, 0)).copy())


@pytest.mark.parametrize("quality", [12, 25, 45])
@pytest.mark.parametrize("side", [64, 224])
def test_the_quality_of_a_compressed_image_is_recognised(quality: int, side: int) -> None:
    found = [quality_of(image) for image in compressed(photographs(8, side), quality)]
    close = [value is not None and abs(value - quality) <= 6 for value in found]
    assert np.mean(close) >= 0.75, found


def test_images_that_were_not_compressed_have_no_quality() -> None:
    assert [quality_of(image) for image in photographs(20).round()] == [None] * 20
    flat = torch.full((3, 64, 64), 128.0)
    assert quality_of(flat) is None
    assert quality_of(flat[:, :5, :5]) is None


def test_compression_is_repeated_on_the_recipient_only_if_the_source_has_it() -> None:
    images, sources = photographs(6, seed=1), compressed(photographs(6), 26)
    weights = torch.ones(6, 1, 64, 64)
    changed = degradations.transfer_compression(images, sources, weights)
    expected = compressed(images, 26)
    assert (changed - expected).abs().mean() < 0.3 * (images - expected).abs().mean()
    same = degradations.transfer_compression(images, photographs(6).round(), weights)
    assert torch.equal(same, images)


def enlarged(images: Tensor, size: int, resampling: Image.Resampling) -> Tensor:
    """Reduced to a size and enlarged again, by another implementation than the one under test."""
    result = []
    for image in images:
        whole = Image.fromarray(np.asarray(image.round().byte().permute(1, 2, 0)))
        small = whole.resize((size, size), Image.Resampling.BOX)
        result.append(np.asarray(small.resize(whole.size, resampling)))
    return torch.from_numpy(np.stack(result)).permute(0, 3, 1, 2).float()


def detailed(n: int, side: int, seed: int = 0) -> Tensor:
    """Random images (n, 3, side, side) with detail of every size, as photographs have it."""
    rng = np.random.default_rng(seed)
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    spectrum = 1 / np.maximum(frequencies, 1 / side)
    waves = np.fft.fft2(rng.normal(size=(n, 3, side, side))) * spectrum
    drawn = np.fft.ifft2(waves).real
    scaled = 128 + 50 * drawn / drawn.std(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy(scaled.clip(0, 255).round().astype(np.float32))


def reduction_of(image: Tensor) -> degradations.Reduction | None:
    return degradations.find_reduction(np.asarray(image.byte().permute(1, 2, 0)).copy())


@pytest.mark.parametrize("resampling", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize(("side", "size"), [(64, 26), (224, 75), (224, 150)])
def test_the_size_before_an_enlargement_is_recognised(
    side: int, size: int, resampling: Image.Resampling
) -> None:
    found = [reduction_of(image) for image in enlarged(detailed(8, side), size, resampling)]
    sizes = [each.height if each else None for each in found]
    assert sizes.count(size) >= 6, sizes
    assert not any(each.quality for each in found if each)


def test_images_that_were_not_enlarged_have_no_smaller_size() -> None:
    assert [reduction_of(image) for image in detailed(12, 64)] == [None] * 12
    assert [reduction_of(image) for image in detailed(6, 224)] == [None] * 6
    flat = torch.full((3, 64, 64), 128.0)
    assert reduction_of(flat) is None
    assert reduction_of(flat[:, :5, :9]) is None
    assert reduction_of(compressed(detailed(1, 64), 26)[0]) is None


def test_a_resolution_and_a_compression_before_enlarging_are_repeated_on_the_recipient() -> None:
    def small(images: Tensor) -> Tensor:
        coded = [
            compressed(image[None], 22)
            for image in torch.nn.functional.interpolate(images, size=(75, 75), mode="area")
        ]
        large = torch.nn.functional.interpolate(torch.cat(coded), size=(224, 224), mode="bicubic")
        return large.clamp(0, 255)

    images, weights = detailed(6, 224, seed=1), torch.ones(6, 1, 224, 224)
    changed = degradations.transfer_resolution(images, small(detailed(6, 224)), weights)
    expected = small(images)
    assert (changed - expected).abs().mean() < 0.3 * (images - expected).abs().mean()
    same = degradations.transfer_resolution(images, detailed(6, 224), weights)
    assert torch.equal(same, images)


def test_noise_is_added_up_to_the_level_of_the_source() -> None:
    images, weights = photographs(8, seed=1), torch.ones(8, 1, 64, 64)
    noisy = photographs(8) + 20 * torch.randn(8, 3, 64, 64, generator=torch.manual_seed(3))
    changed = degradations.transfer_noise(images, noisy, weights)
    assert (changed - images).std().item() == pytest.approx(20, rel=0.1)
    level = degradations.noise_levels(changed, weights)
    assert level.mean().item() == pytest.approx(20, rel=0.15)
    assert torch.equal(degradations.transfer_noise(images, photographs(8), weights), images)
    assert torch.equal(changed, degradations.transfer_noise(images, noisy, weights))


def test_the_noise_of_left_out_pixels_does_not_count() -> None:
    noisy = photographs(4)
    noisy[..., :32] += 30 * torch.randn(4, 3, 64, 32, generator=torch.manual_seed(3))
    weights = torch.ones(4, 1, 64, 64)
    weights[..., :32] = 0
    level = degradations.noise_levels(noisy, weights)
    assert level.max().item() < 4
    assert degradations.noise_levels(noisy, torch.zeros_like(weights)).max().item() == 0


def test_images_that_show_a_trace_are_told() -> None:
    plain, noisy = detailed(4, 64), detailed(4, 64) + 30 * torch.randn(4, 3, 64, 64)
    small = enlarged(detailed(4, 64), 26, Image.Resampling.BICUBIC)
    assert degradations.are_compressed(torch.cat([plain, compressed(plain, 20)])).tolist() == [
        *(4 * [False]),
        *(4 * [True]),
    ]
    assert degradations.are_enlarged(torch.cat([plain, small])).tolist() == [
        *(4 * [False]),
        *(4 * [True]),
    ]
    smooth = torch.nn.functional.avg_pool2d(plain, 5, 1, 2)
    assert degradations.are_noisy(torch.cat([smooth, noisy])).tolist() == [
        *(4 * [False]),
        *(4 * [True]),
    ]
