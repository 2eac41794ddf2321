"""rank on a small store made by hand: scores, order, reasons, batches."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from helpers.setups import resolved
from pipeline.analysis.ranking.suspects import WEIGHTS
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.stages import rank
from pipeline.storage import parquet, run_folder, scan
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import FINDINGS, MEMBERS, SUSPECTS, part_schema, plan_schema
from pipeline.storage.values import SuspectKind

GRID = (2, 2)


def write_run(folder: Path, rows: list[dict[str, Any]], shard_size: int = 1000) -> RunFolder:
    """A finished explain and verify, with the given values in otherwise ordinary rows."""
    ordinary = {
        "label_index": 0, "label": "cat", "pred_index": 0, "pred": "cat", "confidence": 0.9,
        "label_prob": 0.9, "margin": 0.85, "loss": 0.1, "heatmap_max": 1.0, "status": "ok",
        "focus_area90": 0.5, "focus_spread": 0.2, "focus_border": 0.1, "focus_corner": 0.05,
        "focus_entropy": 0.6,
    }  # fmt: skip
    full = [{**ordinary, "index": i, "image_id": f"{i}.png", **row} for i, row in enumerate(rows)]
    setup = Setup("f", {}, resolved(1), ["cat", "dog"], GRID, 2, {}, len(full), shard_size)
    run = RunFolder(folder)
    plan = pa.Table.from_pylist([{**row, "shard": 0} for row in full], plan_schema())
    run_folder.write_plan(run, Plan(plan, setup))
    for shard in range(setup.n_shards):
        own = [full[index] for index in setup.rows(shard)]
        run_folder.commit_part(run, setup, shard, pa.Table.from_pylist(own, part_schema(GRID, 2)))
    parquet.write(pa.Table.from_pylist([], FINDINGS), run.analysis("findings"))
    parquet.write(pa.Table.from_pylist([], MEMBERS), run.analysis("members"))
    return run


@pytest.fixture
def suspects_of(configure: Callable[..., Config]) -> Callable[..., list[dict[str, Any]]]:
    """The suspects among the rows."""

    def go(
        rows: list[dict[str, Any]], prepare: Any = None, limit: int = 100, shard_size: int = 1000
    ) -> list[dict[str, Any]]:
        config = configure("dataset.root=x", "model.name=x", f"analysis.max_suspects={limit}")
        run = write_run(config.folder, rows, shard_size)
        if prepare:
            prepare(run)
        rank.run(config, Journal(config))
        table = parquet.read(run.analysis("suspects"))
        assert table.schema.equals(SUSPECTS)
        found: list[dict[str, Any]] = table.to_pylist()
        return found

    return go


def wrong(label_prob: float, confidence: float) -> dict[str, Any]:
    """A row whose label the model disagrees with."""
    return {
        "pred_index": 1, "pred": "dog", "label_prob": label_prob, "confidence": confidence,
        "margin": 0.5, "loss": float(-np.log(label_prob)),
    }  # fmt: skip


def test_label_errors_by_how_likely_they_are_wrong_in_words_and_figures(suspects_of: Any) -> None:
    found = suspects_of([{}] * 30 + [wrong(0.02, 0.98), wrong(0.001, 0.999)])
    assert [(s["image_id"], s["kind"]) for s in found] == [
        ("31.png", "label_error"),
        ("30.png", "label_error"),
    ]
    assert 1 > found[0]["score"] > found[1]["score"] > 0.9
    (reason,) = found[1]["reasons"]
    assert "the model gives the label cat a probability of 2.0% and dog one of 98.0%" in reason
    assert re.search(
        r"give cat \d\.\d% and dog the most: the label is wrong with a probability of \d+%$", reason
    )


def test_images_without_labels_are_no_label_errors(suspects_of: Any) -> None:
    none = {"label": None, "label_index": None, "label_prob": None, "loss": None}
    assert suspects_of([none, none]) == []


def test_error_rows_are_no_suspects(suspects_of: Any) -> None:
    assert suspects_of([{}, {"status": "error", "heatmap_max": None, "pred_index": None}]) == []


def test_empty_maps_and_close_calls(suspects_of: Any) -> None:
    found = suspects_of([{"heatmap_max": 0.0}, {"margin": 0.02}, {"margin": 0.11}])
    assert [(s["image_id"], s["kind"]) for s in found] == [
        ("0.png", "no_evidence"),
        ("1.png", "ambiguous"),
    ]
    assert found[1]["score"] == pytest.approx(0.98 * WEIGHTS[SuspectKind.AMBIGUOUS])


def test_a_focus_far_from_its_classs_is_atypical_and_says_how(suspects_of: Any) -> None:
    rng = np.random.default_rng(0)
    rows = [{"focus_border": float(value)} for value in rng.normal(0.3, 0.02, 200)]
    rows[7]["focus_border"] = 0.95
    (found,) = suspects_of(rows)
    assert (found["image_id"], found["kind"]) == ("7.png", "atypical_focus")
    assert "focus on the border is unusual for cat: 0.95, the median is 0.30" in found["reasons"][0]


def test_one_row_per_image_with_all_reasons_the_strongest_first(suspects_of: Any) -> None:
    (found,) = suspects_of([{**wrong(0.001, 0.5), "margin": 0.05}])
    assert found["kind"] == "label_error"
    assert len(found["reasons"]) == 2


def test_members_of_findings_by_reliance(suspects_of: Any) -> None:
    def prepare(run: RunFolder) -> None:
        finding = {"finding_id": "f", "class_name": "cat", "kind": "patch", "verdict": "confirmed",
                   "score": 0.5}  # fmt: skip
        members = [
            {"finding_id": "f", "index": i, "image_id": f"{i}.png", "reliance": r}
            for i, r in enumerate((0.2, 0.9, None))
        ]
        parquet.write(pa.Table.from_pylist([finding], FINDINGS), run.analysis("findings"))
        parquet.write(pa.Table.from_pylist(members, MEMBERS), run.analysis("members"))

    found = suspects_of([{}] * 4, prepare)
    assert [s["image_id"] for s in found] == ["1.png", "2.png", "0.png"]
    assert {s["finding_id"] for s in found} == {"f"}
    assert found[0]["score"] == pytest.approx(0.9 * WEIGHTS[SuspectKind.SHORTCUT])
    assert "loses 90%" in found[0]["reasons"][0]


def test_the_list_is_cut_at_its_limit(suspects_of: Any) -> None:
    assert len(suspects_of([wrong(0.1, 0.8)] * 9, limit=4)) == 4


def mixed(n: int) -> list[dict[str, Any]]:
    """Rows of all sorts: wrong labels, none, error rows, dead maps, features zero or absent."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for _ in range(n):
        p, shift = float(rng.uniform(0.001, 0.999)), rng.normal(size=2) / 4
        row: dict[str, Any] = wrong(p, 1 - p) if p < 0.5 else {"label_prob": p, "confidence": p}
        row |= {"loss": -float(np.log(p)), "margin": abs(2 * p - 1)}
        top, probs = ([1, 0], [1 - p, p]) if p < 0.5 else ([0, 1], [p, 1 - p])
        row |= {"top_index": top + [None] * 3, "top_prob": probs + [None] * 3}
        row["features"] = np.rint(
            ([[90, 0], [0, 90]][top[0]] + 90 * shift).clip(-127, 127)
        ).tolist()
        rows.append(row)
    for number in range(0, n, 10):
        rows[number] |= {"label": None, "label_index": None, "label_prob": None, "loss": None}
        rows[number + 1] |= {"heatmap_max": 0.0, "features": [0, 0], "focus_border": None}
        rows[number + 2] |= {"features": None}
        rows[number + 3] = {"status": "error", **dict.fromkeys([*rows[number + 4], "heatmap_max"])}
    return rows


def test_batches_and_parts_of_any_size_give_the_same_suspects_and_so_does_a_second_run(
    suspects_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = mixed(80)
    whole = suspects_of(rows)
    assert suspects_of(rows) == whole
    monkeypatch.setattr(rank, "MAX_ROWS", 7)
    monkeypatch.setattr(scan, "PARTS_AHEAD", 2)
    pieces = suspects_of(rows, shard_size=16)
    assert [s.pop("score") for s in pieces] == pytest.approx([s.pop("score") for s in whole])
    assert pieces == whole
    assert {s["kind"] for s in whole} == {"label_error", "no_evidence", "ambiguous"}
    assert not {3, 13, 23} & {s["index"] for s in whole}


def test_no_row_could_be_explained(suspects_of: Any) -> None:
    error = {"status": "error", "pred_index": None, "label_prob": None, "heatmap_max": None}
    assert suspects_of([error, error]) == []


def test_a_list_of_no_suspects_is_a_table_too(suspects_of: Any) -> None:
    assert suspects_of([wrong(0.1, 0.8)], limit=0) == []


def test_classes_of_one_image_and_a_label_that_is_predicted_but_not_likeliest(
    suspects_of: Any,
) -> None:
    dog: dict[str, Any] = {
        "label": "dog",
        "label_index": 1,
        "pred": "dog",
        "pred_index": 1,
        "features": [0, 100],
    }
    assert suspects_of([{"features": [100, 0]}, dog]) == []
    cat: dict[str, Any] = {"features": [100, 10]}
    pairs = [(cat, i) for i in range(200)] + [
        (dog | {"features": [10, 100]}, i) for i in range(200)
    ]
    spread = [{**row, "features": [v + 2 * (i % 7) for v in row["features"]]} for row, i in pairs]
    alike = {"label_prob": 0.51, "confidence": 0.51, "loss": 0.67, "margin": 0.2}
    (found,) = suspects_of([*spread, alike | {"features": [10, 105]}])
    assert found["image_id"] == "400.png"
    assert found["reasons"][0].startswith(
        "the model gives the label cat a probability of 51.0%; model"
    )
