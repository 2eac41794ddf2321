"""Findings: what the model relies on that it should not, one card each, and its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from pipeline.report import charts
from pipeline.report.aggregates import FocusSample
from pipeline.report.images import ImageView, PictureFile, ReportImages
from pipeline.report.words import percent
from pipeline.storage.schema import Row

CARDS = 20
"""Findings that are shown on the first page; the others have pages of their own only."""
EXAMPLES = 8
MEAN_OF = 32
"""Images that a class's mean picture is made of."""


@dataclass(frozen=True)
class Member:
    """An image that carries the cue, and how far its prediction rests on it, where tried."""

    index: int
    image_id: str
    reliance: float | None


@dataclass(frozen=True)
class InterventionView:
    """A picture before and after, and what the model said (a row of INTERVENTIONS)."""

    row: Row
    before: PictureFile
    after: PictureFile


@dataclass(frozen=True)
class Card:
    """A finding as it is shown: its row and all that is drawn of it; members by reliance."""

    row: Row
    page: str
    members: list[Member]
    examples: list[Member]
    chart: PictureFile | None = None
    chart_words: str = ""
    mean: ImageView | None = None
    interventions: Sequence[InterventionView] = ()


def plain(findings: Sequence[Row], members: pa.Table) -> list[Card]:
    """Cards without anything drawn, in the order of the table.

    Args:
        findings: rows of FINDINGS.
        members: MEMBERS.
    """
    by_finding: dict[str, list[Member]] = {row["finding_id"]: [] for row in findings}
    for row in members.to_pylist():
        member = Member(row["index"], row["image_id"], row["reliance"])
        by_finding.get(row["finding_id"], []).append(member)
    cards = []
    for number, row in enumerate(findings, 1):
        own = sorted(
            by_finding[row["finding_id"]],
            key=lambda member: (-1 if member.reliance is None else -member.reliance, member.index),
        )
        known = {member.image_id: member for member in own}
        shown = [known[name] for name in row["example_ids"] or [] if name in known]
        cards.append(Card(row, f"findings/{number}.html", own, shown[:EXAMPLES]))
    return cards


def drawn(
    cards: Sequence[Card],
    studio: ReportImages,
    interventions: Sequence[Row],
    focus: FocusSample,
    classes: dict[str, Row],
    ids: dict[int, str],
) -> list[Card]:
    """Cards with charts, mean pictures and interventions.

    Args:
        cards: as `plain`.
        studio: where to draw.
        interventions: rows of INTERVENTIONS.
        focus: which images a class has.
        classes: rows of classes.parquet by name.
        ids: image ids by plan position, of MEAN_OF images of each finding's class.
    """
    shown = {card.row["finding_id"] for card in cards}
    of_finding: dict[str, list[InterventionView]] = {}
    for number, row in enumerate(interventions):
        if row["finding_id"] in shown:
            both = studio.intervention(number, row)
            of_finding.setdefault(row["finding_id"], []).append(InterventionView(row, *both))
    means: dict[str, ImageView] = {}
    for name in {
        card.row["class_name"]: None for card in cards if card.row["class_name"] in classes
    }:
        own = classes[name]
        index = focus.some(own["class_index"], MEAN_OF)
        rows = [{"index": i, "image_id": ids[i]} for i in index]
        means[name] = studio.mean_view(own["class_index"], rows, own["heatmap"])
    return [
        replace(
            card,
            chart=_chart(card, studio),
            chart_words=in_words(card.row),
            mean=means.get(card.row["class_name"]),
            interventions=of_finding.get(card.row["finding_id"], []),
        )
        for card in cards
    ]


def _chart(card: Card, studio: ReportImages) -> PictureFile | None:
    if card.row["effect"] is None or card.row["control"] is None:
        return None
    return charts.effect(studio.folder, f"finding-{Path(card.page).stem}", card.row)


def in_words(row: Row) -> str:
    """The effect of a finding, its control and the interval, as a sentence."""
    if row["effect"] is None or row["control"] is None:
        return ""
    words = (
        f"With the cue {percent(row['effect'])} of other classes' pictures turn into this class, "
        f"with the control {percent(row['control'])}; the difference is "
        f"{percent(row['effect'] - row['control'])}"
    )
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{words}."
    return f"{words}, 95% interval {percent(row['ci_low'])} to {percent(row['ci_high'])}."
