"""Localisation of a cue: the cells whose transplant has the effect, and the box that suffices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analysis.shortcuts import regions
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import interventions, masks, transfers
from pipeline.analysis.verification.image_batch import ImageBatch
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.intervention_tests import Rng, draw_pairs

GRID = 8
"""Rows and columns of the grid on which a cue is localised."""
FINE_GRID = 32
"""Rows and columns of the grid on which boxes are shrunk and grown."""
NEAR_MAXIMUM = 0.6
"""Share of the largest importance from which a cell belongs to the cue."""
KEPT_GAINS = (0.8, 0.95)
"""Shares of its gain that a box must keep while it is shrunk, tried in turn; below 1, because the
surroundings of the cue, such as parts of objects, contributed to the gain."""
MIN_WINDOW, MAX_WINDOW = 2, 5
"""Bounds of the sides of the random windows, in cells."""


def localise_cue(
    runner: InterventionRunner,
    sources: ImageBatch,
    recipients: ImageBatch,
    class_index: int,
    n: int,
    rng: Rng,
) -> Cells | None:
    """Find the cells of the background whose content flips images to a class.

    The background inside random windows is transplanted. The importance of a cell is the mean
    probability of the class over the windows that hold the cell, as in RISE (Petsiuk, Das and
    Saenko, BMVC 2018, equation 6), with images of other classes instead of grey.

    Args:
        runner: the model.
        sources: images of the class.
        recipients: images of other classes.
        class_index: the class.
        n: number of transplants.
        rng: random generator of pairs and windows.

    Returns:
        (GRID, GRID) bool, a connected region; None if no cell is more important than the average.
    """
    targets, with_cue = draw_pairs(recipients, sources, n, rng)
    windows = np.stack([_random_window(rng) for _ in range(n)])
    inside = torch.stack([masks.mask_of_cells(window, *targets.size) for window in windows])
    with_background = interventions.background_transplant().transplant(targets, with_cue)
    pasted = transfers.paste(targets.pixels, with_background, inside[:, None])
    gain = runner.probabilities(pasted)[:, class_index]
    return most_important_cells(cell_importance(windows, gain))


def shrink_box(gain: Callable[[Cells], float], cells: Cells, min_gain: float) -> Cells:
    """Shrink the box around a region, side by side, as long as it keeps its gain.

    Args:
        gain: from a box (FINE_GRID, FINE_GRID) to the gain of its transplant.
        cells: (h, w), the region to start from.
        min_gain: gain that the box must keep.

    Returns:
        (FINE_GRID, FINE_GRID) bool, true inside the box.
    """
    x0, y0, x1, y1 = (round(side * FINE_GRID) for side in regions.bounding_box(cells).values())
    box, step = [x0, y0, x1, y1], max(x1 - x0, y1 - y0) // 4
    while step:
        options = []
        for side in range(4):
            smaller = list(box)
            smaller[side] += step if side < 2 else -step
            if smaller[0] < smaller[2] and smaller[1] < smaller[3]:
                options.append((gain(_box_cells(smaller)), smaller))
        best, smaller = max(options, default=(0.0, box))
        if best >= min_gain:
            box = smaller
        else:
            step //= 2
    return _box_cells(box)


def grow_box(gain: Callable[[Cells], float], cells: Cells, factor: float) -> Cells:
    """Grow the box around a region, side by side, as long as a step increases its gain.

    Args:
        gain: from a box (FINE_GRID, FINE_GRID) to the gain of its removal.
        cells: (FINE_GRID, FINE_GRID), the region to start from.
        factor: smallest ratio of the gains after and before a step.

    Returns:
        (FINE_GRID, FINE_GRID) bool, true inside the box.
    """
    x0, y0, x1, y1 = (round(side * FINE_GRID) for side in regions.bounding_box(cells).values())
    box, best = [x0, y0, x1, y1], gain(_box_cells([x0, y0, x1, y1]))
    while best > 0:
        options = []
        for side in range(4):
            larger = list(box)
            larger[side] += -1 if side < 2 else 1
            if 0 <= larger[side] <= FINE_GRID:
                options.append((gain(_box_cells(larger)), larger))
        found, larger = max(options, default=(0.0, box))
        if found < factor * best:
            break
        box, best = larger, found
    return _box_cells(box)


def _box_cells(box: list[int]) -> Cells:
    """Cells (FINE_GRID, FINE_GRID) inside a box x0, y0, x1, y1."""
    cells = np.zeros((FINE_GRID, FINE_GRID), bool)
    cells[box[1] : box[3], box[0] : box[2]] = True
    return cells


def cell_importance(windows: Cells, gain: NDArray[np.float32]) -> NDArray[np.float64]:
    """Compute the mean gain of the windows that hold a cell, minus the mean of all windows.

    Args:
        windows: (n, h, w) bool, true inside each window.
        gain: (n,) gain of each window's transplant.

    Returns:
        (h, w) importance of the cells, of either sign.
    """
    held = windows.sum(axis=0)
    total = (windows * gain[:, None, None]).sum(axis=0)
    return np.asarray(total / np.maximum(held, 1) - gain.mean())


def most_important_cells(importance: NDArray[np.float64]) -> Cells | None:
    """Select the connected cells (h, w) around the maximum with at least NEAR_MAXIMUM of it.

    Cells next to the cue have a part of its importance, because windows that hold the cue also
    hold its neighbours. None is returned if no importance is positive.
    """
    if importance.max() <= 0:
        return None
    labels, _ = ndimage.label(importance >= NEAR_MAXIMUM * importance.max())
    return np.asarray(labels == labels[np.unravel_index(importance.argmax(), importance.shape)])


def _random_window(rng: Rng) -> Cells:
    cells = np.zeros((GRID, GRID), bool)
    height, width = rng.integers(MIN_WINDOW, MAX_WINDOW + 1, 2)
    # Windows may reach beyond the grid, so that cells at the edge are held as often as others.
    top, left = (int(rng.integers(1 - side, GRID)) for side in (height, width))
    cells[max(0, top) : top + height, max(0, left) : left + width] = True
    return cells
