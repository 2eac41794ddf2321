"""The section of classes, and a page for each class: accuracy, confusions, focus, examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.report import charts
from pipeline.report.aggregates import STATISTICS, Counts, FocusSample, Totals
from pipeline.report.images import PictureFile, ReportImages
from pipeline.storage.schema import Row

MAX_CONFUSED = 10
"""Largest number of confusions on the page of a class."""
MAX_IN_MATRIX = 30
"""Largest number of classes in the confusion matrix."""
MAX_PAIRS = 30
"""Largest number of confusions in the list of the first page."""
MAX_IN_TABLE = 200
"""Largest number of classes in the table of the first page; another page lists all classes."""


@dataclass(frozen=True)
class Confusion:
    """The number of images of a label that are predicted as another class, and their share of the
    label's images.
    """

    label: int
    pred: int
    number: int
    share: float


@dataclass(frozen=True)
class ClassFocusRow:
    """QUANTILES of a focus statistic for a class and for all classes; None without any value."""

    name: str
    own: list[float] | None
    all: list[float] | None


@dataclass(frozen=True)
class ClassView:
    """A class as the report shows it.

    Attributes:
        row: its row of classes.parquet.
        page: address of its page.
        picture: its mean heatmap.
        taken_for: wrong predictions of images with this label.
        mistaken: labels of images that are wrongly predicted as this class.
        profile: its focus statistics.
    """

    row: Row
    page: str
    picture: PictureFile | None
    taken_for: list[Confusion]
    mistaken: list[Confusion]
    profile: list[ClassFocusRow] = field(default_factory=list)


@dataclass(frozen=True)
class ConfusionMatrix:
    """The chart of the confusion matrix, its number of classes, and the frequent confusions."""

    chart: PictureFile | None
    shown: int
    pairs: list[Confusion]


def class_views(
    rows: Sequence[Row], totals: Totals, focus: FocusSample, images: ReportImages
) -> list[ClassView]:
    """Make the views of all classes, in ascending order of the accuracy.

    Args:
        rows: rows of classes.parquet.
        totals: totals over the rows of the run.
        focus: focus statistics of a sample of the run.
        images: draws the mean heatmaps.
    """
    by_label: dict[int, list[Confusion]] = {}
    by_pred: dict[int, list[Confusion]] = {}
    for each in confusions(rows, totals):
        by_label.setdefault(each.label, []).append(each)
        by_pred.setdefault(each.pred, []).append(each)
    all_classes = focus.quantiles()
    ordered = sorted(rows, key=lambda row: (_accuracy(row), row["class_index"]))
    return [
        ClassView(
            row=row,
            page=f"classes/{row['class_index']}.html",
            picture=images.class_map(row["class_index"], row["heatmap"]),
            taken_for=by_label.get(row["class_index"], [])[:MAX_CONFUSED],
            mistaken=by_pred.get(row["class_index"], [])[:MAX_CONFUSED],
            profile=_profile(focus.quantiles(row["class_index"]), all_classes),
        )
        for row in ordered
    ]


def confusions(rows: Sequence[Row], totals: Totals) -> list[Confusion]:
    """All confusions, in descending order of the number of images."""
    given = {row["class_index"]: row["n_label"] for row in rows}
    found = [
        Confusion(label, pred, number, number / given[label] if given[label] else 0.0)
        for (label, pred), number in totals.pairs.items()
        if label != pred
    ]
    return sorted(found, key=lambda each: (-each.number, each.label, each.pred))


def confusion_matrix(rows: Sequence[Row], totals: Totals, folder: Path) -> ConfusionMatrix:
    """Draw the confusion matrix of the classes with the most wrong predictions."""
    found = confusions(rows, totals)
    if not found:
        return ConfusionMatrix(None, 0, [])
    wrong = np.zeros(len(rows), np.int64)
    for each in found:
        wrong[[each.label, each.pred]] += each.number
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MAX_IN_MATRIX])
    place = {int(index): number for number, index in enumerate(chosen)}
    counts: Counts = np.zeros((len(chosen), len(chosen)), np.int64)
    for (label, pred), number in totals.pairs.items():
        if label in place and pred in place:
            counts[place[label], place[pred]] = number
    by_index = {row["class_index"]: row["class_name"] for row in rows}
    names = [by_index[index] for index in place]
    chart = charts.confusion(folder, "confusion", names, counts)
    return ConfusionMatrix(chart, len(chosen), found[:MAX_PAIRS])


def _accuracy(row: Row) -> float:
    """Sort key: a class without labels comes last."""
    return 2.0 if row["accuracy"] is None else float(row["accuracy"])


def _profile(own: NDArray[np.float64], all_classes: NDArray[np.float64]) -> list[ClassFocusRow]:
    return [
        ClassFocusRow(name, to_list(one), to_list(every))
        for name, one, every in zip(STATISTICS, own, all_classes, strict=True)
        if to_list(every)
    ]


def to_list(quantiles: NDArray[np.float64]) -> list[float] | None:
    """Quantiles as a list; None if they are NaN."""
    return None if np.isnan(quantiles).any() else [float(value) for value in quantiles]
