"""Changes against a baseline: what is new, gone, worse and better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report import charts
from pipeline.report.images import PictureFile
from pipeline.report.words import percent, plural
from pipeline.storage.schema import Row

MOST = 100
"""Changes of one sort that are listed."""
CHARTED = 20
"""Classes in the chart."""


@dataclass(frozen=True)
class Group:
    """Changes of one sort, the first of them, and how many there are."""

    subject: str
    change: str
    rows: Sequence[Row]
    number: int


@dataclass(frozen=True)
class Changes:
    """All that changed against the run in the folder `baseline`."""

    baseline: str
    accuracy: Row | None
    groups: list[Group]
    chart: PictureFile | None = None
    chart_words: str = ""

    @property
    def verdict(self) -> str:
        """What changed in one line."""
        told = [
            f"{plural(group.number, f'{group.change} {group.subject}')}" for group in self.groups
        ]
        return ", ".join(told) or "nothing changed"


def changes(table: pa.Table, baseline: str, folder: Path) -> Changes:
    """The section, from CHANGES, which may name millions of images."""
    told = table.filter(pc.field("change").is_valid() & (pc.field("subject") != "run"))
    kinds = told.select(["subject", "change"]).group_by(["subject", "change"], use_threads=False)
    groups = [_group(told, **kind) for kind in kinds.aggregate([]).to_pylist()]
    classes = table.filter(pc.field("subject") == "class").slice(0, CHARTED).to_pylist()
    accuracy = next(iter(table.filter(pc.field("subject") == "run").to_pylist()), None)
    if not classes:
        return Changes(baseline, accuracy, groups)
    words = [
        f"{row['key']} from {percent(row['before'])} to {percent(row['after'])}" for row in classes
    ]
    chart = charts.accuracies(folder, "accuracies", classes)
    return Changes(baseline, accuracy, groups, chart, f"Accuracy of classes: {'; '.join(words)}.")


def _group(table: pa.Table, subject: str, change: str) -> Group:
    own = table.filter((pc.field("subject") == subject) & (pc.field("change") == change))
    return Group(subject, change, own.slice(0, MOST).to_pylist(), own.num_rows)
