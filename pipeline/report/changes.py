"""The section of changes against a baseline run."""

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

MAX_LISTED = 100
"""Largest number of changes of one kind that are listed."""
MAX_CHARTED = 20
"""Largest number of classes in the chart."""


@dataclass(frozen=True)
class ChangeGroup:
    """The changes of one kind: the first MAX_LISTED rows, and the number of all."""

    subject: str
    change: str
    rows: Sequence[Row]
    number: int


@dataclass(frozen=True)
class ChangesSection:
    """The changes since the run in the folder `baseline`."""

    baseline: str
    accuracy: Row | None
    groups: list[ChangeGroup]
    chart: PictureFile | None = None
    chart_words: str = ""

    @property
    def verdict(self) -> str:
        """The numbers of changes in one line."""
        counts = [
            f"{plural(group.number, f'{group.change} {group.subject}')}" for group in self.groups
        ]
        return ", ".join(counts) or "nothing changed"


def changes_section(table: pa.Table, baseline: str, folder: Path) -> ChangesSection:
    """Make the section from CHANGES, which may list millions of images."""
    changed = table.filter(pc.field("change").is_valid() & (pc.field("subject") != "run"))
    kinds = changed.select(["subject", "change"]).group_by(["subject", "change"], use_threads=False)
    groups = [_group(changed, **kind) for kind in kinds.aggregate([]).to_pylist()]
    classes = table.filter(pc.field("subject") == "class").slice(0, MAX_CHARTED).to_pylist()
    accuracy = next(iter(table.filter(pc.field("subject") == "run").to_pylist()), None)
    if not classes:
        return ChangesSection(baseline, accuracy, groups)
    words = [
        f"{row['key']} from {percent(row['before'])} to {percent(row['after'])}" for row in classes
    ]
    chart = charts.accuracies(folder, "accuracies", classes)
    chart_words = f"Accuracy of classes: {'; '.join(words)}."
    return ChangesSection(baseline, accuracy, groups, chart, chart_words)


def _group(table: pa.Table, subject: str, change: str) -> ChangeGroup:
    own = table.filter((pc.field("subject") == subject) & (pc.field("change") == change))
    return ChangeGroup(subject, change, own.slice(0, MAX_LISTED).to_pylist(), own.num_rows)
