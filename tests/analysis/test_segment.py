"""Objects are outlined from a box, from activity, or taken as they were marked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.analysis.verification import interventions, segment
from pipeline.analysis.verification.interventions import ImageBatch

SIZE = 64


def disc() -> Tensor:
    """(SIZE, SIZE) where the object is."""
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
    """(1, 8, 8): where the layer is active, coarsely."""
    shares = torch.nn.functional.avg_pool2d(disc()[None].float(), 8)
    return shares / shares.sum()


def overlap(mask: Tensor, size: int = SIZE) -> float:
    truth = torch.nn.functional.interpolate(disc()[None, None].float(), size=(size, size)) > 0.5
    return float((mask & truth).sum() / (mask | truth).sum())


@pytest.mark.parametrize("size", [SIZE, 200])
def test_from_activity(size: int) -> None:
    unmarked = torch.zeros(1, 1, size, size, dtype=torch.bool)
    found = segment.objects(picture(size), active(), unmarked)
    assert found.shape == (1, 1, size, size)
    assert overlap(found, size) > 0.9


def test_from_a_box_that_is_only_near_it() -> None:
    box = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    box[..., 10:46, 20:54] = True
    found = segment.objects(picture(), torch.full((1, 8, 8), 1 / 64), box)
    assert overlap(found) > 0.9
    assert not (found & ~box).any()


def test_an_outline_is_taken_as_it_is() -> None:
    outline = disc()[None, None].clone()
    outline[..., 30:, :] = False
    assert torch.equal(segment.objects(picture(), active(), outline), outline)


def test_where_colours_do_not_part_the_likely_pixels_are_taken() -> None:
    flat = torch.full((1, 3, SIZE, SIZE), 80, dtype=torch.uint8)
    unmarked = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    found = segment.objects(flat, active(), unmarked)
    assert 0 < found.sum() < SIZE * SIZE
    assert torch.equal(found, segment.objects(flat, active(), unmarked))


def test_a_cleared_scene_shows_its_surroundings_where_the_object_was() -> None:
    image, heat = picture(), active()
    unmarked = torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
    zero = torch.zeros(1, dtype=torch.int64)
    outlined = interventions.outlined(ImageBatch(zero, zero, image, heat, heat, heat, unmarked))
    cleared = interventions.cleared(outlined)
    assert int(cleared.pictures[0, 0].max()) < 100  # nothing orange is left
    swapped = interventions.surroundings().remove(outlined, interventions.cleared(outlined))
    assert torch.equal(swapped[:, :, 28, 36], image[:, :, 28, 36])
