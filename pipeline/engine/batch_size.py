"""How many images go through the model at once: found by trial, halved where memory runs out."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)

MOST = 256
PIXELS = 32 * 224 * 224
"""Of a batch on a CPU: more makes nothing faster and fills the caches; small pictures need more."""
Explain = Callable[..., dict[str, Tensor]]


class RetryOnOutOfMemory:
    """An explanation in the pieces that memory asks for; the same, but for rounding.

    Pieces of fewer than `size` images are filled up with copies of the last one: libraries choose
    how to add up by the shape of a batch, and a row shall not depend, to the last bit, on how many
    others happened to be computed beside it.
    """

    def __init__(self, explain: Explain, size: int = 1) -> None:
        self.explain, self.size, self.most = explain, size, sys.maxsize

    def __call__(self, *batch: Tensor | None) -> dict[str, Tensor]:
        """The columns of a batch, from tensors that have a row for each image, or None.

        Raises:
            RuntimeError: torch's own, where memory does not suffice for one image.
        """
        n = next(len(rows) for rows in batch if rows is not None)
        pieces: list[dict[str, Tensor]] = []
        start = 0
        while start < n:
            size = min(self.most, n - start)
            piece = [None if rows is None else rows[start : start + size] for rows in batch]
            columns = self._try(piece, size)
            if columns is not None:
                pieces.append(columns)
                start += size
        if len(pieces) == 1:
            return pieces[0]
        return {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}

    def _try(self, piece: list[Tensor | None], size: int) -> dict[str, Tensor] | None:
        """The columns, or None after halving; outside of `except`, the failed tensors are free."""
        together = min(max(self.size, size), self.most)
        try:
            columns = self.explain(*(_filled(rows, together) for rows in piece))
            return {name: rows[:size] for name, rows in columns.items()}
        except RuntimeError as error:
            if together == 1 or not out_of_memory(error):
                raise
        self.most = -(-together // 2)
        log.warning("out of memory: going on with %d images at a time", self.most)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _filled(rows: Tensor | None, size: int) -> Tensor | None:
    """Rows with the last one repeated until there are `size`."""
    if rows is None or len(rows) == size:
        return rows
    return rows[torch.arange(size, device=rows.device).clamp_max(len(rows) - 1)]


def out_of_memory(error: RuntimeError) -> bool:
    """Whether torch says that it lacks memory; on the CPU that is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def fitting(explain: Explain, device: torch.device, size: tuple[int, int]) -> int:
    """Batch size for a device.

    On a GPU, MOST, halved until it fits. On a CPU the size of the pictures alone decides, so that
    it is the same on all.

    Args:
        explain: takes pictures (N, 3, H, W) uint8 and labels (N,).
        device: where.
        size: (H, W) of the pictures.
    """
    if device.type == "cpu":
        return max(1, min(PIXELS // (size[0] * size[1]), MOST // 2))
    trial = RetryOnOutOfMemory(explain)
    for _ in range(2):  # the second time, what the first one cached is there as well
        pictures: Any = torch.zeros(MOST, 3, *size, dtype=torch.uint8, device=device)
        trial(pictures, torch.zeros(MOST, dtype=torch.long, device=device))
    return min(trial.most, MOST)
