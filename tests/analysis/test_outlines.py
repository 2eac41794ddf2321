"""Objects are outlined from a box or from activity; annotated outlines stay unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.analysis.interventions import outlines

SIZE = 64


def disc() -> Tensor:
    """Mask (SIZE, SIZE) of the object."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (rows - 28) ** 2 + (columns - 36) ** 2 < 14**2


def picture(size: int = SIZE) -> Tensor:
    """(1, 3, size, size): an orange disc before blue noise."""
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 60, (3, SIZE, SIZE), dtype=np.uint8))
    image[2] += 120
    image[:, disc()] = torch.tensor([[230], [120], [20]], dtype=torch.uint8)
    wide = torch.nn.functional.interpolate(image[None].float(), size=(size, size), mode="nearest")
    return wide.to(torch.uint8)


def active() -> Tensor:
    """Activity (1, 8, 8) of the layer, on the object."""
    shares = torch.nn.functional.avg_pool2d(disc()[None].float(), 8)
    return shares / shares.sum()


def overlap(mask: Tensor, size: int = SIZE) -> float:
    truth = torch.nn.functional.interpolate(disc()[None, None].float(), size=(size, size)) > 0.5
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("size", [SIZE, 200])
def test_an_object_is_outlined_from_activity(size: int) -> None:
    unannotated = torch.zeros(1, 1, size, size, dtype=torch.bool)
    found = outlines.outline_objects(picture(size), active(), unannotated)
    assert found.shape == (1, 1, size, size)
    assert overlap(found, size) > 0.9


def test_an_object_is_outlined_from_a_loose_box() -> None:
    box = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    box[..., 10:46, 20:54] = True
    found = outlines.outline_objects(picture(), torch.full((1, 8, 8), 1 / 64), box)
    assert overlap(found) > 0.9
    assert not (found & ~box).any()


def test_an_annotated_outline_stays_unchanged() -> None:
    outline = disc()[None, None].clone()
    outline[..., 30:, :] = False
    assert torch.equal(outlines.outline_objects(picture(), active(), outline), outline)


def test_a_cue_beside_the_object_is_dropped_and_one_on_it_is_not() -> None:
    objects = disc()[None, None].clone()
    objects[..., :8, :8] = True
    corner = torch.zeros_like(objects)
    corner[..., :10, :10] = True
    kept = outlines.drop_parts(objects, corner)
    assert not kept[..., :8, :8].any()
    assert overlap(kept) == 1.0
    everywhere = torch.ones_like(objects)
    assert torch.equal(outlines.drop_parts(objects, everywhere), objects)
    assert torch.equal(outlines.drop_parts(objects, torch.zeros_like(objects)), objects)


def test_without_different_colours_the_likely_pixels_are_returned() -> None:
    flat = torch.full((1, 3, SIZE, SIZE), 80, dtype=torch.uint8)
    unannotated = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    found = outlines.outline_objects(flat, active(), unannotated)
    assert 0 < found.sum() < SIZE * SIZE
    assert torch.equal(found, outlines.outline_objects(flat, active(), unannotated))
