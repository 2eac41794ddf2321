"""The place and the kind of a region of an image, such as "bottom right", "top edge", "patch"."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

MIN_EDGE_SHARE = 0.75
"""Share of an edge's cells that a region must hold to be named after the edge."""
MAX_EDGE_AREA = 0.2
"""Largest share of the image of a region that is named after an edge."""
MIN_PART = 1 / 3
"""Smallest size of a part of a region that is named, as a share of the largest part's."""
MAX_PARTS = 2
"""Most parts of a region that are named one by one."""
MAX_PATCH_AREA = 0.15
"""Largest share of the image that is called a patch."""


def parts_of_cells(cells: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """Divide a region (h, w) into its connected parts, the largest first.

    Parts much smaller than the largest are left out. A region of many parts is not divided.
    """
    n_parts, labels = cv2.connectedComponents(cells.astype(np.uint8))
    parts = sorted((labels == part for part in range(1, n_parts)), key=lambda each: -each.sum())
    large = [part for part in parts if part.sum() >= MIN_PART * parts[0].sum()]
    return large if len(large) <= MAX_PARTS else [cells]


def place_of_point(row: float, column: float, shape: tuple[int, int]) -> str:
    """Name the third of the image, in each direction, that holds a point.

    Args:
        row, column: position on a grid, counted from 0; the centre of a cell is a whole number.
        shape: rows and columns of the grid.

    Returns:
        "top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom" or
        "bottom right".
    """
    vertical = ("top", "", "bottom")[_third(row, shape[0])]
    horizontal = ("left", "", "right")[_third(column, shape[1])]
    return f"{vertical} {horizontal}".strip() or "centre"


def place_of_cells(cells: NDArray[np.bool_]) -> str:
    """Name the edge that a region (h, w) runs along, else the third that holds its centre."""
    if edge := edge_of_cells(cells):
        return edge
    rows, columns = np.nonzero(cells)
    return place_of_point(rows.mean(), columns.mean(), (cells.shape[0], cells.shape[1]))


def edge_of_cells(cells: NDArray[np.bool_]) -> str:
    """Name the edge that a region (h, w) runs along, such as "left edge"; "" where there is none.

    The region must hold MIN_EDGE_SHARE of the outermost row or column, and be small.
    """
    outermost = {
        "top edge": cells[0],
        "bottom edge": cells[-1],
        "left edge": cells[:, 0],
        "right edge": cells[:, -1],
    }
    for name, line in outermost.items():
        if line.mean() >= MIN_EDGE_SHARE and cells.mean() <= MAX_EDGE_AREA:
            return name
    return ""


def kind_of_cells(cells: NDArray[np.bool_]) -> str:
    """Classify a region (h, w) as "frame", "edge", "patch" (up to MAX_PATCH_AREA) or "region"."""
    border = np.ones_like(cells)
    border[1:-1, 1:-1] = False
    if cells[border].mean() > 0.5 and cells[~border].sum() < cells[border].sum() / 2:
        return "frame"
    if edge_of_cells(cells):
        return "edge"
    return "patch" if cells.mean() <= MAX_PATCH_AREA else "region"


def bounding_box(cells: NDArray[np.bool_]) -> dict[str, float]:
    """Box around cells (h, w) as x0, y0, x1, y1, fractions of the image's width and height."""
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    height, width = cells.shape
    return {
        "x0": columns[0] / width,
        "y0": rows[0] / height,
        "x1": (columns[-1] + 1) / width,
        "y1": (rows[-1] + 1) / height,
    }


def _third(position: float, cells: int) -> int:
    return int(3 * (position + 0.5) / cells)
