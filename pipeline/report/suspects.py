"""Suspects: which images to fix first, as entries of a list and as cards and details to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.analysis.ranking.decisions import PICTURE
from pipeline.report.aggregates import STATISTICS, FocusSample
from pipeline.report.classes import known
from pipeline.report.images import ImageView
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import Row

FIRST = 24
"""Suspects that stand in the page itself."""
CARDS = 25
"""Suspects in a file of cards and details."""
ENTRIES = 2000
"""Suspects in a file of the list."""
COLUMNS = [
    "index", "image_id", "label_prob", "margin", "top_index", "top_prob",
    "image_width", "image_height", "image_brightness", "heatmap_max", *STATISTICS,
]  # fmt: skip
"""Columns of the parts that are shown of a suspect."""
ENTRY = (
    "rank", "image_id", "label", "pred", "kind", "finding_id", "confidence", "score", "decision",
    "note", *PICTURE,
)  # fmt: skip
"""What stands in the list of each suspect, in this order; its reasons follow as one text."""


@dataclass(frozen=True)
class Probability:
    """A class and its probability; given tells whether it is the label."""

    name: str
    prob: float
    given: bool


@dataclass(frozen=True)
class Measured:
    """A focus statistic of an image beside its predicted class: QUANTILES, and the share of the
    class's images that lie below.
    """

    name: str
    value: float
    quantiles: list[float]
    below: float


@dataclass(frozen=True)
class Suspect:
    """A suspect as it is shown: its row of suspects.parquet, what is drawn, and its figures.

    path is the file, or the image's id where images are no files; details is its row of the parts.
    """

    row: Row
    view: ImageView
    path: str
    details: Row
    probabilities: list[Probability]
    focus: list[Measured]


def gathered(
    suspects: Sequence[Row],
    details: dict[int, Row],
    views: dict[str, ImageView],
    focus: FocusSample,
    setup: Setup,
    path: Callable[[str], str | None],
) -> Iterator[Suspect]:
    """Suspects, one after the other.

    Args:
        suspects: rows of SUSPECTS.
        details: COLUMNS of their rows in the parts, by plan position.
        views: by image id; one that is lacking was not to be drawn.
        focus: what is usual in each class.
        setup: names the classes.
        path: from image ids to files.
    """
    classes = {name: index for index, name in enumerate(setup.class_names)}
    for row in suspects:
        detail = details[row["index"]]
        yield Suspect(
            row=row,
            view=views[row["image_id"]],
            path=path(row["image_id"]) or row["image_id"],
            details=detail,
            probabilities=list(_probabilities(row, detail, setup.class_names)),
            focus=list(_measured(detail, classes[row["pred"]], focus)),
        )


def entry(row: Row, detail: Row) -> list[Any]:
    """What the page knows of every suspect, to sort, filter and decide by (ENTRY, and reasons)."""
    values = row | {name: detail[name] for name in PICTURE}
    return [*(values[name] for name in ENTRY), " ".join(row["reasons"] or [])]


def _probabilities(row: Row, detail: Row, names: list[str]) -> Iterator[Probability]:
    """The most probable classes, and the label where it is none of them."""
    shown = set()
    pairs = zip(detail["top_index"] or [], detail["top_prob"] or [], strict=True)
    for index, prob in pairs:
        if index is not None and prob is not None:
            shown.add(names[index])
            yield Probability(names[index], float(prob), names[index] == row["label"])
    if row["label"] is not None and row["label"] not in shown and detail["label_prob"] is not None:
        yield Probability(row["label"], float(detail["label_prob"]), given=True)


def _measured(detail: Row, class_index: int, focus: FocusSample) -> Iterator[Measured]:
    sample, quantiles = focus.of_class(class_index), focus.quantiles(class_index)
    for column, name in enumerate(STATISTICS):
        usual, value = known(quantiles[column]), detail[name]
        if usual is not None and value is not None:
            others = sample[:, column][~np.isnan(sample[:, column])]
            yield Measured(name, float(value), usual, float(np.mean(others < value)))
