"""MLflow: a run in a store of files, read back by the real package; and runs without a server."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from helpers.small_data import write_images
from pipeline.config import Config
from pipeline.errors import AuditError
from pipeline.stages.audit import audit


@pytest.fixture
def settings(tmp_path: Path, small_model: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    write_images(tmp_path / "photos", 6)
    (tmp_path / "photos/cat/broken.png").write_bytes(b"nothing")
    quick = ["data.max_error_rate=0.5", "analysis.permutations=20", "analysis.trials=10"]
    where = [f"mlflow.tracking_uri=file://{tmp_path}/mlruns", "mlflow.experiment=nights"]
    return [f"dataset.root={tmp_path}/photos", *small_model, *quick, *where]


def test_settings_figures_tables_and_report_are_there(
    configure: Callable[..., Config], settings: list[str], tmp_path: Path
) -> None:
    config = configure(*settings)
    audit(config)
    with pytest.raises(AuditError):
        audit(configure(*settings, "data.max_error_rate=0", "stages=[explain]"))
    client = MlflowClient(f"file://{tmp_path}/mlruns")
    experiment = client.get_experiment_by_name("nights")
    failed, good = client.search_runs([experiment.experiment_id], order_by=["start_time DESC"])
    assert (good.info.status, good.info.run_name) == ("FINISHED", "audit")
    assert (failed.info.status, failed.data.tags["camaudit.state"]) == ("FAILED", "failed")
    assert good.data.params["cam.method"] == "gradcam"
    assert good.data.params["model.factory"] == config.model.factory
    assert good.data.metrics["images.error"] == 1
    assert good.data.metrics["accuracy_ratio"] == pytest.approx(1 / 3)
    assert failed.data.metrics["exit_code"] == 3
    files = {file.path for file in client.list_artifacts(good.info.run_id)}
    assert files == {"analysis", "report", "run.json"}
    report = client.download_artifacts(good.info.run_id, "report", str(tmp_path))
    assert Path(report, "index.html").is_file()


def test_a_server_that_is_not_there_fails_no_run(
    configure: Callable[..., Config],
    settings: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(*settings, "mlflow.tracking_uri=nowhere://x", "stages=[explain]")
    audit(config)
    assert "mlflow: the run could not be logged" in caplog.text
    monkeypatch.setitem(sys.modules, "mlflow", None)
    audit(config)
    assert "pip install 'camaudit[mlflow]'" in caplog.text
    assert json.loads((config.folder / "run.json").read_text())["exit_code"] == 0
