"""report: the tables of a run as one static page with pictures."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from pipeline import pictures, store
from pipeline.config import Config
from pipeline.errors import AuditError, DataError
from pipeline.model.preprocess import Preprocess
from pipeline.ops import Journal, versions
from pipeline.pictures import Rgb
from pipeline.report import page
from pipeline.report.page import Report
from pipeline.report.studio import Studio
from pipeline.schema import Setup
from pipeline.sources import open_source
from pipeline.store import RunFolder

log = logging.getLogger(__name__)

Reliance = dict[tuple[str, str], float | None]

ERRORS = 200
"""Error rows that are listed by name."""
REASONS = 20
"""Different error texts that are counted each."""


def run(config: Config, journal: Journal) -> None:
    """Write report/index.html with its pictures; an earlier report stays until it is done.

    Raises:
        ConfigError: an unknown colour map.
        NotFinished: where explain, discover, verify or rank have not run.
    """
    pictures.colormap_code(config.report.colormap)
    folder = RunFolder(config.folder)
    setup = store.read_plan(folder).setup
    rows = store.rows(folder, setup)
    findings = store.read(folder.analysis("findings")).to_pylist()
    suspects = store.read(folder.analysis("suspects"))
    classes = store.read(folder.analysis("classes"))
    candidates = store.read(folder.analysis("candidates"), ["candidate_id"])
    reasons, errors = _errors(rows)
    n_errors = sum(reasons.values())
    with replacing(folder.report) as draft:
        studio = Studio(draft, config.report, setup.grid, seer(config, setup))
        shown = suspects.slice(0, config.report.suspects).to_pylist()
        _draw(rows, shown, findings, _reliance(folder, findings), studio)
        report = Report(
            run_id=config.run_id,
            date=f"{datetime.fromisoformat(journal.attempt.started):%Y-%m-%d %H:%M %Z}",
            counts={"planned": setup.n_images, "ok": setup.n_images - n_errors, "error": n_errors},
            accuracy=_accuracy(classes),
            warnings=journal.warnings,
            tried=_tried(config, setup, candidates.num_rows, journal),
            findings=findings,
            suspects=shown,
            n_suspects=suspects.num_rows,
            classes=_classes(classes, studio),
            reasons=reasons.most_common(REASONS),
            errors=errors,
            facts=_facts(config, setup, journal),
            seconds=_seconds(journal),
            versions=versions(),
            legend=studio.legend(),
        )
        page.write(draft, report)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, put in the place of `folder` at the end unless something is raised."""
    draft, old = (folder.with_name(f".{folder.name}.{name}") for name in ("draft", "old"))
    shutil.rmtree(draft, ignore_errors=True)  # of an attempt that was killed
    draft.mkdir()
    try:
        yield draft
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def seer(config: Config, setup: Setup) -> Callable[[int, str], Rgb]:
    """A function from an image's plan position and id to what the model saw, (H, W, 3) uint8 RGB.

    It raises for an image that cannot be read now, whatever the dataset raises.
    """
    try:
        source = open_source(config.dataset, config.data.max_pixels)
    except AuditError as error:
        log.warning("the report has no pictures: %s", error)
        gone = error

        def fail(_index: int, _image_id: str) -> Rgb:
            raise gone

        return fail
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value  # JSON knows no tuples
        for key, value in setup.preprocess.items()
    }
    preprocess = Preprocess(**values)

    def see(index: int, image_id: str) -> Rgb:
        if source.image_ids[index : index + 1] != [image_id]:
            raise DataError("the dataset has changed since it was audited")
        fitted = preprocess.colours(preprocess.fit(source.read(index).pixels)[None])[0]
        return np.ascontiguousarray(fitted.expand(3, -1, -1).permute(1, 2, 0).numpy())

    return see


def _reliance(folder: RunFolder, findings: list[dict[str, Any]]) -> Reliance:
    """How far the prediction for an example rests on its finding, where that was measured."""
    shown = [image_id for finding in findings for image_id in finding["example_ids"]]
    members = store.read(folder.analysis("members"), ["finding_id", "image_id", "reliance"])
    members = members.filter(pc.is_in(members["image_id"], pa.array(shown, pa.string())))
    return {(m["finding_id"], m["image_id"]): m["reliance"] for m in members.to_pylist()}


def _draw(
    rows: ds.Dataset,
    suspects: list[dict[str, Any]],
    findings: list[dict[str, Any]],
    reliance: Reliance,
    studio: Studio,
) -> None:
    """Draw every image that is shown, once, and add the views to the rows that show it."""
    ids = {suspect["image_id"] for suspect in suspects}
    ids.update(image_id for finding in findings for image_id in finding["example_ids"])
    columns = ["index", "image_id", "heatmap", "heatmap_label"]
    wanted = ds.field("image_id").isin(pa.array(sorted(ids), pa.string()))
    drawn = rows.to_table(columns=columns, filter=wanted)
    log.info("drawing %d images", drawn.num_rows)
    views = {row["image_id"]: studio.view(row) for row in drawn.to_pylist()}
    for suspect in suspects:
        suspect["view"] = views[suspect["image_id"]]
    for finding in findings:
        finding["views"] = [
            (views[image_id], reliance.get((finding["finding_id"], image_id)))
            for image_id in finding["example_ids"]
        ]


def _classes(table: pa.Table, studio: Studio) -> list[dict[str, Any]]:
    """Rows of the classes, the least accurate first, with their mean heatmaps drawn."""
    names = ["class_index", "class_name", "n_label", "n_pred", "accuracy", "precision"]
    names += ["confidence", "dead_maps", "focus_area50", "focus_border", "heatmap"]
    order = [("accuracy", "ascending"), ("class_index", "ascending")]
    classes: list[dict[str, Any]] = table.select(names).sort_by(order).to_pylist()
    for row in classes:
        row["picture"] = studio.mean_map(row)
        del row["heatmap"]
    return classes


def _accuracy(classes: pa.Table) -> float | None:
    labelled = pc.sum(classes["n_label"]).as_py()
    return pc.sum(classes["n_correct"]).as_py() / labelled if labelled else None


def _errors(rows: ds.Dataset) -> tuple[Counter[str], list[tuple[str, str]]]:
    """How many images have each error text, and the first of them by name."""
    reasons, first = Counter[str](), list[tuple[str, str]]()
    wanted = ds.field("status") == "error"
    for batch in rows.to_batches(columns=["image_id", "error"], filter=wanted):
        texts = batch["error"].to_pylist()
        reasons.update(texts)
        missing = ERRORS - len(first)
        first += list(zip(batch["image_id"].to_pylist(), texts, strict=True))[:missing]
    return reasons, first


def _tried(config: Config, setup: Setup, n_candidates: int, journal: Journal) -> str:
    """What was searched for shortcuts, in words, and how often such a search is wrong."""
    limits = config.analysis
    expected = journal.verification.get("false_findings", "")
    return (
        f"Up to {limits.sample_per_class:,} images of each of {len(setup.class_names):,} classes "
        f"were compared; {page.plural(n_candidates, 'candidate')} went on to the test by "
        f"intervention, where a shortcut must change {100 * limits.min_effect:g}% of the pictures "
        "more than its control does, and more than the same intervention does for other classes, "
        f"at a false discovery rate of {100 * limits.fdr:g}%."
    ) + (f" {expected[0].upper()}{expected[1:]}." if expected else "")


def _facts(config: Config, setup: Setup, journal: Journal) -> dict[str, str]:
    """How the audit was made, from what the plan holds: name and value."""
    settings, decided = setup.settings, setup.decided
    model = settings.get("model.name") or settings.get("model.factory")
    dataset = [settings.get(f"dataset.{key}") for key in ("name", "path", "root", "factory")]
    speeds = [a["images_per_second"] for a in (*journal.attempts, asdict(journal.attempt))]
    speed = next((value for value in reversed(speeds) if value), None)
    height, width = setup.preprocess["crop"]
    return {
        "Dataset": ", ".join([settings["dataset.kind"], *(str(d) for d in dataset if d)]),
        "Model": f"{settings['model.kind']}, {model}",
        "Checkpoint": settings.get("model.checkpoint") or "the model's own weights",
        "Target layer": str(decided["model.target_layer"]),
        "Method": str(settings["cam.method"]),
        "Model input": f"{width} × {height} pixels",
        "Heatmap grid": f"{setup.grid[1]} × {setup.grid[0]} cells",
        "Device": str(decided["device"]),
        "Batch size": str(decided["loader.batch_size"]),
        "Images per second": page.NONE if speed is None else f"{speed:,.1f}",
        "Seed": str(config.seed),
    }


def _seconds(journal: Journal) -> dict[str, float]:
    """Seconds per stage, over all attempts at the run."""
    total = Counter[str]()
    for attempt in (*journal.attempts, asdict(journal.attempt)):
        total.update(attempt["seconds"])
    return dict(total)
