"""Draw everything that the report shows, and write its pages."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.analysis.ranking.decisions import IMAGE_COLUMNS
from pipeline.analysis.shortcuts.divisions import MIN_GROUP, MIN_GROUP_OF_FEW, MIN_SHARE
from pipeline.config import Config
from pipeline.report import changes, classes, findings, overview, suspects
from pipeline.report.aggregates import FocusSample, Totals
from pipeline.report.classes import ClassView
from pipeline.report.exports import FORMATS, Review
from pipeline.report.findings import FindingView
from pipeline.report.images import MAPS, ImageView, ReportImages
from pipeline.report.overview import RunFacts
from pipeline.report.page import Pages
from pipeline.report.suspects import SuspectView
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import Row

log = logging.getLogger(__name__)

EXAMPLES_PER_CLASS = 8
"""Largest number of examples on the page of a class; report.examples limits their total."""
EXPORTED = ("csv", "label-studio", "spotlight")
DRAWN_COLUMNS = ["index", "image_id", *MAPS.values()]
"""Columns of the parts from which images are drawn."""
BATCH = 1024
"""Number of rows with heatmaps that are Python lists at a time."""


@dataclass(frozen=True)
class ReportTables:
    """The tables of a run that the report shows."""

    setup: Setup
    rows: Rows
    findings: list[Row]
    members: pa.Table
    interventions: list[Row]
    suspects: pa.Table
    classes: list[Row]
    decisions: list[Row]
    n_candidates: int
    trials: list[Row]


@dataclass(frozen=True)
class DrawnReport:
    """Everything that the pages show.

    Attributes:
        views: drawn images by image id.
        cards: all findings.
        classes: all classes.
        examples: positions in the plan of examples, by class index.
        suspects: the suspects with pictures.
        details: rows of the parts of all suspects, by position in the plan.
    """

    views: dict[str, ImageView]
    cards: list[FindingView]
    classes: list[ClassView]
    examples: dict[int, list[int]]
    suspects: list[SuspectView]
    details: dict[int, Row]


@dataclass(frozen=True)
class Site:
    """Draws and writes all files of a report."""

    config: Config
    tables: ReportTables
    focus: FocusSample
    images: ReportImages
    pages: Pages

    def write(self, run: RunFacts, totals: Totals, changed: tuple[pa.Table, str] | None) -> None:
        """Draw and write everything.

        Args:
            run: facts about the run.
            totals: totals over all rows.
            changed: CHANGES and the folder of the baseline; None without a baseline.

        Raises:
            OSError: the disk is full, or the folder is gone.
        """
        review, shown = self._review(), self._draw(totals)
        common: dict[str, object] = {
            "run_id": self.config.run_id,
            "legend": self.images.legend(),
            "cards": shown.cards,
            "views": shown.views,
            "links": {each.row["class_name"]: each.page for each in shown.classes},
            "names": self.tables.setup.class_names,
        }
        self._write_suspects(shown, common)
        for card in shown.cards:
            self.pages.write(card.page, "finding_page", card=card, **common)
        self._write_classes(shown, common)
        self._export(review)
        self._write_index(run, totals, changed, shown, common)
        self.pages.write_assets(self.config.report.alpha)

    def _review(self) -> Review:
        """The suspects for the exports, with the pictures of the report."""
        folder, tables = self.images.folder, self.tables

        def encoded(index: int, _image_id: str) -> bytes | None:
            path = folder / "pictures" / f"{index}.webp"
            return path.read_bytes() if path.is_file() else None

        return Review(self.config.run_id, tables.setup, tables.suspects, tables.rows, encoded)

    def _draw(self, totals: Totals) -> DrawnReport:
        ranked = self.tables.suspects.to_pylist()
        first = ranked[: self.config.report.suspects]
        cards = findings.list_findings(self.tables.findings, self.tables.members)
        shown, others = cards[: findings.MAX_SHOWN], cards[findings.MAX_SHOWN :]
        examples = self._examples()
        views = self._views(first, shown, examples)
        details = self._details(ranked, first)
        path = self._review().file
        return DrawnReport(
            views=views,
            cards=[*self._draw_findings(shown), *others],
            classes=classes.class_views(self.tables.classes, totals, self.focus, self.images),
            examples=examples,
            suspects=list(
                suspects.suspect_views(first, details, views, self.focus, self.tables.setup, path)
            ),
            details=details,
        )

    def _examples(self) -> dict[int, list[int]]:
        """Positions in the plan of examples of each class, as many as report.examples allows."""
        n_classes = len(self.tables.setup.class_names)
        n_each = min(EXAMPLES_PER_CLASS, self.config.report.examples // n_classes)
        return {index: self.focus.examples(index, n_each) for index in range(n_classes)}

    def _views(
        self, first: list[Row], cards: list[FindingView], examples: dict[int, list[int]]
    ) -> dict[str, ImageView]:
        """Draw every image that is shown anywhere, once."""
        index = {row["index"] for row in first}
        index.update(member.index for card in cards for member in card.examples)
        index.update(each for some in examples.values() for each in some)
        log.info("drawing %d images", len(index))
        wanted = np.array(sorted(index), np.int64)
        drawn: dict[str, ImageView] = {}
        for start in range(0, len(wanted), BATCH):
            rows = self.tables.rows.at(wanted[start : start + BATCH], DRAWN_COLUMNS)
            drawn |= self.images.views(rows.to_pylist())
        return drawn

    def _draw_findings(self, cards: list[FindingView]) -> list[FindingView]:
        by_name = {row["class_name"]: row for row in self.tables.classes}
        needed = {by_name[card.row["class_name"]]["class_index"] for card in cards}
        ids = self._ids(i for own in needed for i in self.focus.examples(own, findings.N_AVERAGED))
        shown = self.tables.interventions
        return findings.draw_findings(cards, self.images, shown, self.focus, by_name, ids)

    def _ids(self, index: Iterable[int]) -> dict[int, str]:
        """Image ids by position in the plan."""
        wanted = np.array(sorted(set(index)), np.int64)
        if not len(wanted):
            return {}
        rows = self.tables.rows.at(wanted, ["index", "image_id"])
        return dict(zip(rows["index"].to_pylist(), rows["image_id"].to_pylist(), strict=True))

    def _details(self, ranked: list[Row], first: list[Row]) -> dict[int, Row]:
        """Rows of the parts by position in the plan: all columns of `first`, few of `ranked`."""
        found: dict[int, Row] = {}
        for rows, columns in ((ranked, ["index", *IMAGE_COLUMNS]), (first, suspects.COLUMNS)):
            index = np.array([row["index"] for row in rows], np.int64)
            table = self.tables.rows.at(index, columns)
            found |= {row["index"]: row for row in table.to_pylist()}
        return found

    def _write_suspects(self, shown: DrawnReport, common: dict[str, object]) -> None:
        """Write the list of all suspects, cards and details of those drawn, earlier decisions."""
        entries = [
            suspects.list_entry(row, shown.details[row["index"]])
            for row in self.tables.suspects.to_pylist()
        ]
        for number, start in enumerate(range(0, len(entries), suspects.PER_LIST_FILE)):
            self.pages.write_data(f"list-{number}", entries[start : start + suspects.PER_LIST_FILE])
        for number, start in enumerate(range(0, len(shown.suspects), suspects.PER_CARD_FILE)):
            rendered = [
                [
                    self.pages.render(template, suspect=suspect, up="", **common)
                    for template in ("card", "detail")
                ]
                for suspect in shown.suspects[start : start + suspects.PER_CARD_FILE]
            ]
            self.pages.write_data(f"cards-{number}", rendered)
        self.pages.write_data("decisions", self.tables.decisions)

    def _write_classes(self, shown: DrawnReport, common: dict[str, object]) -> None:
        of_class: dict[str, list[SuspectView]] = {}
        for suspect in shown.suspects:
            for name in {suspect.row["label"], suspect.row["pred"]}:
                of_class.setdefault(name, []).append(suspect)
        ids = self._ids(index for some in shown.examples.values() for index in some)
        self.pages.write("classes/index.html", "classes_page", classes=shown.classes, **common)
        for place, view in enumerate(shown.classes):
            name = view.row["class_name"]
            self.pages.write(
                view.page,
                "class_page",
                view=view,
                before=shown.classes[place - 1] if place else None,
                after=next(iter(shown.classes[place + 1 : place + 2]), None),
                examples=[ids[index] for index in shown.examples[view.row["class_index"]]],
                suspects=of_class.get(name, []),
                own=[card for card in shown.cards if card.row["class_name"] == name],
                **common,
            )

    def _export(self, review: Review) -> None:
        for name in EXPORTED:
            form = FORMATS[name]
            look = {"colormap": self.config.report.colormap} if name == "spotlight" else {}
            form.write(review, self.images.folder / "exports" / str(form.file), **look)

    def _write_index(
        self,
        run: RunFacts,
        totals: Totals,
        changed: tuple[pa.Table, str] | None,
        shown: DrawnReport,
        common: dict[str, object],
    ) -> None:
        folder, tables = self.images.folder, self.tables
        reviewed = tables.suspects["decision"].null_count
        self.pages.write(
            "index.html",
            "index",
            **common,
            overview=overview.overview_section(
                run, tables.setup, totals, tables.findings, tables.suspects.num_rows, folder
            ),
            n_open=reviewed,
            search=self._describe_search(),
            limits=self._describe_limits(),
            rejected=findings.list_rejected(tables.trials),
            n_cards=findings.MAX_SHOWN,
            n_suspects=tables.suspects.num_rows,
            n_drawn=len(shown.suspects),
            first=shown.suspects[: suspects.N_IN_PAGE],
            per_list=suspects.PER_LIST_FILE,
            per_cards=suspects.PER_CARD_FILE,
            run_key=f"{self.config.run_id} {tables.setup.fingerprint}",
            decisions=Counter(row["state"] for row in tables.decisions),
            classes=shown.classes[: classes.MAX_IN_TABLE],
            n_classes=len(shown.classes),
            matrix=classes.confusion_matrix(tables.classes, totals, folder),
            reasons=totals.reasons.most_common(),
            errors=totals.errors,
            changes=changes.changes_section(*changed, folder) if changed else None,
            exports=[FORMATS[name] for name in EXPORTED],
        )

    def _describe_search(self) -> str:
        """Describe in words how the run searched for shortcuts."""
        limits, n_classes = self.config.analysis, len(self.tables.setup.class_names)
        return (
            f"Up to {limits.sample_per_class:,} images of each of {n_classes:,} classes were "
            "divided by the concepts of the target layer and by their pixels, and "
            f"{self.tables.n_candidates:,} candidates were tested by intervention: content of an "
            "image with the possible cue, and of an image of the same class without it, was put "
            "into images of other classes. What surrounds the objects of a class was compared with "
            "that of other classes. "
            f"The cue of a shortcut must flip {100 * limits.min_effect:g}% more images than its "
            f"control flips, at a false discovery rate of {100 * limits.fdr:g}%."
        )

    def _describe_limits(self) -> str:
        """Describe in words which cues the search can find, and which it cannot."""
        limits = self.config.analysis
        return (
            f"A cue can be found only if at least {MIN_SHARE:.0%} of the images of its class have "
            f"it and at least {MIN_GROUP} sampled images ({MIN_GROUP_OF_FEW} in a class of few "
            f"images) lack it, and if adding it flips {limits.min_effect:.0%} of other images. Of "
            "the cues that all images of a class have, only those beside the object and traces of "
            "how the images were recorded are found. The absence of something, the size of the "
            "object, and a cue that flips images when it is removed but not when it is added, are "
            "not found."
        )
