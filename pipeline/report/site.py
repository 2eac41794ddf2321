"""The site: everything that is shown, drawn once and written page by page."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipeline.analysis.ranking.decisions import PICTURE
from pipeline.config import Config
from pipeline.report import changes, classes, findings, overview, suspects
from pipeline.report.aggregates import Aggregates, FocusSample
from pipeline.report.classes import ClassView
from pipeline.report.exports import FORMATS, Review
from pipeline.report.findings import Card
from pipeline.report.images import MAPS, ImageView, ReportImages
from pipeline.report.overview import RunFacts
from pipeline.report.page import Pages
from pipeline.report.suspects import Suspect
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import Row

log = logging.getLogger(__name__)

PER_CLASS = 8
"""Examples on the page of a class, where report.examples suffices for so many of each."""
EXPORTED = ("csv", "label-studio", "spotlight")
DRAWN = ["index", "image_id", *MAPS.values()]
"""Columns of the parts that pictures are drawn from."""
AT_ONCE = 1024
"""Rows with heatmaps that are Python lists at a time."""


@dataclass(frozen=True)
class ReportTables:
    """What the stages before have left."""

    setup: Setup
    rows: Rows
    findings: list[Row]
    members: pa.Table
    interventions: list[Row]
    suspects: pa.Table
    classes: list[Row]
    decisions: list[Row]
    n_candidates: int


@dataclass(frozen=True)
class Shown:
    """What was drawn: views by image id, findings, classes with plan positions of their examples,
    the suspects with pictures, and what the rows of the parts say of all suspects.
    """

    views: dict[str, ImageView]
    cards: list[Card]
    classes: list[ClassView]
    examples: dict[int, list[int]]
    suspects: list[Suspect]
    details: dict[int, Row]


@dataclass(frozen=True)
class Site:
    """All files of a report, drawn and written into the folder of the studio and the pages."""

    config: Config
    tables: ReportTables
    focus: FocusSample
    studio: ReportImages
    pages: Pages

    def write(
        self, told: RunFacts, survey: Aggregates, changed: tuple[pa.Table, str] | None
    ) -> None:
        """Draw and write everything.

        Args:
            told: by the run itself.
            survey: of its rows.
            changed: CHANGES and the folder of the baseline.

        Raises:
            OSError: disk full, folder gone.
        """
        review, shown = self._review(), self._drawn(survey)
        common: dict[str, object] = {
            "run_id": self.config.run_id,
            "legend": self.studio.legend(),
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
        self._write_index(told, survey, changed, shown, common)
        self.pages.write_assets(self.config.report.alpha)

    def _review(self) -> Review:
        """The suspects for other tools, with the pictures that are drawn here."""
        folder, tables = self.studio.folder, self.tables

        def drawn(index: int, _image_id: str) -> bytes | None:
            path = folder / "pictures" / f"{index}.webp"
            return path.read_bytes() if path.is_file() else None

        return Review(self.config.run_id, tables.setup, tables.suspects, tables.rows, drawn)

    def _drawn(self, survey: Aggregates) -> Shown:
        ranked = self.tables.suspects.to_pylist()
        first = ranked[: self.config.report.suspects]
        cards = findings.plain(self.tables.findings, self.tables.members)
        examples = self._examples()
        views = self._views(first, cards[: findings.CARDS], examples)
        details = self._details(ranked, first)
        about = (details, views, self.focus, self.tables.setup, self._review().file)
        return Shown(
            views=views,
            cards=[*self._cards(cards[: findings.CARDS]), *cards[findings.CARDS :]],
            classes=classes.views(self.tables.classes, survey, self.focus, self.studio),
            examples=examples,
            suspects=list(suspects.gathered(first, *about)),
            details=details,
        )

    def _examples(self) -> dict[int, list[int]]:
        """Plan positions of examples of each class, as many as report.examples allows."""
        n_classes = len(self.tables.setup.class_names)
        each = min(PER_CLASS, self.config.report.examples // n_classes)
        return {index: self.focus.some(index, each) for index in range(n_classes)}

    def _views(
        self, first: list[Row], cards: list[Card], examples: dict[int, list[int]]
    ) -> dict[str, ImageView]:
        """Every image that is shown anywhere, drawn once."""
        index = {row["index"] for row in first}
        index.update(member.index for card in cards for member in card.examples)
        index.update(each for some in examples.values() for each in some)
        log.info("drawing %d images", len(index))
        wanted = np.array(sorted(index), np.int64)
        drawn: dict[str, ImageView] = {}
        for start in range(0, len(wanted), AT_ONCE):
            rows = self.tables.rows.at(wanted[start : start + AT_ONCE], DRAWN)
            drawn |= self.studio.views(rows.to_pylist())
        return drawn

    def _cards(self, cards: list[Card]) -> list[Card]:
        by_name = {row["class_name"]: row for row in self.tables.classes}
        needed = {by_name[card.row["class_name"]]["class_index"] for card in cards}
        ids = self._ids(i for own in needed for i in self.focus.some(own, findings.MEAN_OF))
        shown = self.tables.interventions
        return findings.drawn(cards, self.studio, shown, self.focus, by_name, ids)

    def _ids(self, index: Iterable[int]) -> dict[int, str]:
        """Image ids by plan position."""
        wanted = np.array(sorted(set(index)), np.int64)
        if not len(wanted):
            return {}
        rows = self.tables.rows.at(wanted, ["index", "image_id"])
        return dict(zip(rows["index"].to_pylist(), rows["image_id"].to_pylist(), strict=True))

    def _details(self, ranked: list[Row], first: list[Row]) -> dict[int, Row]:
        """What the rows of the parts say of suspects, by plan position; more of those shown."""
        found: dict[int, Row] = {}
        for rows, columns in ((ranked, ["index", *PICTURE]), (first, suspects.COLUMNS)):
            index = np.array([row["index"] for row in rows], np.int64)
            table = self.tables.rows.at(index, columns)
            found |= {row["index"]: row for row in table.to_pylist()}
        return found

    def _write_suspects(self, shown: Shown, common: dict[str, object]) -> None:
        """The list of all suspects, the cards and details of those drawn, earlier decisions."""
        entries = [
            suspects.entry(row, shown.details[row["index"]])
            for row in self.tables.suspects.to_pylist()
        ]
        for number, start in enumerate(range(0, len(entries), suspects.ENTRIES)):
            self.pages.write_data(f"list-{number}", entries[start : start + suspects.ENTRIES])
        for number, start in enumerate(range(0, len(shown.suspects), suspects.CARDS)):
            rendered = [
                [
                    self.pages.rendered(template, suspect=suspect, up="", **common)
                    for template in ("card", "detail")
                ]
                for suspect in shown.suspects[start : start + suspects.CARDS]
            ]
            self.pages.write_data(f"cards-{number}", rendered)
        self.pages.write_data("decisions", self.tables.decisions)

    def _write_classes(self, shown: Shown, common: dict[str, object]) -> None:
        of_class: dict[str, list[Suspect]] = {}
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
            form.write(review, self.studio.folder / "exports" / str(form.file), **look)

    def _write_index(
        self,
        told: RunFacts,
        survey: Aggregates,
        changed: tuple[pa.Table, str] | None,
        shown: Shown,
        common: dict[str, object],
    ) -> None:
        folder, tables = self.studio.folder, self.tables
        reviewed = tables.suspects["decision"].null_count
        self.pages.write(
            "index.html",
            "index",
            **common,
            overview=overview.overview(
                told, tables.setup, survey, tables.findings, tables.suspects.num_rows, folder
            ),
            n_open=reviewed,
            tried=self._tried(),
            n_cards=findings.CARDS,
            n_suspects=tables.suspects.num_rows,
            n_drawn=len(shown.suspects),
            first=shown.suspects[: suspects.FIRST],
            per_list=suspects.ENTRIES,
            per_cards=suspects.CARDS,
            run_key=f"{self.config.run_id} {tables.setup.fingerprint}",
            decisions=Counter(row["state"] for row in tables.decisions),
            classes=shown.classes[: classes.IN_TABLE],
            n_classes=len(shown.classes),
            matrix=classes.matrix(tables.classes, survey, folder),
            reasons=survey.reasons.most_common(),
            errors=survey.errors,
            changes=changes.changes(*changed, folder) if changed else None,
            exports=[FORMATS[name] for name in EXPORTED],
        )

    def _tried(self) -> str:
        """What was searched for shortcuts, in words."""
        limits, n_classes = self.config.analysis, len(self.tables.setup.class_names)
        return (
            f"Up to {limits.sample_per_class:,} images of each of {n_classes:,} classes were "
            f"compared; {self.tables.n_candidates:,} candidates went on to the test by "
            f"intervention, where a shortcut must change {100 * limits.min_effect:g}% of the "
            "pictures more than its control does, and more than the same intervention does for "
            f"other classes, at a false discovery rate of {100 * limits.fdr:g}%."
        )
