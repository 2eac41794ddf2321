"""Masks, pixel transplants and statistic transfers, against closed forms."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from scipy import fft
from torch import Tensor

from pipeline.analysis.shortcuts import candidates, regions
from pipeline.analysis.verification import interventions, masks, transfers
from pipeline.analysis.verification.image_batch import ImageBatch


def random_images(n: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """Random images (n, 3, size, size) of all values."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def smooth(n: int = 4, size: int = 32, seed: int = 0) -> Tensor:
    """Random images without fine structure."""
    coarse = random_images(n, 4, seed).float()
    wide = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return wide.clamp(0, 255).to(torch.uint8)


def spot(row: int, column: int, n: int = 1, grid: int = 8) -> Tensor:
    """Heat (n, grid, grid) in one cell."""
    heat = torch.zeros(n, grid, grid)
    heat[:, row, column] = 1
    return heat


def image_batch(images: Tensor, heat: Tensor, runner_up: Tensor) -> ImageBatch:
    """Images of one class with given heatmaps."""
    n = torch.arange(len(images))
    unmarked = torch.zeros_like(images[:, :1], dtype=torch.bool)
    return ImageBatch(n, torch.zeros_like(n), images, heat, runner_up, heat, unmarked)


def test_the_control_region_has_the_size_of_the_region_but_another_place() -> None:
    rng = np.random.default_rng(0)
    cells = np.zeros((4, 4), bool)
    cells[0, :2] = True
    mask = masks.mask_of_cells(cells, 16, 16)
    assert int(mask.sum()) == 4 * 8
    moved = masks.move_masks(mask, 10, rng)
    assert moved.shape == (10, 1, 16, 16)
    assert (moved.sum((1, 2, 3)) == mask.sum()).all()
    assert not (moved & mask).any()


def test_masks_of_each_image_are_moved_independently() -> None:
    squares = masks.window_masks(torch.tensor([[0.0, 0.0], [0.5, 0.5]]), 0.25, 16, 16)
    moved = masks.move_masks(squares, 2, np.random.default_rng(0))
    assert moved.shape == squares.shape
    assert not (moved & squares).any()
    assert (moved.sum((1, 2, 3)) == 16).all()


def test_the_hottest_pixels_hold_the_share_of_the_heat_and_no_more() -> None:
    heat = torch.rand(3, 7, 7, generator=torch.Generator().manual_seed(0))
    fine = torch.nn.functional.interpolate(heat[:, None], size=(28, 28), mode="bilinear")
    for share in (0.3, 0.9):
        inside = masks.hottest_pixels(heat, share, 28, 28)
        held = (fine * inside).sum((1, 2, 3)) / fine.sum((1, 2, 3))
        assert (held >= share - 1e-5).all()
        assert (held < share + 0.01).all()
        assert torch.where(inside, fine, torch.inf).amin() >= 0
        for one, mask in zip(fine, inside, strict=True):
            assert one[mask].min() >= one[~mask].max()
    assert not masks.hottest_pixels(torch.zeros(1, 7, 7), 0.9, 28, 28).any()


def test_a_window_holds_the_hot_cell_and_squares_have_its_size() -> None:
    corners = masks.hottest_windows(spot(6, 1), 0.25)
    square = masks.window_masks(corners, 0.25, 64, 64)
    assert int(square.sum()) == 16 * 16
    assert square[0, 0, 52, 12]
    assert masks.hottest_windows(-spot(0, 0), 0.25).amax() > 0  # the coldest window


def test_shifted_content_arrives_at_its_target() -> None:
    images = random_images(2)
    source, target = (
        torch.tensor([[0.25, 0.5], [0.0, 0.0]]),
        torch.tensor([[0.5, 0.0], [0.75, 0.75]]),
    )
    moved = transfers.shift(images, source, target)
    assert torch.equal(moved[0, :, 16:24, 0:8], images[0, :, 8:16, 16:24])
    assert torch.equal(moved[1, :, 24:, 24:], images[1, :, :8, :8])


def test_colour_transfer_gives_the_sources_mean_and_spread() -> None:
    images, sources = smooth(seed=1), (smooth(seed=2) // 4 + 80)
    changed = transfers.transfer_colour(images, sources).float()
    wanted = sources.float()
    torch.testing.assert_close(changed.mean((2, 3)), wanted.mean((2, 3)), atol=0.6, rtol=0)
    torch.testing.assert_close(changed.std((2, 3)), wanted.std((2, 3)), atol=0.6, rtol=0)
    flat = torch.full_like(images, 7)
    # A constant image gets no noise.
    assert transfers.transfer_colour(flat, sources).float().std((2, 3)).max() == 0


def test_lighting_transfer_changes_low_frequencies_only() -> None:
    images, sources = random_images(seed=1) // 4 + 96, smooth(seed=2) // 4 + 96
    changed = transfers.transfer_lighting(images, sources).float()
    pool = torch.nn.functional.adaptive_avg_pool2d
    # Interpolation between cells makes their means differ a little from the source's.
    torch.testing.assert_close(pool(changed, 4), pool(sources.float(), 4), atol=16, rtol=0)
    rest = changed - images.float()
    assert (rest[..., 1:] - rest[..., :-1]).abs().max() < 12
    torch.testing.assert_close(transfers.transfer_lighting(images, images), images)


def test_the_block_cosine_transform_equals_scipys_and_is_inverted() -> None:
    images = random_images(2, 24).float()
    coefficients = transfers._dct(images)
    block = images[1, 2, 8:16, 16:24].numpy()
    expected = fft.dctn(block, norm="ortho").ravel()
    np.testing.assert_allclose(coefficients[1, 2, :, 5].numpy(), expected, atol=1e-3)
    back = transfers._inverse_dct(coefficients, 24, 24)
    torch.testing.assert_close(back, images, atol=1e-3, rtol=0)


def test_texture_transfer_keeps_the_layout() -> None:
    images = smooth(2, 64, seed=3)
    noisy = (images.int() + torch.randint(-20, 20, images.shape)).clamp(0, 255).to(torch.uint8)
    changed = transfers.transfer_texture(noisy, smooth(2, 64, seed=4))
    sharpness = [
        cv2.Laplacian(np.ascontiguousarray(each[0, 0].numpy()), cv2.CV_64F).std()
        for each in (images, noisy, changed)
    ]
    assert sharpness[2] < 0.5 * sharpness[1]  # the remaining structure is between blocks
    pool = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(pool(changed.float(), 8), pool(noisy.float(), 8), atol=5, rtol=0)


def test_sharpness_transfer_keeps_the_layout() -> None:
    images = random_images(2, 64, seed=3) // 2 + smooth(2, 64, seed=5) // 2
    blurred = torch.from_numpy(
        np.stack([cv2.GaussianBlur(each.permute(1, 2, 0).numpy(), (0, 0), 3) for each in images])
    ).permute(0, 3, 1, 2)
    dull = transfers.transfer_sharpness(images, blurred)
    assert (dull.float() - blurred.float()).abs().mean() < 4
    low = torch.nn.functional.avg_pool2d
    torch.testing.assert_close(low(dull.float(), 16), low(images.float(), 16), atol=6, rtol=0)
    # A constant image gets no structure.
    flat = torch.full_like(images, 90)
    assert torch.equal(transfers.transfer_sharpness(flat, images), flat)
    torch.testing.assert_close(transfers.transfer_sharpness(images, images), images)


@pytest.mark.parametrize("size", [(64, 64), (30, 45), (8, 8)])
def test_every_intervention_keeps_the_images_size(size: tuple[int, int]) -> None:
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    recipients = image_batch(images, spot(1, 1, 3), spot(1, 2, 3))
    sources = image_batch(images.flip(0), spot(6, 6, 3), spot(1, 2, 3))
    everything = [*interventions.GENERAL.values()]
    everything += [
        interventions.region_transplant("patch", cells) for cells in regions.edge_cells().values()
    ]
    for intervention in everything:
        for change in (
            intervention.transplant,
            intervention.remove,
            intervention.erase or intervention.remove,
        ):
            changed = change(recipients, sources)
            assert changed.shape == images.shape
            assert changed.dtype == torch.uint8
        if intervention.removed_mask:
            assert intervention.removed_mask(recipients).shape[-2:] == size


def test_a_window_is_transplanted_to_the_coldest_place_of_the_recipient() -> None:
    white, black = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8), torch.zeros(1, 3, 64, 64)
    source_image = black.to(torch.uint8).clone()
    source_image[:, :, 48:56, 8:16] = 200
    recipients = image_batch(white, spot(1, 1), spot(1, 1))
    sources = image_batch(source_image, spot(6, 1), spot(2, 5))
    changed = interventions.window_transplant(0.25, in_place=False).transplant(recipients, sources)
    assert (changed == 200).sum() == 3 * 64  # the whole cue arrived
    assert (changed[:, :, :16, :16] == 255).all()  # and the recipient's object stayed
    stayed = interventions.window_transplant(0.25, in_place=True).transplant(recipients, sources)
    assert (stayed[:, :, 48:56, 8:16] == 200).all()


def test_the_background_transplant_keeps_the_recipients_object_and_brings_none() -> None:
    white = torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)
    recipients = image_batch(white, spot(1, 1), spot(1, 1))
    sources = image_batch(torch.zeros_like(white), spot(6, 1), spot(4, 6))
    changed = interventions.background_transplant().transplant(recipients, sources)
    assert (changed[:, :, 10:14, 10:14] == 255).all()
    assert (changed[:, :, 34:38, 50:54] == 255).all()
    assert (changed[:, :, 50:54, 10:14] == 0).all()


def test_the_candidates_tables_list_the_registered_interventions() -> None:
    general = {name: each.kind for name, each in interventions.GENERAL.items()}
    assert list(general.items()) == list(candidates.GENERAL_KINDS.items())
    assert list(interventions.LOCAL_TRANSFERS) == list(candidates.LOCAL_KINDS)
    for name, kind in candidates.LOCAL_KINDS.items():
        row = {"probe": name, "kind": kind, "cells": [[True, False], [False, False]]}
        assert interventions.intervention_of(row).kind == kind
