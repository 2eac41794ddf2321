"""Regions in which the heatmaps of a class differ from those of other classes; numpy, no files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipeline.analysis import place_words

Floats = NDArray[np.floating]
Cells = NDArray[np.bool_]
"""A region as a mask (h, w) of the cells of a grid that covers the image."""

SIGNIFICANCE = 0.05
"""Chance of a region in a class whose images are a random draw from those of all classes."""
HIGH_QUANTILE = 0.9
"""Quantile over the class's images that shows a cue which only a minority of the images has."""
PERMUTATION_BLOCK = 50
"""Permutations computed at once, which bounds the memory."""
MAX_PATCH_AREA = 0.15
"""Largest share of the image that is called a patch."""
EDGE_GRID = 8
"""Rows and columns of the grid of `edge_cells`; an edge is 1 / EDGE_GRID of the image wide."""


@dataclass(frozen=True)
class Region:
    """A region in which the heat of a class exceeds that of other classes.

    Attributes:
        cells: (h, w), true inside the region.
        statistic: name of the statistic over the images that found the region (STATISTICS).
        z: largest excess in the region, in standard deviations of the permuted statistic.
        p_value: permutation p-value of the largest excess anywhere on the grid.
    """

    cells: Cells
    statistic: str
    z: float
    p_value: float


def heat_shares(heatmaps: Floats) -> Floats:
    """Divide heatmaps (n, h, w) by their sums, so that each sums to 1; none may be dead."""
    return np.asarray(heatmaps / heatmaps.sum(axis=(1, 2), keepdims=True))


def usual_cells(others: Floats) -> Cells:
    """Cells (h, w) with more than average heat in images of other classes (n, h, w)."""
    return np.asarray(others.mean(axis=0) > 1 / others[0].size)


def find_unusual_regions(
    own: Floats, others: Floats, permutations: int, rng: np.random.Generator
) -> list[Region]:
    """Find connected regions outside `usual_cells` where a class has more heat than by chance.

    The null distribution draws as many images as the class has from all images, at random. A cell
    is significant if its excess is above the 1 - SIGNIFICANCE quantile of the largest excess over
    all cells (max-statistic permutation test; Nichols and Holmes, "Nonparametric permutation tests
    for functional neuroimaging", Human Brain Mapping 2002).

    Args:
        own: (n, h, w) heat shares of the class's images.
        others: (m, h, w) heat shares of images of other classes.
        permutations: draws of the null distribution.
        rng: random generator of the draws.

    Returns:
        Regions by falling z; no region shares half of its cells or more with an earlier one.
    """
    unusual = ~usual_cells(others)
    found: list[Region] = []
    for name, statistic in STATISTICS.items():
        z, p_value, threshold = _excess(own, others, statistic, permutations, rng)
        significant = (z > threshold) & unusual
        if not significant.any():
            continue
        significant &= z >= z[significant].max() / 2
        labels, count = ndimage.label(significant, structure=np.ones((3, 3)))
        for label in range(1, count + 1):
            cells = _fill_box(labels == label)
            found.append(Region(cells, name, float(z[cells].max()), p_value))
    found.sort(key=lambda region: -region.z)
    return _drop_overlapping(found)


def heat_inside(heat: Floats, cells: Cells) -> Floats:
    """Share of each image's heat (n, h, w) inside the cells (h, w): (n,) in [0, 1]."""
    return np.asarray(heat[:, cells].sum(axis=1))


def bounding_box(cells: Cells) -> dict[str, float]:
    """Box around cells (h, w) as x0, y0, x1, y1, fractions of the image's width and height."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    height, width = cells.shape
    return {
        "x0": columns[0] / width,
        "y0": rows[0] / height,
        "x1": (columns[-1] + 1) / width,
        "y1": (rows[-1] + 1) / height,
    }


def kind_of_cells(cells: Cells) -> str:
    """Classify a region (h, w) as "frame", "edge", "patch" (up to MAX_PATCH_AREA) or "region"."""
    border = np.ones_like(cells)
    border[1:-1, 1:-1] = False
    if cells[border].mean() > 0.5 and cells[~border].sum() < cells[border].sum() / 2:
        return "frame"
    if place_words.edge_of_cells(cells):
        return "edge"
    return "patch" if cells.mean() <= MAX_PATCH_AREA else "region"


def edge_cells() -> dict[str, Cells]:
    """Regions (EDGE_GRID, EDGE_GRID) along each edge of the image and along all of them."""
    names = ("top edge", "bottom edge", "left edge", "right edge")
    cells = {name: np.zeros((EDGE_GRID, EDGE_GRID), bool) for name in names}
    cells["top edge"][0] = cells["bottom edge"][-1] = True
    cells["left edge"][:, 0] = cells["right edge"][:, -1] = True
    return {**cells, "all edges": np.logical_or.reduce(list(cells.values()))}


def _mean(maps: Floats) -> Floats:
    return np.asarray(maps.mean(axis=-3))


def _high_quantile(maps: Floats) -> Floats:
    rank = int(HIGH_QUANTILE * (maps.shape[-3] - 1))
    return np.asarray(np.partition(maps, rank, axis=-3)[..., rank, :, :])


STATISTICS: dict[str, Callable[[Floats], Floats]] = {
    "mean heat": _mean,
    "90th percentile of heat": _high_quantile,
}
"""Statistics over images: (..., n, h, w) to (..., h, w). The names are values of `raised_by`."""


def _excess(
    own: Floats,
    others: Floats,
    statistic: Callable[[Floats], Floats],
    permutations: int,
    rng: np.random.Generator,
) -> tuple[Floats, float, float]:
    """z map (h, w) of the class, p-value of its maximum, and the significant z."""
    pool = np.concatenate([own, others])
    blocks = []
    for start in range(0, permutations, PERMUTATION_BLOCK):
        size = (min(PERMUTATION_BLOCK, permutations - start), len(own))
        blocks.append(statistic(pool[rng.integers(len(pool), size=size)]))
    null = np.concatenate(blocks)
    scale = np.maximum(null.std(axis=0), np.finfo(np.float32).eps)
    z = (statistic(own) - null.mean(axis=0)) / scale
    maxima = ((null - null.mean(axis=0)) / scale).max(axis=(1, 2))
    p_value = (1 + int((maxima >= z.max()).sum())) / (1 + permutations)
    return z, p_value, float(np.quantile(maxima, 1 - SIGNIFICANCE))


def _fill_box(cells: Cells) -> Cells:
    """The box around cells (h, w) if they fill at least half of it, else the cells themselves."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    box = np.zeros_like(cells)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box if cells.sum() >= box.sum() / 2 else cells


def _drop_overlapping(regions: list[Region]) -> list[Region]:
    kept: list[Region] = []
    for region in regions:
        overlaps = [
            (region.cells & other.cells).sum() / min(region.cells.sum(), other.cells.sum())
            for other in kept
        ]
        if not any(overlap >= 0.5 for overlap in overlaps):
            kept.append(region)
    return kept
