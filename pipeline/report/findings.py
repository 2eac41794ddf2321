"""The section of findings, and a page for each finding with the images that have its cue."""

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

MAX_SHOWN = 20
"""Largest number of findings on the first page; the others have their own pages only."""
MAX_EXAMPLES = 8
MAX_REJECTED = 50
"""Largest number of candidates that are shown although they are not claimed."""
N_AVERAGED = 32
"""Number of images whose mean is shown for a class."""


@dataclass(frozen=True)
class Member:
    """An image with the cue, and the reliance of its prediction; None if it was not measured."""

    index: int
    image_id: str
    reliance: float | None


@dataclass(frozen=True)
class InterventionView:
    """A row of INTERVENTIONS, with pictures of the image before and after the intervention."""

    row: Row
    before: PictureFile
    after: PictureFile


@dataclass(frozen=True)
class FindingView:
    """A finding as the report shows it; members are sorted by reliance in descending order."""

    row: Row
    page: str
    members: list[Member]
    examples: list[Member]
    chart: PictureFile | None = None
    chart_words: str = ""
    mean: ImageView | None = None
    interventions: Sequence[InterventionView] = ()

    @property
    def worst_group(self) -> str | None:
        """The group of images with the lowest accuracy; None where no accuracy is known."""
        known = [each for each in self.row.get("groups") or [] if each["accuracy"] is not None]
        if not known:
            return None
        return str(min(known, key=lambda each: each["accuracy"])["group"])


def list_findings(findings: Sequence[Row], members: pa.Table) -> list[FindingView]:
    """Make the views of all findings, without pictures, in the order of the table.

    Args:
        findings: rows of FINDINGS.
        members: table of MEMBERS.
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
        cards.append(FindingView(row, f"findings/{number}.html", own, shown[:MAX_EXAMPLES]))
    return cards


def draw_findings(
    cards: Sequence[FindingView],
    images: ReportImages,
    interventions: Sequence[Row],
    focus: FocusSample,
    classes: dict[str, Row],
    ids: dict[int, str],
) -> list[FindingView]:
    """Add charts, mean images and interventions to the views of findings.

    Args:
        cards: the result of `list_findings`.
        images: draws the pictures.
        interventions: rows of INTERVENTIONS.
        focus: the sample from which the images of a class are taken.
        classes: rows of classes.parquet by name.
        ids: image ids by position in the plan, of N_AVERAGED images of each finding's class.
    """
    shown = {card.row["finding_id"] for card in cards}
    of_finding: dict[str, list[InterventionView]] = {}
    for number, row in enumerate(interventions):
        if row["finding_id"] in shown:
            both = images.intervention(number, row)
            of_finding.setdefault(row["finding_id"], []).append(InterventionView(row, *both))
    means: dict[str, ImageView] = {}
    for name in {
        card.row["class_name"]: None for card in cards if card.row["class_name"] in classes
    }:
        own = classes[name]
        index = focus.examples(own["class_index"], N_AVERAGED)
        rows = [{"index": i, "image_id": ids[i]} for i in index]
        means[name] = images.mean_view(own["class_index"], rows, own["heatmap"])
    return [
        replace(
            card,
            chart=_chart(card, images),
            chart_words=describe_effect(card.row),
            mean=means.get(card.row["class_name"]),
            interventions=of_finding.get(card.row["finding_id"], []),
        )
        for card in cards
    ]


def _chart(card: FindingView, images: ReportImages) -> PictureFile | None:
    if card.row["effect"] is None or card.row["control"] is None:
        return None
    return charts.effect(images.folder, f"finding-{Path(card.page).stem}", card.row)


def list_rejected(trials: Sequence[Row]) -> list[Row]:
    """The strongest intervention on each candidate that is not claimed, by falling gain.

    Args:
        trials: rows of TRIALS.

    Returns:
        At most MAX_REJECTED rows.
    """
    strongest: dict[str, Row] = {}
    for row in trials:
        if row["verdict"] is None:
            known = strongest.setdefault(row["candidate_id"], row)
            if _gain(row) > _gain(known):
                strongest[row["candidate_id"]] = row
    return sorted(strongest.values(), key=lambda row: -_gain(row))[:MAX_REJECTED]


def _gain(row: Row) -> float:
    if row["effect"] is None or row["control"] is None:
        return -1.0
    return float(row["effect"] - row["control"])


def describe_effect(row: Row) -> str:
    """Describe the effect of a finding, its control and the interval in a sentence."""
    if row["effect"] is None or row["control"] is None:
        return ""
    words = (
        f"Adding the cue flips {percent(row['effect'])} of the images of other classes to this "
        f"class, the control flips {percent(row['control'])}; the difference is "
        f"{percent(row['effect'] - row['control'])}"
    )
    if row["ci_low"] is None or row["ci_high"] is None:
        return f"{words}."
    return f"{words}, 95% interval {percent(row['ci_low'])} to {percent(row['ci_high'])}."
