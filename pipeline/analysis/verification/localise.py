"""Where in the background a cue lies: random windows pasted, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analysis.shortcuts import regions
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import interventions, transfers
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.interventions import ImageBatch
from pipeline.analysis.verification.trial import Rng, pairs

GRID = 8
"""Rows and columns of the cells that are told apart."""
FINE = 32
"""Rows and columns of the cells that a place is cut back to."""
NEAR = 0.6
KEPT = (0.8, 0.95)
"""Shares of its gain that a place must keep while it is cut back, tried in turn: what was around
the cue, parts of objects too, had its share in it."""
LONGEST = 5
"""Sides of the windows, in cells, are drawn from 2 to this."""


def localise(
    bench: InterventionRunner, donors: ImageBatch, hosts: ImageBatch, own: int, n: int, rng: Rng
) -> Cells | None:
    """Cells (GRID, GRID) whose content turns pictures into the class, None where none stands out.

    n random windows of the donors' background are pasted; a cell's importance is the mean gain in
    probability of those that hold it, as in RISE (Petsiuk, Das and Saenko, BMVC 2018, equation 6),
    with pictures of other classes in the place of its grey.
    """
    targets, carriers = pairs(hosts, donors, n, rng)
    windows = np.stack([_window(rng) for _ in range(n)])
    masks = torch.stack([transfers.pixels(window, *targets.size) for window in windows])[:, None]
    with_all = interventions.background().transplant(targets, carriers)
    pasted = transfers.paste(targets.pictures, with_all, masks)
    gain = bench.probabilities(pasted)[:, own]
    return hottest(importance(windows, gain))


def shrunk(gain: Callable[[Cells], float], cells: Cells, least: float) -> Cells:
    """The box of cells, on FINE rows and columns, cut back as long as it keeps its gain.

    Args:
        gain: of a box of cells (FINE, FINE).
        cells: (h, w), where to begin.
        least: gain that must be kept.
    """
    x0, y0, x1, y1 = (round(side * FINE) for side in regions.bounds(cells).values())
    box, step = [x0, y0, x1, y1], max(x1 - x0, y1 - y0) // 4
    while step:
        cut = []
        for side in range(4):
            smaller = list(box)
            smaller[side] += step if side < 2 else -step
            if smaller[0] < smaller[2] and smaller[1] < smaller[3]:
                cut.append((gain(_filled(smaller)), smaller))
        best, smaller = max(cut, default=(0.0, box))
        if best >= least:
            box = smaller
        else:
            step //= 2
    return _filled(box)


def grown(gain: Callable[[Cells], float], cells: Cells, factor: float) -> Cells:
    """The box of cells, on FINE rows and columns, widened while a step makes its gain larger.

    Args:
        gain: of a box of cells (FINE, FINE).
        cells: (FINE, FINE), where to begin.
        factor: that a step must multiply the gain by.
    """
    x0, y0, x1, y1 = (round(side * FINE) for side in regions.bounds(cells).values())
    box, best = [x0, y0, x1, y1], gain(_filled([x0, y0, x1, y1]))
    while best > 0:
        wider = []
        for side in range(4):
            larger = list(box)
            larger[side] += -1 if side < 2 else 1
            if 0 <= larger[side] <= FINE:
                wider.append((gain(_filled(larger)), larger))
        found, larger = max(wider, default=(0.0, box))
        if found < factor * best:
            break
        box, best = larger, found
    return _filled(box)


def _filled(box: list[int]) -> Cells:
    cells = np.zeros((FINE, FINE), bool)
    cells[box[1] : box[3], box[0] : box[2]] = True
    return cells


def importance(windows: Cells, gain: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean gain (n,) of the windows (n, h, w) that hold a cell, less that of all."""
    held = windows.sum(axis=0)
    total = (windows * gain[:, None, None]).sum(axis=0)
    return np.asarray(total / np.maximum(held, 1) - gain.mean())


def hottest(values: NDArray[np.float64]) -> Cells | None:
    """The connected cells around the maximum that reach NEAR of it; None where nothing is above 0.

    Windows that hold a cue also hold its neighbours, so that these have a part of its importance.
    """
    if values.max() <= 0:
        return None
    labels, _ = ndimage.label(values >= NEAR * values.max())
    return np.asarray(labels == labels[np.unravel_index(values.argmax(), values.shape)])


def _window(rng: Rng) -> Cells:
    cells = np.zeros((GRID, GRID), bool)
    height, width = rng.integers(2, LONGEST + 1, 2)
    # Windows reach over the edge, so that cells there are held as often as others.
    top, left = (int(rng.integers(1 - side, GRID)) for side in (height, width))
    cells[max(0, top) : top + height, max(0, left) : left + width] = True
    return cells
