"""The real command as a child process: spellings, messages, exit codes, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.small_data import write_images
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.stages.audit import audit

COMMAND = [sys.executable, "-m", "pipeline"]
RESNET = ["dataset.root=photos", "model.name=resnet18", "model.weights=null"]
CUSTOM = ["dataset.root=photos", "model=custom", "model.factory=net.py:build"]
PATIENT = """

class Patient(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        import pathlib, time
        while pathlib.Path("outputs/audit/parts/part-00002.parquet").exists():
            if pathlib.Path("go").exists():
                break
            time.sleep(0.02)
        return self.net(x)
"""


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command to its end, its output captured."""
    return subprocess.run(
        [*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def tables(folder: Path) -> dict[str, pa.Table]:
    """Every table of a run, by its path in the run."""
    files = sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])
    return {str(file.relative_to(folder)): pq.read_table(file) for file in files}


@pytest.fixture
def patient(tmp_path: Path, model_file: Path, small_model: list[str]) -> list[str]:
    """Overrides of a run of 12 shards that stops after three until there is a file named go."""
    write_images(tmp_path / "photos", 16)
    model_file.write_text(model_file.read_text() + PATIENT)
    model = [f"model.factory={model_file}:Patient", "loader.shard_size=4", "loader.batch_size=2"]
    stages = ["stages=[explain,discover]", "loader.num_workers=1"]
    return ["dataset.root=photos", *small_model, *model, *stages]


def start(
    arguments: list[str], cwd: Path, stderr: int | IO[str] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """The command in its own process group, as soon as it waits in the fourth shard."""
    child = subprocess.Popen([*COMMAND, *arguments], cwd=cwd, stderr=stderr, start_new_session=True)
    deadline = time.monotonic() + 90
    while not (cwd / "outputs" / "audit" / "parts" / "part-00002.parquet").exists():
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no part was committed in time"
        time.sleep(0.02)
    return child


def test_killed_in_the_middle_it_goes_on_to_the_same_tables(
    tmp_path: Path,
    patient: list[str],
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = start(patient, tmp_path)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    folder = tmp_path / "outputs" / "audit"
    committed = {path: path.stat().st_mtime_ns for path in folder.glob("parts/part-*")}
    assert 3 <= len(committed) < 12  # the model can be a shard ahead of what is committed
    (folder / "parts" / ".part-00011.parquet.1.tmp").write_text("half a part")
    (tmp_path / "go").touch()
    resumed = run(*patient, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    done = 4 * len(committed)
    assert f"{48 - done} images to explain, {done} are done" in resumed.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in committed.items())
    assert not list(folder.rglob(".*.tmp"))
    attempts = json.loads((folder / "run.json").read_text())["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["aborted", "complete"]

    monkeypatch.chdir(tmp_path)
    audit(configure(*patient, "output_dir=whole"))
    expected = tables(tmp_path / "whole" / "audit")
    found = tables(folder)
    assert len(expected) == 16  # plan, 12 parts, classes, candidates, concepts
    assert found.keys() == expected.keys()
    assert all(found[name].equals(expected[name]) for name in expected)


def test_sigterm_ends_with_143_and_a_second_run_is_sent_away(
    tmp_path: Path, patient: list[str]
) -> None:
    child = start(patient, tmp_path)
    second = run(*patient, cwd=tmp_path)
    assert second.returncode == 75
    assert "another camaudit is at work" in second.stderr
    child.terminate()
    assert child.wait(timeout=20) == 143
    state = json.loads((tmp_path / "outputs" / "audit" / "run.json").read_text())
    assert (state["state"], state["exit_code"]) == ("aborted", 143)
    with pytest.raises(ProcessLookupError):  # nobody of its process group is left
        os.killpg(child.pid, 0)


def test_help_shows_groups_and_keys(tmp_path: Path) -> None:
    shown = run("--help", "dataset=manifest", cwd=tmp_path)
    assert shown.returncode == 0
    for word in ("dataset: custom, demo, huggingface", "path_column: path", "target_layer: auto"):
        assert word in shown.stdout
    wrong = run("--help", "dataset=none", cwd=tmp_path)
    assert wrong.returncode == 1
    assert "Could not find 'dataset/none'" in wrong.stderr
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize(
    ("module", "function", "arguments"),
    [
        ("pipeline.__main__", "_run", ["--help"]),
        ("pipeline.__main__", "_run", ["--help", "dataset=manifest", "model=timm"]),
        ("pipeline.cli.explain", "_composed", ["-h", "model=custom"]),
    ],
)
def test_the_help_is_the_one_that_hydra_prints(
    module: str, function: str, arguments: list[str], tmp_path: Path
) -> None:
    texts = []
    for called in (function, "main"):
        code = f"from {module} import {called}; {called}()"
        command = [sys.executable, "-c", code, *arguments]
        ended = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
        texts.append(ended.stdout)
    assert "Settings (set with key=value" in texts[0]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("arguments", "culprits"),
    [
        (["dataset.root=nowhere", "model.name=resnet18"], ["nowhere is not a folder"]),
        (["dataset.root=photos", "model.name=resnet81"], ["resnet81", "resnet18"]),
        (
            ["dataset.root=photos", "model.name=resnet18", "model.checkpoint=photos"],
            ["there is no file photos"],
        ),
        ([*RESNET, "model.target_layer=layer5"], ["layer5", "layer4"]),
        (
            ["dataset.root=photos", "model=custom", "model.factory=net.py:missing"],
            ["net.py has no function 'missing'"],
        ),
        (
            [*CUSTOM, "model.class_names=[red,green,blue]"],
            ["cat, dog, owl", "red, green, blue"],
        ),
    ],
)
def test_a_users_mistake_is_named(
    tmp_path: Path,
    model_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    configure: Callable[..., Config],
    arguments: list[str],
    culprits: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 1)
    with pytest.raises(ConfigError) as raised:
        audit(configure(*arguments, "loader.num_workers=0"))
    for culprit in culprits:
        assert culprit in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "code", "culprit"),
    [
        (["loader.batch_size=none"], 1, "dataset.root: must be given"),
        (["dataset.root=photos", "model.naem=resnet18"], 1, "model.naem"),
        (["dataset.root=empty", "model.name=resnet18"], 3, "no images in empty (ignored: 1 .txt"),
    ],
)
def test_a_users_mistake_ends_the_command_without_a_traceback(
    tmp_path: Path, arguments: list[str], code: int, culprit: str
) -> None:
    write_images(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    assert culprit in ended.stderr
