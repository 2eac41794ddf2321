"""Warnings about the audit itself: each is given where it is due, and not where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from helpers.setups import resolved
from pipeline.config import Config
from pipeline.errors import DataError
from pipeline.run import checks
from pipeline.run.state import Journal
from pipeline.storage import run_folder
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import part_schema, plan_schema

GRID = (4, 4)
Review = Callable[[list[dict[str, Any]]], Journal]


@pytest.fixture
def review(configure: Callable[..., Config]) -> Review:
    """Review a run of the given rows."""

    def go(rows: list[dict[str, Any]]) -> Journal:
        config = configure("dataset.root=x", "model.name=x")
        run = RunFolder(config.folder)
        setup = Setup("f", {}, resolved(1), ["cat", "dog"], GRID, 2, {}, len(rows), len(rows))
        full = [
            {"index": i, "image_id": str(i), "shard": 0, "status": "ok", **row}
            for i, row in enumerate(rows)
        ]
        run_folder.write_plan(run, Plan(pa.Table.from_pylist(full, plan_schema()), setup))
        run_folder.commit_part(run, setup, 0, pa.Table.from_pylist(full, part_schema(GRID, 2)))
        journal = Journal(config)
        checks.review(run, setup, journal)
        return journal

    return go


def row(label: int | None, pred: int, x: float = 0.375, peak: float = 1.0) -> dict[str, Any]:
    """A row with a label, a prediction, and the place of the peak on the diagonal."""
    return {"label_index": label, "pred_index": pred, "heatmap_max": peak, "focus_peak_x": x,
            "focus_peak_y": x}  # fmt: skip


def test_a_sound_run_is_counted_without_warnings(review: Review) -> None:
    rows = [row(i % 2, i % 2) for i in range(40)] + [row(0, 1), row(None, 1)]
    journal = review([*rows, {"status": "error", "error": "empty file"}])
    assert journal.counts == {"planned": 43, "ok": 42, "error": 1, "labelled": 41, "correct": 40}
    assert journal.warnings == []


def test_empty_maps_are_told(review: Review) -> None:
    (warning,) = review([row(None, 0, peak=0.0)] * 6 + [row(None, 0)] * 4).warnings
    assert warning.startswith("60% of the heatmaps are empty")


def test_a_constant_corner_is_told(review: Review) -> None:
    (warning,) = review([row(None, 0, x=0.125)] * 6 + [row(None, 0)] * 4).warnings
    assert warning.startswith("60% of the heatmaps peak in the same corner")
    assert review([row(None, 0, x=0.125)] * 3 + [row(None, 0, x=0.875)] * 3).warnings == []


def test_accuracy_at_chance_is_told(review: Review) -> None:
    (warning,) = review([row(i % 2, i // 2 % 2) for i in range(80)]).warnings
    assert warning.startswith("accuracy is 50.0%, no better")


def test_a_run_of_errors_is_told(review: Review) -> None:
    assert review([{"status": "error"}]).warnings == ["no image could be explained"]


@pytest.mark.parametrize(("errors", "ends"), [(5, False), (6, True)])
def test_too_many_errors_end_the_run(
    configure: Callable[..., Config], errors: int, ends: bool, tmp_path: Path
) -> None:
    config = configure("dataset.root=x", "model.name=x", "data.max_error_rate=0.05")
    journal = Journal(config)
    journal.counts = {"planned": 100, "ok": 100 - errors, "error": errors}
    if not ends:
        checks.check_errors(config, journal)
        return
    with pytest.raises(DataError, match="6 of 100 images"):
        checks.check_errors(config, journal)
