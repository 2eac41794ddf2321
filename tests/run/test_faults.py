"""What goes wrong around a run: the exit code, one clear line, nothing lost that was committed."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from test_command import patient, run, start, tables  # noqa: F401 - patient is a fixture

from helpers.small_data import write_images
from pipeline.config import Config
from pipeline.errors import NotFinished
from pipeline.run import faults
from pipeline.stages.audit import audit
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder

SLOW = """
import time
import numpy as np


class Slow:
    targets, classes = [0, 1, 2, 0], ["cat", "dog", "owl"]

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            time.sleep(60)
        return np.full((16, 16, 3), 40 * index, np.uint8), self.targets[index]
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, which takes root to make."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be made here: {made.stderr}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said_and_the_run_goes_on_after_space_is_made(
    small_disk: Path,
    tmp_path: Path,
    small_model: list[str],
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_images(tmp_path / "photos", 30)
    settings = [*small_model, "dataset.root=photos", "stages=[explain]", "loader.shard_size=6"]
    (small_disk / "ballast").write_bytes(bytes(60_000))
    full = run(*settings, f"output_dir={small_disk}", cwd=tmp_path)
    assert full.returncode == 75, full.stderr
    assert "Traceback" not in full.stderr
    last = full.stderr.splitlines()[-1]
    assert "the disk is full; committed parts stay" in last
    folder = small_disk / "audit"
    done = {part: part.stat().st_mtime_ns for part in folder.glob("parts/part-*")}
    assert 0 < len(done) < 15
    again = run(*settings, f"output_dir={small_disk}", cwd=tmp_path)
    assert again.returncode == 75, again.stderr
    assert "Traceback" not in again.stderr
    (small_disk / "ballast").unlink()
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    resumed = run(*settings, f"output_dir={small_disk}", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert all(part.stat().st_mtime_ns == when for part, when in done.items())
    assert not list(folder.rglob("*.tmp"))
    monkeypatch.chdir(tmp_path)
    audit(configure(*settings, "output_dir=whole"))
    expected, found = tables(tmp_path / "whole" / "audit"), tables(folder)
    assert found.keys() == expected.keys()
    assert all(found[name].equals(expected[name]) for name in expected)


def test_a_loader_process_that_is_killed_ends_the_run_with_75(
    tmp_path: Path,
    patient: list[str],  # noqa: F811
) -> None:
    error = tmp_path / "stderr"
    with error.open("w") as stderr:
        child = start(patient, tmp_path, stderr)
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    (tmp_path / "go").touch()
    assert child.wait(timeout=60) == 75, error.read_text()
    assert "a loader process" in error.read_text().splitlines()[-1]
    assert "Traceback" not in error.read_text()
    assert run(*patient, cwd=tmp_path).returncode == 0


def test_control_c_in_the_middle_of_a_shard_leaves_nobody(
    tmp_path: Path,
    patient: list[str],  # noqa: F811
) -> None:
    child = start(patient, tmp_path)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=20) == 130
    with pytest.raises(ProcessLookupError):  # nobody of its process group is left
        os.killpg(child.pid, 0)
    assert not list((tmp_path / "outputs").rglob("*.tmp"))


@pytest.mark.parametrize("n_workers", [0, 1])
def test_an_image_that_never_comes_is_an_error_row(
    configure: Callable[..., Config], tmp_path: Path, small_model: list[str], n_workers: int
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    dataset = ["dataset=custom", f"dataset.factory={tmp_path}/slow.py:Slow", "data.timeout=0.3"]
    limits = ["data.max_error_rate=1", "stages=[explain]", f"loader.num_workers={n_workers}"]
    config = configure(*small_model, *dataset, *limits)
    begun = time.monotonic()
    audit(config)
    assert time.monotonic() - begun < 30
    rows = pq.read_table(RunFolder(config.folder).part(0), columns=["status", "error"]).to_pylist()
    assert [row["status"] for row in rows] == ["ok", "ok", "error", "ok"]
    assert rows[2]["error"] == "not read within 0.3 s"
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left", "x.parquet"), "x.parquet: the disk is full"),
        (OSError(errno.EROFS, "Read-only"), "the disk is read-only"),
        (OSError(errno.ESTALE, "Stale"), "the network drive is gone"),
        (torch.OutOfMemoryError("CUDA out of memory"), "the device is out of memory"),
        (MemoryError(), "out of memory; set loader"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), r"process \(7\)"),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), r"process \(7, 8\)"),
    ],
)
def test_faults_of_the_machine_are_told(error: Exception, said: str) -> None:
    with pytest.raises(NotFinished, match=said), faults.as_not_finished():
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes"), OSError("who knows"), KeyError("x")])
def test_bugs_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, faults.as_not_finished():
        raise error
    assert raised.value is error


def test_out_of_memory_for_a_single_image_ends_with_75_and_the_journal_says_so(
    configure: Callable[..., Config],
    tmp_path: Path,
    small_model: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_images(tmp_path / "photos", 2)

    def full(*_arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(run_folder, "commit_part", full)
    config = configure(f"dataset.root={tmp_path}/photos", *small_model, "stages=[explain]")
    with pytest.raises(NotFinished, match="even for one image"):
        audit(config)
    assert '"exit_code": 75' in (config.folder / "run.json").read_text()


def test_bit_flips_and_cuts_are_computed_again(
    configure: Callable[..., Config], tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 8)
    settings = [f"dataset.root={tmp_path}/photos", *small_model, "stages=[explain]"]
    config = configure(*settings, "loader.shard_size=4")
    audit(config)
    expected = tables(config.folder)
    parts = sorted(config.folder.glob("parts/*.parquet"))
    assert len(parts) == 6
    content = parts[0].read_bytes()
    for path, changed in (
        (parts[0], content[:99] + bytes([content[99] ^ 4]) + content[100:]),  # in a page
        (parts[2], parts[2].read_bytes()[:-300]),
        (parts[3], b""),
    ):
        path.write_bytes(changed)
    footer = bytearray(parts[5].read_bytes())
    footer[-400] ^= 1
    parts[5].write_bytes(footer)
    whole = {parts[1]: parts[1].stat().st_mtime_ns, parts[4]: parts[4].stat().st_mtime_ns}
    audit(config)
    found = tables(config.folder)
    assert all(found[name].equals(expected[name]) for name in expected)
    assert all(path.stat().st_mtime_ns == when for path, when in whole.items())
