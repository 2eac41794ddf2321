"""Examples of scheduled jobs: read by the tools they are for, run with a stand-in for camaudit."""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline.config import Config

JOBS = Path(__file__).parents[2] / "scripts" / "jobs"
STAND_IN = """#!/bin/bash
echo "$@" >> calls
trap 'echo stopped >> calls; exit 143' TERM
[ ! -e wait ] || { touch waiting; while true; do sleep 0.05; done; }
code=$(head -1 codes); sed -i 1d codes
exit "${code:-0}"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with stand-ins of camaudit, srun and scontrol that write down their calls."""
    for name in ("camaudit", "scontrol"):
        (tmp_path / name).write_text(STAND_IN)
    (tmp_path / "srun").write_text('#!/bin/bash\nshift\nexec "$@"\n')
    for name in ("camaudit", "scontrol", "srun"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "codes").touch()
    return tmp_path


def command(place: Path, script: str, **environment: str) -> dict[str, Any]:
    own = {"PATH": f"{place}:{os.environ['PATH']}", "AUDIT_HOME": str(place), "WAIT": "0"}
    arguments = [str(JOBS / script), "dataset.root=photos", "model.name=resnet50"]
    return {"args": arguments, "cwd": place, "env": os.environ | own | environment}


def ran(place: Path, script: str, *codes: int, **environment: str) -> tuple[int, list[str]]:
    """Exit code and calls, where camaudit ends with these codes, one after the other."""
    (place / "codes").write_text("".join(f"{code}\n" for code in codes))
    (place / "calls").unlink(missing_ok=True)
    code = subprocess.run(**command(place, script, **environment), check=False).returncode
    return code, (place / "calls").read_text().splitlines()


def test_a_night_has_the_last_complete_one_as_baseline(place: Path) -> None:
    first = "run_id=2026-01-01 hydra/job_logging=json dataset.root=photos model.name=resnet50"
    for night in ("2026-01-01", "2026-01-02"):
        (place / "outputs" / night).mkdir(parents=True)
        (place / "outputs" / night / "plan.parquet").touch()
    assert ran(place, "nightly.sh", 0, NIGHT="2026-01-01") == (0, [first])
    code, (call,) = ran(place, "nightly.sh", 2, NIGHT="2026-01-02")
    assert code == 2
    assert call.endswith("baseline=outputs/2026-01-01 gate=strict")
    _, (call,) = ran(place, "nightly.sh", 0, NIGHT="2026-01-03")
    assert "baseline=outputs/2026-01-01" in call  # a night that failed is no baseline


@pytest.mark.parametrize(
    ("codes", "tries", "code"),
    [((75, 75, 0), 3, 0), ((75, 75, 75, 0), 3, 75), ((1,), 1, 1), ((3,), 1, 3), ((75, 2), 2, 2)],
)
def test_only_what_is_not_finished_is_tried_again(
    place: Path, codes: tuple[int, ...], tries: int, code: int
) -> None:
    (place / "outputs").mkdir()
    found, calls = ran(place, "nightly.sh", *codes)
    assert (found, len(calls)) == (code, tries)
    assert len(ran(place, "nightly.sh", *codes, TRIES="1")[1]) == 1


@pytest.mark.parametrize("script", ["nightly.sh", "slurm_array.sh"])
def test_a_signal_is_passed_on(place: Path, script: str) -> None:
    (place / "wait").touch()
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7"}
    child = subprocess.Popen(**command(place, script, **slurm))
    while not (place / "waiting").exists():
        time.sleep(0.02)
    (place / "wait").unlink()
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=20) == 143
    assert "stopped" in (place / "calls").read_text()


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (75, True), (2, False)])
def test_a_slurm_task_comes_back_where_it_is_not_finished(
    place: Path, code: int, *, requeued: bool
) -> None:
    slurm = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7"}
    found, calls = ran(place, "slurm_array.sh", code, **slurm)
    assert found == code
    assert calls[0] == "run_id=scans dataset.root=/data/scans model.name=resnet50 shard.count=1"
    assert calls[1:] == (["requeue 7_1"] if requeued else [])


def test_systemd_takes_service_and_timer(tmp_path: Path) -> None:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd is not here")
    for name in ("camaudit.service", "camaudit.timer"):
        text = (JOBS / name).read_text().replace("/srv/audit/scripts/jobs/nightly.sh", "/bin/true")
        (tmp_path / name).write_text(text.replace("/srv/audit", "/").replace("User=audit\n", ""))
    files = [str(tmp_path / name) for name in ("camaudit.service", "camaudit.timer")]
    checked = subprocess.run(
        [tool, "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "camaudit" not in checked.stderr, checked.stderr
    broken = (tmp_path / "camaudit.timer").read_text().replace("02:15:00", "26:15:00")
    (tmp_path / "camaudit.timer").write_text(broken)
    again = subprocess.run(
        [tool, "verify", "--man=no", *files], capture_output=True, text=True, check=False
    )
    assert "26:15:00" in again.stderr  # the check would see a mistake


def test_kubernetes_takes_the_cron_job() -> None:
    job = yaml.safe_load((JOBS / "kubernetes-cronjob.yaml").read_text())
    kubernetes_validate.validate(job, "1.30", strict=True)
    policy = job["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert policy[0]["onExitCodes"]["values"] == [1, 2, 3]
    policy[0]["onExitCodes"]["operator"] = 7
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.30", strict=True)


def test_cron_has_times_and_a_command() -> None:
    lines = [line for line in (JOBS / "camaudit.cron").read_text().splitlines() if line[0] != "#"]
    (line,) = [line for line in lines if not line.split("=")[0].isidentifier()]
    *times, entry = line.split(maxsplit=5)
    bounds = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 7)]
    for field, (least, most) in zip(times, bounds, strict=True):
        assert field == "*" or least <= int(field) <= most
    assert "%" not in entry  # which cron takes for a line break
    checked = subprocess.run(["bash", "-n", "-c", entry], check=False)
    assert checked.returncode == 0


@pytest.mark.parametrize(("code", "final"), [(0, None), (2, True), (3, True), (75, False)])
def test_the_dag_retries_what_may_get_better(
    monkeypatch: pytest.MonkeyPatch, code: int, *, final: bool | None
) -> None:
    """With stand-ins for Airflow's decorators and errors."""

    class Retried(Exception):  # noqa: N818
        pass

    class Failed(Exception):  # noqa: N818
        pass

    def plain(**_settings: Any) -> Callable[[Any], Any]:
        return lambda function: function

    modules: dict[str, dict[str, Any]] = {
        "airflow": {}, "airflow.sdk": {"dag": plain, "task": plain},
        "airflow.exceptions": {"AirflowException": Retried, "AirflowFailException": Failed},
    }  # fmt: skip
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    calls: list[dict[str, str]] = []

    def run(_command: list[str], env: dict[str, str], **_more: Any) -> Any:
        calls.append(env)
        return subprocess.CompletedProcess(_command, code)

    monkeypatch.setattr(subprocess, "run", run)
    if final is None:
        runpy.run_path(str(JOBS / "airflow_dag.py"))
    else:
        with pytest.raises(Failed if final else Retried, match=f"ended with {code}"):
            runpy.run_path(str(JOBS / "airflow_dag.py"))
    assert calls[0]["NIGHT"] == "{{ ds }}"


def test_their_settings_are_camaudits(
    configure: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("outputs/before").mkdir(parents=True)
    Path("outputs/before/plan.parquet").touch()
    text = "\n".join(path.read_text() for path in sorted(JOBS.iterdir()) if path.is_file())
    words = {word.strip("[](),\"'") for word in shlex.split(text.replace("'", ""), comments=True)}
    found = {w for w in words if w.startswith(("dataset.root=", "model.", "loader.", "gate="))}
    assert {"gate=strict", "model.name=resnet50"} <= found
    for word in found - {"dataset.root=/data/$name"}:
        configure("dataset.root=x", "model.name=resnet18", "baseline=outputs/before", word)
