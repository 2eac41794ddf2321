"""The real command as a child process: spellings, messages, exit codes, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import write_images

COMMAND = [sys.executable, "-m", "pipeline"]
RESNET = ["dataset.root=photos", "model.name=resnet18", "model.weights=null"]
CUSTOM = ["dataset.root=photos", "model=custom", "model.factory=net.py:build"]
SLOW = """

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        import time
        time.sleep(0.15)
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
def slow(tmp_path: Path, model_file: Path, small_model: list[str]) -> list[str]:
    """Overrides of a run of 12 shards that takes long enough to be killed in the middle."""
    write_images(tmp_path / "photos", 16)
    model_file.write_text(model_file.read_text() + SLOW)
    settings = [
        *small_model,
        "loader.shard_size=4",
        "loader.batch_size=2",
        "stages=[explain,discover]",
    ]
    settings[1] = f"model.factory={model_file}:Slow"
    return ["dataset.root=photos", *settings, "loader.num_workers=1"]


def start_and_wait_for_parts(
    arguments: list[str], cwd: Path, parts: int
) -> subprocess.Popen[bytes]:
    """The command in its own process group, as soon as it has committed that many parts."""
    child = subprocess.Popen(
        [*COMMAND, *arguments], cwd=cwd, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 90
    while len(list(cwd.glob("outputs/audit/parts/part-*.parquet"))) < parts:
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no part was committed in time"
        time.sleep(0.02)
    return child


def test_killed_in_the_middle_it_goes_on_to_the_same_tables(
    tmp_path: Path, slow: list[str]
) -> None:
    child = start_and_wait_for_parts(slow, tmp_path, 3)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    folder = tmp_path / "outputs" / "audit"
    committed = {path: path.stat().st_mtime_ns for path in folder.glob("parts/part-*")}
    assert 3 <= len(committed) < 12
    resumed = run(*slow, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{48 - 4 * len(committed)} images to explain" in resumed.stderr
    assert all(path.stat().st_mtime_ns == when for path, when in committed.items())
    assert not list(folder.rglob(".*.tmp"))
    attempts = json.loads((folder / "run.json").read_text())["attempts"]
    assert [attempt["state"] for attempt in attempts] == ["aborted", "complete"]

    whole = run(*slow, "output_dir=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    expected = tables(tmp_path / "whole" / "audit")
    found = tables(folder)
    assert found.keys() == expected.keys()
    assert all(found[name].equals(expected[name]) for name in expected)


def test_sigterm_ends_with_143_and_a_second_run_is_sent_away(
    tmp_path: Path, slow: list[str]
) -> None:
    child = start_and_wait_for_parts(slow, tmp_path, 1)
    second = run(*slow, cwd=tmp_path)
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


@pytest.mark.parametrize(
    ("arguments", "code", "culprits"),
    [
        (["loader.batch_size=none"], 1, ["dataset.root: must be given", "loader.batch_size"]),
        (["dataset.root=nowhere", "model.name=resnet18"], 1, ["nowhere is not a folder"]),
        (["dataset.root=empty", "model.name=resnet18"], 3, ["no images in empty", "1 .txt"]),
        (["dataset.root=photos", "model.name=resnet81"], 1, ["resnet81", "resnet18"]),
        (["dataset.root=photos", "model.naem=resnet18"], 1, ["model.naem"]),
        (
            ["dataset.root=photos", "model.name=resnet18", "model.checkpoint=photos"],
            1,
            ["there is no file photos"],
        ),
        (
            [*RESNET, "model.target_layer=layer5"],
            1,
            ["layer5", "layer4"],
        ),
        (
            ["dataset.root=photos", "model=custom", "model.factory=net.py:missing"],
            1,
            ["net.py has no function 'missing'"],
        ),
        (
            [*CUSTOM, "model.class_names=[red,green,blue]"],
            1,
            ["cat, dog, owl", "red, green, blue"],
        ),
    ],
)
def test_a_users_mistake_is_named_without_a_traceback(
    tmp_path: Path, model_file: Path, arguments: list[str], code: int, culprits: list[str]
) -> None:
    write_images(tmp_path / "photos", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "readme.txt").write_text("nothing")
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == code, ended.stderr
    assert "Traceback" not in ended.stderr
    for culprit in culprits:
        assert culprit in ended.stderr
