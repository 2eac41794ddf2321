"""Where one class's heat lies that other classes' does not: numpy on heatmaps, no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.floating]
Cells = NDArray[np.bool_]

LEVEL = 0.05
"""Chance of a region where a class's images are in truth a random draw from all classes'."""
HIGH = 0.9
"""A cue worn by a minority of a class shows in this quantile of its heat, not in the mean."""
PERMUTATION_BLOCK = 50


@dataclass(frozen=True)
class Region:
    """Cells (h, w) where a class's heat exceeds the others', how clearly, and by which statistic.

    z is the largest excess in standard deviations of the permuted statistic; p_value that of the
    largest excess anywhere on the grid.
    """

    cells: Cells
    statistic: str
    z: float
    p_value: float


def mass(heatmaps: Floats) -> Floats:
    """Maps (n, h, w) to shares of their heat, so that each sums to 1; none may be dead."""
    return np.asarray(heatmaps / heatmaps.sum(axis=(1, 2), keepdims=True))


def usual_place(others: Floats) -> Cells:
    """Cells (h, w) where other classes' images (n, h, w) are looked at more than on average."""
    return np.asarray(others.mean(axis=0) > 1 / others[0].size)


def unusual_regions(
    own: Floats, others: Floats, permutations: int, rng: np.random.Generator
) -> list[Region]:
    """Connected regions off the usual place where a class draws more heat than a random draw would.

    The null mixes the class's images with the others' and draws as many at random; the threshold
    is that of the largest excess over all cells, so that one class in 1/LEVEL yields a region by
    chance (max-statistic permutation test; Nichols and Holmes 2002).

    Args:
        own: (n, h, w) heat mass of the class's images.
        others: (m, h, w) of other classes' images.
        permutations: draws of the null.
        rng: source of the draws.

    Returns:
        Regions by falling z; none overlaps an earlier one by half.
    """
    off = ~usual_place(others)
    found: list[Region] = []
    for name, statistic in STATISTICS.items():
        z, p_value, threshold = _excess(own, others, statistic, permutations, rng)
        hot = (z > threshold) & off
        if not hot.any():
            continue
        hot &= z >= z[hot].max() / 2
        labels, count = ndimage.label(hot, structure=np.ones((3, 3)))
        for label in range(1, count + 1):
            cells = _filled(labels == label)
            found.append(Region(cells, name, float(z[cells].max()), p_value))
    found.sort(key=lambda region: -region.z)
    return _distinct(found)


def share(heat: Floats, cells: Cells) -> Floats:
    """Share of each image's heat (n, h, w) that lies in the cells (h, w): (n,) in [0, 1]."""
    return np.asarray(heat[:, cells].sum(axis=1))


def bounds(cells: Cells) -> dict[str, float]:
    """The box around cells (h, w), as fractions x0, y0, x1, y1 of the picture."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    height, width = cells.shape
    return {
        "x0": columns[0] / width,
        "y0": rows[0] / height,
        "x1": (columns[-1] + 1) / width,
        "y1": (rows[-1] + 1) / height,
    }


def kind(cells: Cells) -> str:
    """frame, edge, patch (up to 15 % of the picture) or region, by where cells (h, w) lie."""
    border = np.ones_like(cells)
    border[1:-1, 1:-1] = False
    if cells[border].mean() > 0.5 and cells[~border].sum() < cells[border].sum() / 2:
        return "frame"
    if _edge(cells):
        return "edge"
    return "patch" if cells.mean() <= 0.15 else "region"


def place(cells: Cells) -> str:
    """The place of cells (h, w) in words, such as "bottom right", "centre" or "bottom edge"."""
    if edge := _edge(cells):
        return edge
    rows, columns = np.nonzero(cells)
    third = [
        int(3 * (axis.mean() + 0.5) / side)
        for axis, side in ((rows, cells.shape[0]), (columns, cells.shape[1]))
    ]
    vertical, horizontal = ("top", "", "bottom")[third[0]], ("left", "", "right")[third[1]]
    return f"{vertical} {horizontal}".strip() or "centre"


def _edge(cells: Cells) -> str:
    """The edge that cells run along for three quarters, holding little else; "" for none."""
    lines = {
        "top edge": cells[0],
        "bottom edge": cells[-1],
        "left edge": cells[:, 0],
        "right edge": cells[:, -1],
    }
    for name, line in lines.items():
        if line.mean() >= 0.75 and cells.sum() <= 1.5 * len(line):
            return name
    return ""


def _mean(maps: Floats) -> Floats:
    return np.asarray(maps.mean(axis=-3))


def _high(maps: Floats) -> Floats:
    rank = int(HIGH * (maps.shape[-3] - 1))
    return np.asarray(np.partition(maps, rank, axis=-3)[..., rank, :, :])


STATISTICS = {"mean heat": _mean, "90th percentile of heat": _high}


def _excess(
    own: Floats,
    others: Floats,
    statistic: object,
    permutations: int,
    rng: np.random.Generator,
) -> tuple[Floats, float, float]:
    """z map (h, w) of the class, p-value of its maximum, and the z that LEVEL of draws exceed."""
    assert callable(statistic)
    pool = np.concatenate([own, others])
    blocks = []
    for start in range(0, permutations, PERMUTATION_BLOCK):
        size = (min(PERMUTATION_BLOCK, permutations - start), len(own))
        blocks.append(statistic(pool[rng.integers(len(pool), size=size)]))
    null = np.concatenate(blocks)
    scale = np.maximum(null.std(axis=0), np.finfo(np.float32).eps)
    z = (statistic(own) - null.mean(axis=0)) / scale
    highest = ((null - null.mean(axis=0)) / scale).max(axis=(1, 2))
    p_value = (1 + int((highest >= z.max()).sum())) / (1 + permutations)
    return z, p_value, float(np.quantile(highest, 1 - LEVEL))


def _filled(cells: Cells) -> Cells:
    """The box around cells (h, w) that fill at least half of it, else the cells themselves."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    box = np.zeros_like(cells)
    box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box if cells.sum() >= box.sum() / 2 else cells


def _distinct(regions: list[Region]) -> list[Region]:
    kept: list[Region] = []
    for region in regions:
        shared = [
            (region.cells & other.cells).sum() / min(region.cells.sum(), other.cells.sum())
            for other in kept
        ]
        if not any(share >= 0.5 for share in shared):
            kept.append(region)
    return kept
