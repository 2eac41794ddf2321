"""The batch size: found by a trial, and halved when memory runs out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MAX_BATCH_SIZE = 256
CPU_BATCH_PIXELS = 32 * 224 * 224
"""Pixels of a batch on a CPU, where larger batches are not faster and exceed the caches."""
Explain = Callable[..., dict[str, Tensor]]


class RetryOnOutOfMemory:
    """Calls an explain function on a batch, and on smaller pieces after an out-of-memory error.

    A piece of fewer than `size` images is padded with copies of its last image. Libraries choose
    the order of a sum by the shape of the batch; with padding an image's row is the same to the
    last bit, however many images are computed with it.
    """

    def __init__(self, explain: Explain, size: int = 1) -> None:
        self.explain, self.size, self.max_size = explain, size, sys.maxsize

    def __call__(self, *batch: Tensor | None) -> dict[str, Tensor]:
        """Explain a batch, given as tensors with a row for each image, or None for absent ones.

        Raises:
            RuntimeError: torch's error, if memory does not suffice for one image.
        """
        n = next(len(rows) for rows in batch if rows is not None)
        pieces: list[dict[str, Tensor]] = []
        start = 0
        while start < n:
            size = min(self.max_size, n - start)
            piece = [None if rows is None else rows[start : start + size] for rows in batch]
            columns = self._try(piece, size)
            if columns is not None:
                pieces.append(columns)
                start += size
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _try(self, piece: list[Tensor | None], size: int) -> dict[str, Tensor] | None:
        """The columns of a piece, or None after an out-of-memory error, which halves the size."""
        padded = min(max(self.size, size), self.max_size)
        try:
            columns = self.explain(*(_pad(rows, padded) for rows in piece))
            return {name: rows[:size] for name, rows in columns.items()}
        except RuntimeError as error:
            if padded == 1 or not is_out_of_memory(error):
                raise
        # Here, outside of `except`, the tensors of the failed attempt are freed.
        self.max_size = -(-padded // 2)
        log.warning("out of memory: continuing with %d images at a time", self.max_size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _pad(rows: Tensor | None, size: int) -> Tensor | None:
    """Repeat the last row until there are `size` rows."""
    if rows is None or len(rows) == size:
        return rows
    return rows[torch.arange(size, device=rows.device).clamp_max(len(rows) - 1)]


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch reports a lack of memory; on the CPU it raises a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def find_batch_size(explain: Explain, device: torch.device, size: tuple[int, int]) -> int:
    """Find the batch size for a device.

    On a GPU it is MAX_BATCH_SIZE, halved until a batch fits into memory. On a CPU it follows from
    the image size alone, so that it is the same on every machine.

    Args:
        explain: takes images (N, 3, H, W) uint8 and labels (N,).
        device: the device of the model.
        size: (H, W) of the images.
    """
    if device.type == "cpu":
        return max(1, min(CPU_BATCH_PIXELS // (size[0] * size[1]), MAX_BATCH_SIZE // 2))
    trial = RetryOnOutOfMemory(explain)
    for _ in range(2):  # the memory that the first trial cached must not break the second one
        images = torch.zeros(MAX_BATCH_SIZE, 3, size[0], size[1], dtype=torch.uint8, device=device)
        trial(images, torch.zeros(MAX_BATCH_SIZE, dtype=torch.long, device=device))
    return min(trial.max_size, MAX_BATCH_SIZE)
