"""Lock, signals, run.json, progress, devices."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.errors import ConfigError, NotFinished, Stopped
from pipeline.model.device import pick_device
from pipeline.run import lock, state
from pipeline.run.monitoring import progress
from pipeline.run.monitoring.progress import progress_bar
from pipeline.run.signals import stop_on_signals
from pipeline.storage.files import make_folder


@pytest.fixture
def config(configure: Callable[..., Config]) -> Config:
    """Settings of some run."""
    return configure("dataset.root=x", "model.name=x")


def test_one_process_holds_a_folder(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from pipeline.run.lock import lock\n"
    hold += "with lock(Path(sys.argv[1])): print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(NotFinished, match="another camaudit"), lock.lock(tmp_path):
            pass
        other.kill()
        other.wait()
    with lock.lock(tmp_path):  # a dead process holds nothing
        pass


def test_signals_end_a_run_with_their_own_code_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stopped, stop_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_run_json_keeps_every_attempt(config: Config) -> None:
    first = state.Journal(config)
    first.counts = {"planned": 3, "ok": 3, "error": 0}
    first.warn("look at this")
    first.warn("look at this")
    first.write()  # and then it is killed
    second = state.Journal(config)
    with second.stage("rank"):
        pass
    second.end("complete", 0)
    content = json.loads((config.folder / "run.json").read_text())
    assert content["state"] == "complete"
    assert content["exit_code"] == 0
    assert [attempt["state"] for attempt in content["attempts"]] == ["aborted", "complete"]
    assert content["counts"] == {"planned": 3, "ok": 3, "error": 0}
    assert content["warnings"] == ["look at this"]
    assert set(content["seconds"]) == {"rank"}
    assert content["versions"]["torch"] != "unknown"
    assert content["config"]["dataset"]["root"] == "x"


def test_a_damaged_run_json_does_not_stop_a_run(config: Config) -> None:
    config.folder.mkdir(parents=True)
    (config.folder / "run.json").write_text("{")
    state.Journal(config).end("complete", 0)
    assert json.loads((config.folder / "run.json").read_text())["state"] == "complete"


def test_without_a_terminal_progress_is_log_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOG_INTERVAL", 0.0)
    caplog.set_level(logging.INFO)
    with progress_bar(100, 40) as advance:
        advance(20)
        advance(20)
    assert len(caplog.messages) == 2
    assert "60/100 images" in caplog.messages[0]
    assert "80/100 images" in caplog.messages[1]


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        pick_device(name)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/run cannot be made"):
        make_folder(tmp_path / "file" / "run")
