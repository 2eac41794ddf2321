"""Charts as SVG files, drawn by matplotlib in the colours of the page, light and dark."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from pipeline.report.images import PictureFile
from pipeline.storage.schema import Row

INK, QUIET, LINE, ACCENT, BAD, SOFT = (
    "#22252b", "#5c626d", "#d6d2ca", "#2f5d8c", "#a8323a", "#8fa9c4",
)  # fmt: skip
DARK = {
    INK: "#e6e4df", QUIET: "#a3a9b4", LINE: "#41464f", ACCENT: "#8ab4de", BAD: "#f09a9a",
    SOFT: "#4a6a8c",
}  # fmt: skip
"""Colour of the light page -> colour of the dark page."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "camaudit",  # makes the ids of clip paths reproducible
    "font.size": 11,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}
DPI = 72
"""Points per inch of an SVG file."""
MAX_NAME = 24
"""Largest number of characters of a class name in a chart."""
MAX_NUMBERED = 15
"""Largest number of classes for which a confusion matrix shows numbers."""

Counts = NDArray[np.int64]


def effect(folder: Path, name: str, finding: Row) -> PictureFile:
    """Draw effect, control and gain of adding the cue, with the interval of the gain.

    Args:
        folder: the report's folder.
        name: name of the file.
        finding: a row of FINDINGS with an effect and a control.
    """
    gain = finding["effect"] - finding["control"]
    low, high = finding["ci_low"], finding["ci_high"]
    with _chart(6, 1.6, box=(0.22, 0.24, 0.74, 0.74)) as (figure, axis):
        rows = ("cue added", "control", "difference")
        axis.barh(
            rows, (finding["effect"], finding["control"], gain), 0.6, color=(BAD, QUIET, SOFT)
        )
        if low is not None and high is not None:
            reach = [[max(0, gain - low)], [max(0, high - gain)]]
            axis.errorbar(gain, 2, xerr=reach, color=INK, capsize=3)
        axis.invert_yaxis()
        axis.set_xlim(min(0, gain, low or 0), 1)
        axis.xaxis.set_major_formatter(_percent())
        return _save(folder, name, figure)


def confidences(folder: Path, name: str, right: Counts, wrong: Counts) -> PictureFile:
    """Draw the numbers of right and wrong predictions by confidence.

    Args:
        folder: the report's folder.
        name: name of the file.
        right, wrong: counts in bins of equal width over [0, 1].
    """
    edges = np.linspace(0, 1, len(right) + 1)
    with _chart(6, 2.6) as (figure, axis):
        for counts, base, colour, label in (
            (right, 0, ACCENT, "right"),
            (wrong, right, BAD, "wrong"),
        ):
            axis.bar(edges[:-1], counts, np.diff(edges), base, align="edge", color=colour,
                     label=label)  # fmt: skip
        axis.legend(loc="upper left")
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(_percent())
        axis.yaxis.set_major_formatter("{x:,.0f}")
        axis.set_xlabel("confidence of the prediction")
        axis.set_ylabel("images")
        return _save(folder, name, figure)


def confusion(folder: Path, name: str, names: Sequence[str], counts: Counts) -> PictureFile:
    """Draw a confusion matrix: rows are labels, columns predictions, values shares of the row.

    Args:
        folder: the report's folder.
        name: name of the file.
        names: names of the K classes.
        counts: (K, K) numbers of images.
    """
    n_classes = len(names)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = shares * (1 - np.eye(n_classes))
    side = min(9.0, 2 + 0.4 * n_classes)
    with _chart(side, side) as (figure, axis):
        for row, column in np.argwhere(wrong > 0):
            strength = 0.12 + 0.58 * wrong[row, column] / wrong.max()
            cell = Rectangle((column, row), 1, 1, facecolor=BAD, alpha=strength, edgecolor="none")
            axis.add_patch(cell)
        for row, column in np.argwhere(shares > 0) if n_classes <= MAX_NUMBERED else ():
            text = f"{100 * shares[row, column]:.0f}"
            colour = QUIET if row == column else INK
            axis.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour)
        axis.plot([0, n_classes], [0, n_classes], color=LINE, linewidth=0.5)
        axis.set_xlim(0, n_classes)
        axis.set_ylim(n_classes, 0)
        ticks, labels = np.arange(n_classes) + 0.5, [_short(each) for each in names]
        axis.set_yticks(ticks, labels)
        axis.set_xticks(ticks, labels, rotation=90, color=INK)
        axis.tick_params(length=0, labelsize=9)
        axis.set_ylabel("given label")
        axis.set_xlabel("prediction, in % of the images of the label")
        return _save(folder, name, figure)


def accuracies(folder: Path, name: str, rows: Sequence[Row]) -> PictureFile:
    """Draw the accuracy of classes before and now as arrows, from rows of CHANGES."""
    with _chart(6, 0.9 + 0.28 * len(rows)) as (figure, axis):
        for place, row in enumerate(rows):
            colour = BAD if row["change"] == "worse" else ACCENT
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1.5}
            axis.annotate("", (row["after"], place), (row["before"], place), arrowprops=arrow)
            axis.plot(row["before"], place, "o", color=QUIET, markersize=4)
        axis.set_yticks(range(len(rows)), [_short(row["key"]) for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xlim(0, 1)
        axis.xaxis.set_major_formatter(_percent())
        axis.set_xlabel("accuracy, from the baseline to now")
        return _save(folder, name, figure)


@contextmanager
def _chart(
    width: float, height: float, box: tuple[float, float, float, float] | None = None
) -> Iterator[tuple[Figure, Any]]:
    """Yield an empty figure (sides in inches) and its axis, in the style of the page.

    box is the position of the axis (left, bottom, width, height) as fractions. Without it
    matplotlib measures the labels, which doubles the time.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout=None if box else "constrained")
        figure.patch.set_visible(False)
        axis = figure.add_axes(box) if box else figure.add_subplot()
        axis.patch.set_visible(False)
        yield figure, axis


def _percent() -> PercentFormatter:
    return PercentFormatter(1, 0)


def _short(name: str) -> str:
    """A name shortened to MAX_NAME characters, without formula signs of matplotlib."""
    shown = "".join(each if each.isprintable() else "�" for each in name).replace("$", r"\$")
    return shown if len(shown) <= MAX_NAME else f"{shown[: MAX_NAME - 1]}…"


def _save(folder: Path, name: str, figure: Figure) -> PictureFile:
    """Write charts/NAME.svg, with its colours as CSS variables for the light and dark scheme."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # The browser draws the texts, with fonts that matplotlib may not have.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    for number, colour in enumerate(DARK):
        text = text.replace(colour, f"var(--c{number})")
    head, svg, rest = text.partition("<defs>")
    light, dark = (
        ";".join(f"--c{number}:{colour}" for number, colour in enumerate(colours))
        for colours in (DARK, DARK.values())
    )
    style = (
        f"<style>:root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
        "text{font-family:system-ui,sans-serif!important}</style>"
    )
    path = folder / "charts" / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{head}{style}{svg}{rest}", encoding="utf-8")
    width, height = (round(side * DPI) for side in figure.get_size_inches())
    return PictureFile(f"charts/{name}.svg", width, height)
