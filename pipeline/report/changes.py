"""Changes against a baseline: what is new, gone, worse and better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.report import charts
from pipeline.report.studio import Image
from pipeline.report.words import percent, plural

Row = dict[str, Any]

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
    chart: Image | None = None
    chart_words: str = ""

    @property
    def verdict(self) -> str:
        """What changed in one line."""
        told = [
            f"{plural(group.number, f'{group.change} {group.subject}')}" for group in self.groups
        ]
        return ", ".join(told) or "nothing changed"


def changes(rows: Sequence[Row], baseline: str, folder: Path) -> Changes:
    """The section, from rows of CHANGES."""
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["subject"] != "run" and row["change"] is not None:
            grouped.setdefault((row["subject"], row["change"]), []).append(row)
    groups = [
        Group(subject, change, own[:MOST], len(own)) for (subject, change), own in grouped.items()
    ]
    classes = [row for row in rows if row["subject"] == "class"][:CHARTED]
    accuracy = next((row for row in rows if row["subject"] == "run"), None)
    if not classes:
        return Changes(baseline, accuracy, groups)
    told = [
        f"{row['key']} from {percent(row['before'])} to {percent(row['after'])}" for row in classes
    ]
    chart = charts.accuracies(folder, "accuracies", classes)
    return Changes(baseline, accuracy, groups, chart, f"Accuracy of classes: {'; '.join(told)}.")
