"""The gate: every limit broken once, by the real audit; exit code 2, and the line names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from test_command import run as command

from helpers.small_data import MODEL, write_images
from pipeline.analysis.gate import GateValues, check_limits
from pipeline.config import Config, GateConfig
from pipeline.errors import ConfigError, GateError
from pipeline.stages.audit import audit
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.schema import FINDINGS

Configure = Callable[..., Config]
LAST = "stages=[compare,gate]"


SETTINGS = [
    "dataset.root=photos", "model=custom", "model.factory=net.py:build",
    "model.preprocess.resize=16", "loader.num_workers=0", "analysis.permutations=20",
    "analysis.trials=10", "data.max_error_rate=0.5", "run_id=now",
]  # fmt: skip
FIRST = "stages=[explain,discover,verify,rank]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run "now" and one "before" that was better."""
    folder = tmp_path_factory.mktemp("nights")
    write_images(folder / "photos", 20)
    (folder / "photos/cat/broken.png").write_bytes(b"no picture")
    (folder / "net.py").write_text(MODEL)
    ended = command(*SETTINGS, FIRST, "output_dir=out", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    shutil.copytree(folder / "out/now", folder / "out/before")
    before, now = RunFolder(folder / "out/before"), RunFolder(folder / "out/now")
    found = [finding("patch-1", "confirmed"), finding("frame-2", "suspected")]
    parquet.write(pa.Table.from_pylist(found, FINDINGS), now.analysis("findings"))
    parquet.write(FINDINGS.empty_table(), before.analysis("findings"))
    table = parquet.read(before.analysis("classes"))
    classes = [row | {"n_correct": row["n_label"]} for row in table.to_pylist()]
    parquet.write(pa.Table.from_pylist(classes, table.schema), before.analysis("classes"))
    return folder


@pytest.fixture
def night(
    finished: Path, configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Config]:
    """Settings to hold "now" against limits, with "before" as baseline."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)

    def again(*limits: str) -> Config:
        return configure(*SETTINGS, LAST, "baseline=out/before", *limits)

    return again


def finding(name: str, verdict: str) -> dict[str, Any]:
    return {
        "finding_id": name, "class_name": "cat", "kind": "patch", "verdict": verdict,
        "score": 0.5, "n_images": 3, "example_ids": [], "summary": f"cat: a {name}",
    }  # fmt: skip


BROKEN = [
    ("gate.confirmed_findings=0", "gate.confirmed_findings: 1 is above the limit of 0"),
    ("gate.new_findings=1", "gate.new_findings: 2 is above the limit of 1"),
    ("gate.suspects.label_error=0", "gate.suspects.label_error: "),
    ("gate.suspect_share.label_error=0", "gate.suspect_share.label_error: "),
    ("gate.error_rate=0.01", "gate.error_rate: 0.01639 is above the limit of 0.01"),
    ("gate.accuracy=0.9", "gate.accuracy: 0.3333 is below the limit of 0.9"),
    ("gate.accuracy_drop=0.5", "gate.accuracy_drop: 0.6667 is above the limit of 0.5"),
]


@pytest.mark.parametrize(("limit", "line"), BROKEN)
def test_each_limit_is_broken_and_named(
    night: Callable[..., Config], limit: str, line: str
) -> None:
    config = night(limit)
    with pytest.raises(GateError) as raised:
        audit(config)
    assert raised.value.exit_code == 2
    (said,) = str(raised.value).splitlines()
    assert said.startswith(line)
    state = json.loads((config.folder / "run.json").read_text())
    assert (state["state"], state["exit_code"]) == ("complete", 2)
    assert [check["line"] for check in state["gate"] if check["broken"]] == [said]


def test_the_report_of_a_night_that_fails_is_there_and_says_so(
    night: Callable[..., Config],
) -> None:
    config = night("gate.accuracy=0.9", "stages=[compare,gate,report]")
    with pytest.raises(GateError):
        audit(config)
    told = (config.folder / "report/index.html").read_text()
    assert "gate.accuracy: 0.3333 is below the limit of 0.9" in told
    audit(night("gate.accuracy=0.2", "stages=[compare,gate,report]"))
    assert "no limit is broken (1 limit set)" in (config.folder / "report/index.html").read_text()


def test_drifted_classes_are_counted(night: Callable[..., Config]) -> None:
    paths = sorted(Path("photos").rglob("*.png"))
    for path in paths:
        for copy in range(5):
            shutil.copy(path, path.with_name(f"{path.stem}-{copy}.png"))
    first = [FIRST, "baseline=null", "run_id=before2"]
    audit(night(*first))
    shutil.copytree("out/before2", "out/after2")
    after = RunFolder(Path("out/after2"))
    for shard in range(run_folder.read_plan(after, []).setup.n_shards):
        table = parquet.read(after.part(shard))
        place = table.schema.get_field_index("focus_x")
        moved = pc.divide(table["focus_x"], 3.0).cast(table.schema.field(place).type)
        parquet.write(table.set_column(place, table.schema.field(place), moved), after.part(shard))
    last = [LAST, "run_id=after2", "baseline=out/before2"]
    with pytest.raises(GateError, match=r"gate\.drifted_classes: [123] is above the limit of 0"):
        audit(night(*last, "gate.drifted_classes=0"))
    audit(night(*last, "gate.drifted_classes=3"))


def test_all_limits_together_each_with_its_line_and_the_command_says_2(
    night: Callable[..., Config], tmp_path: Path
) -> None:
    limits = [limit for limit, _ in BROKEN]
    config = night(*limits)
    with pytest.raises(GateError) as raised:
        audit(config)
    assert len(str(raised.value).splitlines()) == len(BROKEN)
    again = ["output_dir=out", "baseline=out/before"]
    ended = command(*SETTINGS, *again, LAST, *limits, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    last = ended.stderr.splitlines()[-len(BROKEN) :]
    for (_, line), said in zip(BROKEN, last, strict=True):
        assert line in said


def test_what_is_within_its_limits_passes_and_without_limits_nothing_is_read(
    night: Callable[..., Config],
) -> None:
    config = night(
        "gate.confirmed_findings=1", "gate.new_findings=2", "gate.error_rate=0.5",
        "gate.accuracy=0.33", "gate.accuracy_drop=0.67", "gate.suspects.no_evidence=60",
    )  # fmt: skip
    audit(config)
    state = json.loads((config.folder / "run.json").read_text())
    assert (state["exit_code"], len(state["gate"])) == (0, 6)
    RunFolder(config.folder).analysis("suspects").rename("away")
    audit(night("stages=[gate]"))


def test_suspects_beyond_the_end_of_the_list_are_counted(night: Callable[..., Config]) -> None:
    audit(night("stages=[rank]", "analysis.max_suspects=1"))
    assert parquet.read(RunFolder(Path("out/now")).analysis("suspects")).num_rows == 1
    with pytest.raises(GateError, match=r"gate\.suspects\.label_error: \d\d+ is above .* 1$"):
        audit(night("gate.suspects.label_error=1"))


def test_a_limit_is_not_broken_where_it_is_met() -> None:
    found = GateValues(2, {"shortcut": 5}, 100, 0.1, 0.8, 3, 0.05, 1)
    limits = GateConfig(2, 3, {"shortcut": 5}, {"shortcut": 0.05}, 0.1, 0.8, 0.05, 1)
    told = check_limits(limits, found)
    assert len(told) == 8
    assert not any(check.broken for check in told)
    assert all("within the limit" in check.line for check in told)


def test_what_a_run_cannot_know_is_no_pass() -> None:
    with pytest.raises(ConfigError, match=r"gate\.accuracy: needs labels"):
        check_limits(GateConfig(accuracy=0.5), GateValues(0, {}, 1, 0.0))
    with pytest.raises(ConfigError, match=r"gate\.accuracy_drop: needs a baseline"):
        check_limits(GateConfig(accuracy_drop=0.5), GateValues(0, {}, 1, 0.0))


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ("gate.suspect_share.shortcut=3", r"gate.suspect_share.shortcut: 3"),
        ("gate.error_rate=2", "gate.error_rate: 2.0 is not between"),
        ("gate.confirmed_findings=-1", "gate.confirmed_findings: -1 is below 0"),
        ("gate.confirmed_findings=many", "gate.confirmed_findings"),
        ("gate.new_findings=0", "gate.new_findings: needs a baseline"),
    ],
)
def test_limits_that_make_no_sense_are_named_before_any_work(
    configure: Configure, limit: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        configure("dataset.root=photos", "model.name=resnet18", limit)


def test_the_strict_gate_can_be_chosen(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "plan.parquet").touch()
    chosen = configure(
        "dataset.root=photos", "model.name=resnet18", "gate=strict", f"baseline={tmp_path}"
    )
    assert chosen.gate.confirmed_findings == 0
    assert {kind for kind, most in chosen.gate.suspect_share.items() if most} == {"no_evidence"}
    assert chosen.gate.accuracy is None
