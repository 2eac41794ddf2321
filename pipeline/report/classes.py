"""Classes: how each one is known, what it is taken for, where it is looked at; a page for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.report import charts
from pipeline.report.aggregates import STATISTICS, Aggregates, Counts, FocusSample
from pipeline.report.images import PictureFile, ReportImages
from pipeline.storage.schema import Row

PARTNERS = 10
"""Classes that a class is confused with, on its page."""
MATRIX = 30
"""Classes that a confusion matrix shows."""
PAIRS = 30
"""Most frequent confusions that are listed."""
IN_TABLE = 200
"""Classes in the table of the first page; a page of its own has all of them."""


@dataclass(frozen=True)
class Confusion:
    """So many images of a label predicted as another class; share of the images of the label."""

    label: int
    pred: int
    number: int
    share: float


@dataclass(frozen=True)
class Profile:
    """A focus statistic of a class beside all classes: QUANTILES each, None where not known."""

    name: str
    own: list[float] | None
    all: list[float] | None


@dataclass(frozen=True)
class ClassView:
    """A class as it is shown: its row of classes.parquet, its map, and whom it is confused with.

    taken_for are predictions of images of this label, mistaken the labels of images predicted so.
    """

    row: Row
    page: str
    picture: PictureFile | None
    taken_for: list[Confusion]
    mistaken: list[Confusion]
    profile: list[Profile] = field(default_factory=list)


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix, of all classes or of those most confused, and the frequent pairs."""

    chart: PictureFile | None
    shown: int
    pairs: list[Confusion]


def views(
    rows: Sequence[Row], survey: Aggregates, focus: FocusSample, studio: ReportImages
) -> list[ClassView]:
    """Every class, the least accurate first.

    Args:
        rows: of classes.parquet.
        survey, focus: of the rows of the run.
        studio: draws the mean heatmaps.
    """
    found = confusions(rows, survey)
    out: dict[int, list[Confusion]] = {}
    into: dict[int, list[Confusion]] = {}
    for each in found:
        out.setdefault(each.label, []).append(each)
        into.setdefault(each.pred, []).append(each)
    everyone = focus.quantiles()
    ordered = sorted(rows, key=lambda row: (_accuracy(row), row["class_index"]))
    return [
        ClassView(
            row=row,
            page=f"classes/{row['class_index']}.html",
            picture=studio.class_map(row["class_index"], row["heatmap"]),
            taken_for=out.get(row["class_index"], [])[:PARTNERS],
            mistaken=into.get(row["class_index"], [])[:PARTNERS],
            profile=_profile(focus.quantiles(row["class_index"]), everyone),
        )
        for row in ordered
    ]


def confusions(rows: Sequence[Row], survey: Aggregates) -> list[Confusion]:
    """Pairs of label and another prediction, the most frequent first."""
    given = {row["class_index"]: row["n_label"] for row in rows}
    found = [
        Confusion(label, pred, number, number / given[label] if given[label] else 0.0)
        for (label, pred), number in survey.pairs.items()
        if label != pred
    ]
    return sorted(found, key=lambda each: (-each.number, each.label, each.pred))


def matrix(rows: Sequence[Row], survey: Aggregates, folder: Path) -> Matrix:
    """The confusion matrix of the classes that have most to do with wrong predictions."""
    found = confusions(rows, survey)
    if not found:
        return Matrix(None, 0, [])
    wrong = np.zeros(len(rows), np.int64)
    for each in found:
        wrong[[each.label, each.pred]] += each.number
    chosen = np.sort(np.argsort(-wrong, kind="stable")[:MATRIX])
    place = {int(index): number for number, index in enumerate(chosen)}
    counts: Counts = np.zeros((len(chosen), len(chosen)), np.int64)
    for (label, pred), number in survey.pairs.items():
        if label in place and pred in place:
            counts[place[label], place[pred]] = number
    by_index = {row["class_index"]: row["class_name"] for row in rows}
    names = [by_index[index] for index in place]
    return Matrix(charts.confusion(folder, "confusion", names, counts), len(chosen), found[:PAIRS])


def _accuracy(row: Row) -> float:
    """For sorting: a class without labels stands last."""
    return 2.0 if row["accuracy"] is None else float(row["accuracy"])


def _profile(own: NDArray[np.float64], everyone: NDArray[np.float64]) -> list[Profile]:
    return [
        Profile(name, known(mine), known(theirs))
        for name, mine, theirs in zip(STATISTICS, own, everyone, strict=True)
        if known(theirs)
    ]


def known(quantiles: NDArray[np.float64]) -> list[float] | None:
    """Quantiles as a list, None where nothing is known."""
    return None if np.isnan(quantiles).any() else [float(value) for value in quantiles]
