"""An image, its heatmaps and overlays side by side, in one matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipeline.data.decode import to_rgb
from pipeline.data.pictures import WHOLE, Box, Rgb
from pipeline.report.overlay import (
    ALPHA,
    COLORMAP,
    apply_colormap,
    overlay,
    resize_heatmap,
    to_numpy,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_WIDTH = 3.2
"""Width of a panel in inches."""
UNSEEN_GREY = np.uint8(190)
"""Grey level of the region that the model does not see."""
MAX_TITLE = 60
"""Largest number of characters of a title."""

Panel = tuple[str, Rgb] | None
"""Title and picture of a panel, or None for an empty panel."""


def panels(
    image: object,
    heatmaps: ArrayLike,
    names: Sequence[str] = (),
    *,
    alpha: float = ALPHA,
    colormap: str = COLORMAP,
    seen: Box = WHOLE,
) -> Figure:
    """Show an image, its heatmaps and the overlays side by side, with a colour bar.

    A notebook shows the figure if it is the last value of a cell.

    Args:
        image, alpha, colormap, seen: as `overlay`. A frame marks the region that the model sees.
        heatmaps: (h, w), or (T, h, w) for T classes.
        names: names of the T classes.

    Returns:
        A matplotlib figure; save it with `.savefig("panels.png")`.

    Raises:
        ConfigError, DecodeError: as `overlay`.
        ValueError: the numbers of names and heatmaps differ.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415 - slow to import

    picture, maps = to_rgb(image), to_numpy(heatmaps)
    maps = maps if maps.ndim == 3 else maps[None]
    titles = [_plain(name) for name in names] or [""] * len(maps)
    heats = [
        _greyed(apply_colormap(resize_heatmap(m, picture.shape, seen), colormap), seen)
        for m in maps
    ]
    overlays = [overlay(picture, m, alpha, colormap=colormap, seen=seen) for m in maps]
    cells = _arrange(picture, list(zip(titles, heats, overlays, strict=True)))
    figure = plt.figure()
    _draw(figure, cells, colormap, seen)
    plt.close(figure)  # otherwise a notebook would show the returned figure twice
    return figure


def _arrange(picture: Rgb, drawn: list[tuple[str, Rgb, Rgb]]) -> list[list[Panel]]:
    """Arrange title, heatmap and overlay of every class in rows of panels."""
    if len(drawn) == 1:
        ((title, heat, over),) = drawn
        return [
            [
                ("original", picture),
                (f"heatmap: {title}" if title else "heatmap", heat),
                ("overlay", over),
            ]
        ]
    return [
        [("original", picture), *((title, over) for title, _, over in drawn)],
        [None, *(("", heat) for _, heat, _ in drawn)],
    ]


def _draw(figure: Figure, cells: list[list[Panel]], colormap: str, seen: Box) -> None:
    rows, columns = len(cells), len(cells[0])
    height, width = next(cell[1] for cell in cells[0] if cell).shape[:2]
    tall = min(max(height / width, 0.25), 3)
    figure.set_size_inches(PANEL_WIDTH * columns + 1, (PANEL_WIDTH * tall + 0.4) * rows)
    figure.set_layout_engine("constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, cell in zip(axes.flat, (cell for row in cells for cell in row), strict=True):
        axis.set_axis_off()
        if cell is not None:
            axis.imshow(cell[1])
            axis.set_title(cell[0], fontsize=10)
            _frame(axis, height, width, seen)
    _colour_bar(figure, axes, colormap)


def _colour_bar(figure: Figure, axes: NDArray[np.object_], colormap: str) -> None:
    from matplotlib import cm, colors  # noqa: PLC0415 - as in panels

    table = apply_colormap(np.linspace(0, 1, 256)[None], colormap)[0] / 255
    scale = cm.ScalarMappable(colors.Normalize(0, 1), colors.ListedColormap(list(table)))
    figure.colorbar(scale, ax=axes, shrink=0.8, label="share of the strongest evidence")


def _frame(axis: Axes, height: int, width: int, seen: Box) -> None:
    """Draw a frame around the region that the model sees, unless it is the whole image."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - as in panels

    x0, y0, x1, y1 = seen
    if x0 <= 0 and y0 <= 0 and x1 >= 1 and y1 >= 1:
        return
    corner, size = (x0 * width - 0.5, y0 * height - 0.5), ((x1 - x0) * width, (y1 - y0) * height)
    for colour, thick in (("black", 2.5), ("white", 1)):
        axis.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=thick))


def _greyed(heat: Rgb, seen: Box) -> Rgb:
    """A coloured heatmap, grey outside the region that the model sees."""
    inside = resize_heatmap(np.ones((1, 1)), heat.shape, seen) > 0
    return np.where(inside[..., None], heat, UNSEEN_GREY)


def _plain(text: str) -> str:
    """Text without formula signs of matplotlib and without unprintable characters, shortened."""
    shown = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    short = shown if len(shown) <= MAX_TITLE else f"{shown[: MAX_TITLE - 1]}…"
    return short.replace("$", r"\$")
