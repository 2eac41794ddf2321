"""camaudit-status: done, missing, stale, damaged, at work; and the command that goes on."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_command import patient, run, start  # noqa: F401 - patient is a fixture

from helpers.small_data import write_images
from pipeline.cli import status


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = status.main(["out/audit", "--json", *arguments])
    content: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, content


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the real command has audited 18 images."""
    folder = tmp_path_factory.mktemp("finished")
    write_images(folder / "photos", 6)
    (folder / "net.py").write_text(MODEL)
    ended = run(*SETTINGS, cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder


MODEL = """
from torch import nn
def build():
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, 3))
"""
SETTINGS = [
    "dataset.root=photos", "model=custom", "model.factory=net.py:build",
    "model.preprocess.resize=16", "output_dir=out", "loader.shard_size=5",
    "analysis.permutations=20", "analysis.trials=10",
]  # fmt: skip


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_a_finished_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, content = told(capsys, "--verify")
    assert (code, content["state"], content["next"]) == (0, "complete", None)
    assert content["parts"] == {"planned": 4, "committed": 4, "missing": [], "damaged": []}
    assert set(content["stages"]) == {"explain", "discover", "verify", "rank", "report"}
    assert set(content["stages"].values()) == {"done"}
    assert status.main([str(here / "out/audit")]) == 0
    text = capsys.readouterr().out
    assert "audit: complete" in text
    assert "parts: 4 of 4 are committed" in text
    assert "next: nothing" in text


def test_a_missing_part_and_the_command_that_goes_on(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out/audit/parts/part-00002.parquet").unlink()
    code, content = told(capsys)
    assert (code, content["parts"]["missing"]) == (75, [2])
    assert content["stages"]["explain"] == "missing"
    assert shlex.split(content["next"]) == ["camaudit", *SETTINGS]


@pytest.mark.parametrize(
    ("table", "stages"), [("suspects", "rank,report"), ("findings", "verify,rank,report")]
)
def test_a_missing_table_makes_those_that_read_it_stale(
    here: Path, capsys: pytest.CaptureFixture[str], table: str, stages: str
) -> None:
    path = here / f"out/audit/analysis/{table}.parquet"
    os.utime(path, (2e9, 2e9))
    first, *rest = stages.split(",")
    code, content = told(capsys)
    assert code == 75
    assert [s for s, state in content["stages"].items() if state.startswith("older")] == rest
    assert content["next"].endswith(f"'stages=[{','.join(rest)}]'")
    path.unlink()
    code, content = told(capsys)
    assert content["stages"][first] == "missing"
    assert content["next"].endswith(f"'stages=[{first}]'")


def test_a_flipped_bit_is_seen_with_verify(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = here / "out/audit/parts/part-00001.parquet"
    content, when = bytearray(part.read_bytes()), part.stat().st_mtime_ns
    content[200] ^= 1
    part.write_bytes(content)
    os.utime(part, ns=(when, when))
    assert told(capsys)[0] == 0
    code, found = told(capsys, "--verify")
    assert (code, found["parts"]["damaged"]) == (3, [1])
    assert status.main(["out/audit", "--verify"]) == 3
    assert "damaged: part-00001" in capsys.readouterr().out


def test_at_work_and_killed(
    tmp_path: Path,
    patient: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child = start(patient, tmp_path)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "pipeline.cli.status", "outputs/audit", "--json"]
    working = subprocess.run(command, capture_output=True, text=True, check=False)
    os.killpg(child.pid, 9)
    child.wait()
    killed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (working.returncode, killed.returncode) == (75, 75)
    first, then = (json.loads(each.stdout) for each in (working, killed))
    assert (first["state"], first["at_work"], first["next"]) == ("running", True, None)
    assert (then["state"], then["at_work"]) == ("killed", False)
    assert shlex.split(then["next"]) == ["camaudit", *patient]


def test_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 1
    assert "is no run" in capsys.readouterr().err


def test_it_is_quick_to_start() -> None:
    heavy = ("torch", "scipy", "matplotlib", "sklearn")
    code = f"import sys, pipeline.cli.status; print([n for n in {heavy} if n in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
