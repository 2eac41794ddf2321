"""The section of suspects: a list of all, and cards and details of the first."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.ranking.decisions import IMAGE_COLUMNS
from pipeline.report.aggregates import STATISTICS, FocusSample
from pipeline.report.classes import to_list
from pipeline.report.images import ImageView
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import Row

N_IN_PAGE = 24
"""Number of suspects in the page itself."""
PER_CARD_FILE = 25
"""Number of suspects in one file of cards and details."""
PER_LIST_FILE = 2000
"""Number of suspects in one file of the list."""
COLUMNS = [
    "index", "image_id", "label_prob", "margin", "top_index", "top_prob",
    "image_width", "image_height", "image_brightness", "heatmap_max", *STATISTICS,
]  # fmt: skip
"""Columns of the parts that are shown for a suspect."""
ENTRY = (
    "rank", "image_id", "label", "pred", "kind", "finding_id", "confidence", "score", "decision",
    "note", *IMAGE_COLUMNS,
)  # fmt: skip
"""Values of a suspect in the list, in this order; its reasons follow as one text."""


@dataclass(frozen=True)
class Probability:
    """A class and its probability in [0, 1]; given is true if the class is the label."""

    name: str
    prob: float
    given: bool


@dataclass(frozen=True)
class FocusMeasure:
    """A focus statistic of an image, with QUANTILES of its predicted class and the share of the
    class's images with a smaller value.
    """

    name: str
    value: float
    quantiles: list[float]
    below: float


@dataclass(frozen=True)
class SuspectView:
    """A suspect as the report shows it.

    row is its row of suspects.parquet, details its row of the parts; path is the image file, or
    the image id where images are no files.
    """

    row: Row
    view: ImageView
    path: str
    details: Row
    probabilities: list[Probability]
    focus: list[FocusMeasure]


def suspect_views(
    suspects: Sequence[Row],
    details: dict[int, Row],
    views: dict[str, ImageView],
    focus: FocusSample,
    setup: Setup,
    path: Callable[[str], str | None],
) -> Iterator[SuspectView]:
    """Yield the view of each suspect.

    Args:
        suspects: rows of SUSPECTS.
        details: COLUMNS of their rows in the parts, by position in the plan.
        views: their pictures, by image id.
        focus: focus statistics of a sample of each class.
        setup: the setup of the plan.
        path: returns the file of an image id, or None.
    """
    classes = {name: index for index, name in enumerate(setup.class_names)}
    for row in suspects:
        detail = details[row["index"]]
        yield SuspectView(
            row=row,
            view=views[row["image_id"]],
            path=path(row["image_id"]) or row["image_id"],
            details=detail,
            probabilities=list(_probabilities(row, detail, setup.class_names)),
            focus=list(_focus_measures(detail, classes[row["pred"]], focus)),
        )


def list_entry(row: Row, detail: Row) -> list[Any]:
    """The values of a suspect by which the page sorts and filters (ENTRY, and the reasons)."""
    values = row | {name: detail[name] for name in IMAGE_COLUMNS}
    return [*(values[name] for name in ENTRY), " ".join(row["reasons"] or [])]


def _probabilities(row: Row, detail: Row, names: list[str]) -> Iterator[Probability]:
    """The most probable classes, and the label if it is not among them."""
    shown = set()
    pairs = zip(detail["top_index"] or [], detail["top_prob"] or [], strict=True)
    for index, prob in pairs:
        if index is not None and prob is not None:
            shown.add(names[index])
            yield Probability(names[index], float(prob), names[index] == row["label"])
    if row["label"] is not None and row["label"] not in shown and detail["label_prob"] is not None:
        yield Probability(row["label"], float(detail["label_prob"]), given=True)


def _focus_measures(detail: Row, class_index: int, focus: FocusSample) -> Iterator[FocusMeasure]:
    sample, quantiles = focus.of_class(class_index), focus.quantiles(class_index)
    for column, name in enumerate(STATISTICS):
        of_class, value = to_list(quantiles[column]), detail[name]
        if of_class is not None and value is not None:
            others = sample[:, column][~np.isnan(sample[:, column])]
            yield FocusMeasure(name, float(value), of_class, float(np.mean(others < value)))
