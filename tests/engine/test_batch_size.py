"""Batches that do not fit: halved, with the same result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline.engine import batch_size
from pipeline.engine.batch_size import RetryOnOutOfMemory

CPU = torch.device("cpu")
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


class Device:
    """Explains as many images at once as it has room for."""

    def __init__(self, room: int, error: type[RuntimeError] = torch.OutOfMemoryError) -> None:
        self.room, self.error, self.sizes = room, error, list[int]()

    def __call__(
        self, images: Tensor, labels: Tensor, _objects: Tensor | None
    ) -> dict[str, Tensor]:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.error(NO_MEMORY)
        return {"sum": images.sum(dim=1) + labels, "twice": 2 * images}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize(("room", "sizes"), [(7, [7]), (6, [7, 4, 3]), (2, [7, 4, 2, 2, 2, 1])])
def test_a_batch_is_explained_in_the_pieces_that_fit(
    room: int, sizes: list[int], error: type[RuntimeError]
) -> None:
    images, labels = torch.rand(7, 3), torch.arange(7)
    device = Device(room, error)
    columns = RetryOnOutOfMemory(device)(images, labels, None)
    assert device.sizes == sizes
    assert torch.equal(columns["sum"], images.sum(dim=1) + labels)
    assert torch.equal(columns["twice"], 2 * images)


def test_what_did_not_fit_is_not_tried_again() -> None:
    device = Device(room=4)
    explain = RetryOnOutOfMemory(device)
    for _ in range(3):
        explain(torch.rand(8, 3), torch.arange(8), None)
    assert device.sizes == [8, 4, 4, 4, 4, 4, 4]


def test_a_smaller_first_batch_does_not_make_the_later_ones_smaller() -> None:
    device = Device(room=8)
    explain = RetryOnOutOfMemory(device)
    for n in (3, 8):
        explain(torch.rand(n, 3), torch.arange(n), None)
    assert device.sizes == [3, 8]


def test_one_image_that_does_not_fit_ends_it() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        RetryOnOutOfMemory(Device(room=0))(torch.rand(4, 3), torch.arange(4), None)


def test_other_errors_are_not_taken_for_memory() -> None:
    def broken(*_batch: Tensor | None) -> dict[str, Tensor]:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        RetryOnOutOfMemory(broken)(torch.rand(4, 3))


def test_a_gpu_gets_the_largest_batch_that_fits() -> None:
    def explain(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return Device(room=100)(images.flatten(1), labels, None)

    # A device that is no CPU and always there; nothing is computed on it.
    assert batch_size.find_batch_size(explain, torch.device("meta"), (4, 4)) == 64


@pytest.mark.parametrize(("side", "size"), [(64, 128), (224, 32), (448, 8), (3000, 1)])
def test_on_a_cpu_the_size_of_the_pictures_decides(side: int, size: int) -> None:
    assert batch_size.find_batch_size(lambda: {}, CPU, (side, side)) == size


def test_smaller_batches_are_filled_up_with_copies() -> None:
    device = Device(room=8)
    images, labels = torch.rand(3, 3), torch.arange(3)
    columns = RetryOnOutOfMemory(device, 5)(images, labels, None)
    assert device.sizes == [5]
    assert torch.equal(columns["sum"], images.sum(dim=1) + labels)


def test_pieces_of_a_batch_that_did_not_fit_are_all_of_one_size() -> None:
    device = Device(room=4)
    explain = RetryOnOutOfMemory(device, 7)
    for n in (7, 2):
        explain(torch.rand(n, 3), torch.arange(n), None)
    assert device.sizes == [7, 4, 4, 4]
