"""What changed between two runs, on tables made by hand; and the stage on real ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers.small_data import write_images
from pipeline.analysis.compare import changes
from pipeline.analysis.compare.changes import ComparedTables, compare, images
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.stages.audit import audit
from pipeline.storage import parquet
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.scan import Rows
from pipeline.storage.schema import CHANGES, FINDINGS, SUSPECTS, classes_schema, plan_schema

Configure = Callable[..., Config]
Row = dict[str, Any]


def finding(name: str, **more: Any) -> Row:
    """A confirmed finding of cats whose gain is 0.5, surely between 0.4 and 0.6."""
    row = {
        "finding_id": name, "class_name": "cat", "kind": "patch", "verdict": "confirmed",
        "score": 0.5, "effect": 0.6, "control": 0.1, "ci_low": 0.4, "ci_high": 0.6,
        "summary": f"about {name}",
    }  # fmt: skip
    return row | more


def tables(
    findings: list[Row] | None = None,
    suspects: list[Row] | None = None,
    classes: list[tuple[str, int, int]] | None = None,
) -> ComparedTables:
    rows = [
        {"class_name": name, "n_correct": right, "n_label": n} for name, right, n in classes or []
    ]
    return ComparedTables(
        pa.Table.from_pylist(findings or [], FINDINGS),
        pa.Table.from_pylist(suspects or [], SUSPECTS),
        pa.Table.from_pylist(rows, classes_schema((1, 1))),
    )


def changed(before: ComparedTables, now: ComparedTables) -> list[Row]:
    table = compare(before, now, 0.05)
    assert table.schema.equals(CHANGES)
    rows: list[Row] = table.to_pylist()
    return rows


def test_equal_runs_have_nothing_to_tell() -> None:
    one = tables([finding("f")], [{"image_id": "a", "kind": "shortcut"}], [("cat", 90, 100)])
    (row,) = changed(one, one)
    assert (row["subject"], row["change"], row["before"], row["after"]) == ("run", None, 0.9, 0.9)
    assert changed(tables(), tables()) == []


def test_findings_are_told_again_by_their_ids() -> None:
    rows = changed(
        tables([finding("old"), finding("same")]), tables([finding("same"), finding("fresh")])
    )
    assert [(row["change"], row["key"], row["summary"]) for row in rows] == [
        ("new", "fresh", "about fresh"),
        ("gone", "old", "about old"),
    ]
    assert (rows[0]["before"], rows[0]["after"]) == (None, pytest.approx(0.5))
    assert (rows[1]["before"], rows[1]["after"]) == (pytest.approx(0.5), None)


@pytest.mark.parametrize(
    ("before", "now", "change"),
    [
        ({"verdict": "suspected"}, {}, "worse"),
        ({}, {"verdict": "suspected"}, "better"),
        ({}, {"ci_low": 0.61, "ci_high": 0.8, "effect": 0.8}, "worse"),
        ({}, {"ci_low": 0.1, "ci_high": 0.39, "effect": 0.3}, "better"),
        ({}, {"ci_low": 0.55, "ci_high": 0.8, "effect": 0.75}, None),
        ({}, {"score": 0.9}, None),
        ({"ci_low": None, "ci_high": None, "effect": None}, {}, None),
    ],
)
def test_a_finding_is_worse_or_better_where_that_is_sure(
    before: Row, now: Row, change: str | None
) -> None:
    rows = changed(tables([finding("f", **before)]), tables([finding("f", **now)]))
    assert [row["change"] for row in rows] == [change] * bool(change)
    for row in rows:
        assert row["summary"].startswith("cat, patch: ")
        if "effect" in now:
            assert "the gain (effect minus control) was 50% and is" in row["summary"]


def test_suspects_are_told_again_by_their_images() -> None:
    def suspect(name: str) -> Row:
        return {"image_id": name, "kind": "label_error", "score": 0.9, "label": "cat",
                "pred": "dog", "reasons": [f"because {name}", "and so on"]}  # fmt: skip

    rows = changed(
        tables(suspects=[suspect("a"), suspect("b")]), tables(suspects=[suspect("b"), suspect("c")])
    )
    assert [(row["subject"], row["change"], row["key"], row["summary"]) for row in rows] == [
        ("suspect", "new", "c", "because c"),
        ("suspect", "gone", "a", "because a"),
    ]
    assert rows[0]["class_name"] == "cat"


def test_classes_whose_accuracy_changed_at_the_false_discovery_rate() -> None:
    before = [("cat", 90, 100), ("dog", 90, 100), ("owl", 90, 100), ("emu", 0, 0)]
    now = [("cat", 60, 100), ("dog", 88, 100), ("owl", 99, 100), ("emu", 1, 2)]
    run, *classes = changed(tables(classes=before), tables(classes=now))
    assert (run["key"], run["change"]) == ("accuracy", "worse")
    assert run["before"] == pytest.approx(0.9)
    assert run["after"] == pytest.approx(248 / 302)
    p_values = [
        stats.fisher_exact([[90, 10], [right, 100 - right]]).pvalue for right in (60, 88, 99)
    ]
    q_values = stats.false_discovery_control(p_values)
    assert q_values[1] > 0.05
    assert [(row["key"], row["change"]) for row in classes] == [("cat", "worse"), ("owl", "better")]
    assert [row["q_value"] for row in classes] == pytest.approx([q_values[0], q_values[2]])
    assert classes[0]["summary"] == "cat: 90.0% before, 60.0% now"


def test_chance_alone_changes_no_class() -> None:
    """200 classes of the same accuracy, drawn twice: the rate holds over all of them."""
    draws = stats.binom.rvs(50, 0.8, size=(2, 200), random_state=0)
    one, two = ([(f"c{i}", int(n), 50) for i, n in enumerate(row)] for row in draws)
    assert list(changed(tables(classes=one), tables(classes=two)))[1:] == []


@pytest.fixture
def runs(configure: Configure, tmp_path: Path, small_model: list[str]) -> Callable[..., Config]:
    """Settings of small audits of one folder."""
    write_images(tmp_path / "photos", 8)

    def make(run_id: str, *more: str) -> Config:
        return configure(f"dataset.root={tmp_path}/photos", *small_model, f"run_id={run_id}", *more)

    return make


def test_the_stage_compares_with_the_baseline_and_forgets_it_without_one(
    runs: Callable[..., Config], tmp_path: Path
) -> None:
    audit(runs("old"))
    (tmp_path / "photos" / "cat" / "0001.png").unlink()
    config = runs("new", f"baseline={tmp_path}/out/old")
    audit(config)
    path = RunFolder(config.folder).analysis("changes")
    table = parquet.read(path)
    assert table.schema.metadata[b"baseline"] == f"{tmp_path}/out/old".encode()
    assert "run" in table["subject"].to_pylist()
    audit(runs("new", "stages=[compare,report]"))
    assert not path.exists()


def test_a_baseline_that_cannot_be_used_is_named(
    runs: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="baseline: none is not the folder of a run"):
        runs("old", "baseline=none")
    audit(runs("old"))
    with pytest.raises(ConfigError, match="is this run itself"):
        audit(runs("old", f"baseline={tmp_path}/out/old", "stages=[compare]"))
    audit(runs("other", "model.class_names=[x,y,z]", "dataset=manifest", *_manifest(tmp_path)))
    with pytest.raises(ConfigError, match="no class in common"):
        audit(runs("old", f"baseline={tmp_path}/out/other", "stages=[compare]"))


def _manifest(folder: Path) -> list[str]:
    (folder / "list.csv").write_text("path,label\ncat/0001.png,x\ndog/0001.png,y\n")
    return [f"dataset.path={folder}/list.csv", f"dataset.root={folder}/photos"]


Told = list[tuple[str, str | None]]


def plan_of(path: Path, rows: Told) -> Rows:
    """A plan of images with versions, as it stands on the disk."""
    told = [
        {"index": index, "image_id": name, "label": f"label of {name}", "version": version}
        for index, (name, version) in enumerate(rows)
    ]
    path.unlink(missing_ok=True)
    parquet.write(pa.Table.from_pylist(told, plan_schema()), path)
    return Rows([path], sys.maxsize)


def found(before: Rows, now: Rows) -> list[tuple[str, str]]:
    table = images(before, now)
    assert table.schema.equals(CHANGES)
    rows = table.to_pylist()
    assert all(row["subject"] == "image" and row["summary"] == row["key"] for row in rows)
    assert all(row["class_name"] == f"label of {row['key']}" for row in rows)
    return [(row["change"], row["key"]) for row in rows]


def test_images_are_new_changed_or_gone(tmp_path: Path) -> None:
    before = plan_of(tmp_path / "a", [("a", "1"), ("b", "1"), ("c", None), ("d", "1")])
    now = plan_of(tmp_path / "b", [("b", "2"), ("c", None), ("d", "1"), ("e", "1")])
    assert found(before, now) == [("new", "e"), ("changed", "b"), ("gone", "a")]
    assert found(before, before) == []
    table = parquet.read(tmp_path / "a").drop_columns(["version"])
    parquet.write(table, tmp_path / "older")
    older = Rows([tmp_path / "older"], sys.maxsize)
    assert found(older, now) == [("new", "e"), ("gone", "a")]


plans = st.lists(
    st.tuples(st.text("abé", max_size=3), st.none() | st.sampled_from("12")),
    unique_by=lambda row: row[0],
)


@pytest.mark.parametrize("hashed", [hash, len], ids=["hash", "one hash for many"])
@given(before=plans, now=plans)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_images_are_those_that_sets_would_tell_in_the_order_of_the_plans(
    tmp_path: Path, hashed: Callable[[str], int], before: Told, now: Told
) -> None:
    old, new = dict(before), dict(now)
    expected = [("new", name) for name, _ in now if name not in old]
    expected += [
        ("changed", name)
        for name, version in now
        if version and old.get(name) and version != old[name]
    ]
    expected += [("gone", name) for name, _ in before if name not in new]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "hash", hashed, raising=False)
        assert found(plan_of(tmp_path / "a", before), plan_of(tmp_path / "b", now)) == expected
