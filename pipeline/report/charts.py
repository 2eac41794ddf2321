"""Charts as SVG files, by matplotlib, in the colours of the page, light and dark."""

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
"""What the colours of the light page are on the dark one."""

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "camaudit",  # ids of clip paths are the same for the same chart
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
"""Points of an SVG to the inch."""
LONGEST = 24
"""Characters of a class's name in a chart."""

FEW = 15
"""Classes up to which a confusion matrix shows its numbers."""

Counts = NDArray[np.int64]


def effect(folder: Path, name: str, finding: Row) -> PictureFile:
    """What adding the cue of a finding does beside its control, and the interval of the difference.

    finding is a row of FINDINGS with an effect and a control.
    """
    gain = finding["effect"] - finding["control"]
    low, high = finding["ci_low"], finding["ci_high"]
    with _chart(6, 1.6, box=(0.22, 0.24, 0.74, 0.74)) as (figure, axis):
        rows = ("with the cue", "with the control", "difference")
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
    """How many predictions of each confidence are right and wrong.

    Args:
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
    """A confusion matrix: rows are given labels, columns predictions, shares of the row.

    Args:
        names: of the K classes.
        counts: (K, K).
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
        for row, column in np.argwhere(shares > 0) if n_classes <= FEW else ():
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
    """Accuracy of classes before and now, as arrows; rows of CHANGES about classes."""
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
    """An empty figure, sides in inches, and its axis, in the style of the page.

    box places the axis (left, bottom, width, height), as fractions: half the time, where it is
    known how long the labels are.
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
    """A name that fits beside an axis, and in which matplotlib finds no formula."""
    shown = "".join(each if each.isprintable() else "�" for each in name).replace("$", r"\$")
    return shown if len(shown) <= LONGEST else f"{shown[: LONGEST - 1]}…"


def _save(folder: Path, name: str, figure: Figure) -> PictureFile:
    """Write charts/NAME.svg, its colours as variables that the dark scheme sets anew."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Texts stay texts, which the browser draws: it has the fonts that matplotlib lacks.
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
