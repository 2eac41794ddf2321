"""metrics.prom is what Prometheus reads, keeps the last success, and never fails a run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_command import run

from helpers.small_data import write_images
from pipeline.config import Config
from pipeline.errors import AuditError, ConfigError
from pipeline.run.monitoring import prometheus
from pipeline.run.state import Journal
from pipeline.stages.audit import audit

Labels = tuple[tuple[str, str], ...]


def read(path: Path) -> dict[tuple[str, Labels], float]:
    """Samples as Prometheus's own parser has them."""
    families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    assert len({family.name for family in families}) == len(families)
    assert all(family.documentation and family.type == "gauge" for family in families)
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}


def value(path: Path, name: str, **labels: str) -> float:
    return read(path)[f"camaudit_{name}", tuple(sorted({"run": "audit", **labels}.items()))]


@pytest.fixture
def settings(tmp_path: Path, small_model: list[str]) -> list[str]:
    write_images(tmp_path / "photos", 6)
    (tmp_path / "photos/cat/broken.png").write_bytes(b"nothing")
    limits = ["data.max_error_rate=0.5", "analysis.permutations=20", "analysis.trials=10"]
    return [f"dataset.root={tmp_path}/photos", *small_model, *limits]


def test_a_night_in_figures(configure: Callable[..., Config], settings: list[str]) -> None:
    config = configure(*settings, "gate.accuracy=0.1", "gate.error_rate=0.2")
    begun = time.time()
    audit(config)
    path = config.folder / "metrics.prom"
    assert value(path, "exit_code") == 0
    assert [value(path, "images", state=s) for s in ("planned", "ok", "error")] == [19, 18, 1]
    assert value(path, "accuracy_ratio") == pytest.approx(6 / 18)
    assert value(path, "stage_seconds", stage="explain") > 0
    assert value(path, "last_success_timestamp_seconds") == pytest.approx(begun, abs=60)
    assert value(path, "gate_broken", key="gate.accuracy") == 0
    assert any(name == "camaudit_suspects" for name, _ in read(path))
    assert path.stat().st_mode & 0o777 == 0o644
    assert not list(config.folder.glob(".*.tmp"))


def test_the_last_success_is_kept_when_a_run_fails(
    configure: Callable[..., Config], settings: list[str], tmp_path: Path
) -> None:
    place = f"metrics={tmp_path}/collected/camaudit.prom"
    path = tmp_path / "collected/camaudit.prom"
    with pytest.raises(AuditError):
        audit(configure(*settings, place, "data.max_error_rate=0", "stages=[explain]"))
    assert value(path, "exit_code") == 3
    assert not any("success" in name for name, _ in read(path))
    audit(configure(*settings, place, "stages=[explain]"))
    success = value(path, "last_success_timestamp_seconds")
    assert value(path, "exit_code") == 0
    time.sleep(1.1)  # attempts are told to the second
    with pytest.raises(AuditError):
        audit(configure(*settings, place, "data.max_error_rate=0", "stages=[explain]"))
    assert value(path, "exit_code") == 3
    assert value(path, "last_success_timestamp_seconds") == success
    assert value(path, "last_attempt_timestamp_seconds") > success


@pytest.mark.parametrize(
    "run_id", ["ünï", 'a "quoted" name', "back\\slash", "two\nlines", "猫 {x}"]
)
def test_a_label_of_any_text_is_read_back(
    configure: Callable[..., Config], tmp_path: Path, run_id: str
) -> None:
    config = configure("dataset.root=x", "model.name=x", f"metrics={tmp_path}/run.prom")
    journal = Journal(config)
    journal.end("complete", 0)
    config.run_id = run_id
    for _ in range(2):  # the second reads the file of the first
        prometheus.write(config, journal)
        samples = read(tmp_path / "run.prom")
        assert {dict(labels)["run"] for _, labels in samples} == {run_id}
        assert samples["camaudit_exit_code", (("run", run_id),)] == 0
    assert prometheus._last_success(tmp_path / "run.prom", run_id) is not None


def test_a_file_that_cannot_be_written_fails_no_run(
    configure: Callable[..., Config],
    settings: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").touch()
    config = configure(*settings, f"metrics={tmp_path}/file/x.prom", "stages=[explain]")
    audit(config)
    assert "metrics: " in caplog.text
    assert json.loads((config.folder / "run.json").read_text())["exit_code"] == 0
    with pytest.raises(ConfigError, match=r"metrics: x\.txt does not end in \.prom"):
        configure(*settings, "metrics=x.txt")


def test_every_log_line_is_json(tmp_path: Path, settings: list[str]) -> None:
    json_logs = "hydra/job_logging=json"
    good = run(*settings, json_logs, "stages=[explain]", "run_id=one", cwd=tmp_path)
    bad = run(*settings, json_logs, "stages=[rank]", "run_id=two", cwd=tmp_path)
    assert (good.returncode, bad.returncode) == (0, 75)
    for ended, name in ((good, "one"), (bad, "two")):
        lines = [json.loads(line) for line in ended.stderr.splitlines()]
        assert len(lines) >= 1
        assert {line["run_id"] for line in lines} == {name}
        assert all(line["time"].endswith("+00:00") for line in lines)
    assert json.loads(bad.stderr.splitlines()[-1])["level"] == "error"
    assert "is not there yet" in bad.stderr
