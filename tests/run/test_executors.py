"""Shards spread over workers of Ray, and over processes with a share each: equal tables."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest
from ray.exceptions import RayActorError
from test_command import COMMAND, run, tables

from helpers.small_data import MODEL, network, write_images
from pipeline.config import Config, PartitionConfig, RayExecutor
from pipeline.errors import ConfigError, Held, NotFinished
from pipeline.run import lock, partition
from pipeline.run.executors import Task
from pipeline.run.executors.ray import worker, workers
from pipeline.run.executors.ray.shard_queue import ShardQueue
from pipeline.run.executors.ray.workers import WorkerPool
from pipeline.run.partition import Partition
from pipeline.run.versions import versions
from pipeline.stages import audit
from pipeline.storage.lock import is_held
from pipeline.storage.run_record import COMPLETE, Attempt, RunRecord

KILLER = """

class Killer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        import os, pathlib, signal, time
        if os.path.exists("deadly") and (x.amax((1, 2, 3)) > 0.9999).logical_and(
            x.amin((1, 2, 3)) > 0.9999
        ).any():
            os.kill(os.getpid(), signal.SIGKILL)
        if len(list(pathlib.Path("outputs/ray/parts").glob("*.parquet"))) >= 3:
            while os.path.exists("wait"):
                time.sleep(0.02)
        return self.net(x)
"""
RAY = ["executor=ray", "executor.workers=2", "run_id=ray"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a model that can be told to wait or to die, and the tables of a local run."""
    folder = tmp_path_factory.mktemp("spread")
    write_images(folder / "photos", 16)
    (folder / "net.py").write_text(MODEL + KILLER)
    ended = run(*ARGUMENTS, "run_id=local", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    return folder


ARGUMENTS = [
    "dataset.root=photos",
    *network("net.py:Killer"),
    "loader.shard_size=4",
    "loader.batch_size=2",
    "stages=[explain,discover]",
]


@pytest.fixture
def local(place: Path) -> Iterator[Path]:
    """The place, with nothing left of other tests."""
    yield place
    for name in ("wait", "deadly"):
        (place / name).unlink(missing_ok=True)
    for folder in (place / "outputs").iterdir():
        if folder.name != "local":
            folder.rename(place / f"done-{time.monotonic_ns()}")


def equal(place: Path, run_id: str) -> bool:
    """Whether a run has the rows of the local one."""
    mine, theirs = (tables(place / "outputs" / name) for name in (run_id, "local"))
    return mine.keys() == theirs.keys() and all(mine[name].equals(theirs[name]) for name in theirs)


def ray_workers(of: int, doing: str = "") -> list[int]:
    """Process ids of Ray's workers below a process; their names tell what they are doing."""
    listed = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    )
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()[1:]]
    parent = {int(pid): int(above) for pid, above, _ in rows}

    def below(pid: int) -> bool:
        while pid in parent and pid != of:
            pid = parent[pid]
        return pid == of

    return [int(pid) for pid, _, args in rows if f"ray::Worker{doing}" in args and below(int(pid))]


def until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def parts(place: Path, run_id: str) -> int:
    """Number of committed parts."""
    return len(list((place / "outputs" / run_id / "parts").glob("*.parquet")))


def in_the_middle(place: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A run on Ray that has committed something and waits, and its workers, of which the first
    computes; the other may still wait in the trial of its model.
    """
    (place / "wait").touch()
    log = (place / "log").open("w")
    child = subprocess.Popen([*COMMAND, *ARGUMENTS, *RAY], cwd=place, stderr=log)
    until(lambda: ray_workers(child.pid, ".compute") and parts(place, "ray") >= 2)
    computing = ray_workers(child.pid, ".compute")
    return child, [*computing, *(set(ray_workers(child.pid)) - set(computing))]


class TestRay:
    def test_a_worker_killed_in_the_middle_costs_what_it_had_at_hand(self, local: Path) -> None:
        child, workers = in_the_middle(local)
        os.kill(workers[0], signal.SIGKILL)
        (local / "wait").unlink()
        assert child.wait(120) == 0, (local / "log").read_text()
        assert "a worker died" in (local / "log").read_text()
        assert equal(local, "ray")

    @pytest.mark.crash
    def test_the_driver_killed_the_run_goes_on_to_equal_tables(self, local: Path) -> None:
        child, workers = in_the_middle(local)
        child.kill()
        child.wait()
        (local / "wait").unlink()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
        before = {path: path.stat().st_mtime_ns for path in (local / "outputs/ray/parts").iterdir()}
        ended = run(*ARGUMENTS, *RAY, cwd=local)
        assert ended.returncode == 0, ended.stderr
        assert equal(local, "ray")
        assert all(
            path.stat().st_mtime_ns == time_
            for path, time_ in before.items()
            if path.suffix == ".parquet"
        )

    @pytest.mark.crash
    def test_a_signal_leaves_no_process(self, local: Path) -> None:
        child, workers = in_the_middle(local)
        child.terminate()
        assert child.wait(20) == 143
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), 20)

    def test_a_shard_that_kills_its_workers_is_given_up_and_named(self, local: Path) -> None:
        deadly = local / "photos" / "cat" / "0005.png"
        kept, written = deadly.read_bytes(), deadly.stat().st_mtime_ns
        cv2.imwrite(str(deadly), np.full((16, 16, 3), 255, np.uint8))
        (local / "deadly").touch()
        try:
            ended = run(*ARGUMENTS, *RAY, "executor.tries=2", cwd=local)
        finally:
            deadly.write_bytes(kept)
            os.utime(deadly, ns=(written, written))  # the plan holds the time of each file
        assert ended.returncode == 75, ended.stderr
        assert (
            "1 shards were given up, because 2 workers died with each: part-00001" in ended.stderr
        )
        assert parts(local, "ray") == 11

    def test_an_address_where_no_cluster_answers(self, local: Path) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            ended = run(*ARGUMENTS, *RAY, f"executor.address={address}", cwd=local)
        assert ended.returncode == 75
        assert f"executor.address: no Ray cluster answers at {address}" in ended.stderr
        assert "Traceback" not in ended.stderr

    @pytest.mark.crash
    def test_more_cores_than_there_are(self, local: Path) -> None:
        asked = ["executor.cpus_per_worker=999", "executor.timeout=2"]
        ended = run(*ARGUMENTS, *RAY, *asked, cwd=local)
        assert ended.returncode == 75
        assert "no worker could be started within 2 s: each needs {'cpus': 999" in ended.stderr


def test_without_the_extra_the_line_says_what_to_install(place: Path) -> None:
    (place / "sitecustomize.py").write_text("import sys; sys.modules['ray'] = None\n")
    ended = subprocess.run(
        [*COMMAND, *ARGUMENTS, *RAY, "run_id=without"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "executor=ray needs Ray here and on every machine: pip install" in ended.stderr
    assert "Traceback" not in ended.stderr


class TestWorkersThatDiffer:
    def test_versions(self) -> None:
        there = {**versions(), "torch": "1.0"}
        with pytest.raises(ConfigError, match=r"other versions: torch 1\.0, here"):
            workers._check_versions(there)

    def test_a_part_that_is_not_to_be_seen(self) -> None:
        with pytest.raises(ConfigError, match="output_dir: a worker has committed part-00007"):
            workers._check_shared([7])

    def test_what_a_worker_raises_comes_back_as_a_value(self) -> None:
        started = worker.Worker()

        def elsewhere(cores: int) -> Callable[..., None]:
            raise ConfigError("dataset.root: x is not a folder")

        answer = started.open(elsewhere, 1)
        assert isinstance(answer.error, ConfigError)


class TestFalseStarts:
    @pytest.fixture
    def dying_pool(self, monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
        """A pool whose workers all die before they answer."""

        def dies(_answer: object) -> None:
            raise RayActorError

        monkeypatch.setattr("ray.get", dies)
        task = Task(lambda *_: None, lambda _: lambda *_: None, lambda _: [], "cpu")
        made = WorkerPool(RayExecutor(tries=2), task, ShardQueue([1], 2), lambda _: None)
        monkeypatch.setattr(made, "_start", lambda: None)
        return made

    def test_workers_that_die_as_they_start_are_replaced_a_few_times(
        self, dying_pool: WorkerPool
    ) -> None:
        for _ in range(2):
            dying_pool._load(None, None)
        with pytest.raises(NotFinished, match="workers die before they are ready"):
            dying_pool._load(None, None)


class TestQueue:
    def test_groups_shrink_towards_the_end(self) -> None:
        queue = ShardQueue(list(range(40)), tries=3)
        sizes = []
        while group := queue.take(2):
            sizes.append(len(group))
        assert sum(sizes) == 40
        assert sizes == sorted(sizes, reverse=True)
        assert (sizes[0], sizes[-1]) == (8, 1)

    def test_only_a_shard_alone_is_to_blame(self) -> None:
        queue = ShardQueue([1, 2, 3, 4], tries=2)
        queue.waiting.clear()
        queue.put_back([1, 2, 3, 4], [2, 3, 4])
        assert queue.given_up == []
        assert [queue.take(2) for _ in range(3)] == [[2], [3], [4]]
        queue.put_back([3], [3])
        assert queue.take(2) == [3]
        queue.put_back([3], [3])
        assert queue.given_up == [3]
        assert queue.take(2) == []


class TestShare:
    @pytest.mark.parametrize(
        ("environment", "expected"),
        [
            ({}, Partition(0, 1)),
            ({"RANK": "1", "WORLD_SIZE": "4"}, Partition(1, 4)),
            ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, Partition(3, 8)),
            (
                {
                    "SLURM_ARRAY_TASK_ID": "7",
                    "SLURM_ARRAY_TASK_MIN": "1",
                    "SLURM_ARRAY_TASK_MAX": "9",
                    "SLURM_ARRAY_TASK_STEP": "2",
                },
                Partition(3, 5),
            ),
        ],
    )
    def test_told_by_whoever_started_it(
        self, environment: dict[str, str], expected: Partition
    ) -> None:
        assert partition.partition_of(PartitionConfig(), environment) == expected

    def test_settings_go_first(self) -> None:
        environment = {"RANK": "1", "WORLD_SIZE": "4"}
        assert partition.partition_of(PartitionConfig(count=1), environment) == Partition(0, 1)
        assert partition.partition_of(PartitionConfig(2, 3), environment) == Partition(2, 3)

    def test_an_index_that_is_not_below_the_count(self) -> None:
        with pytest.raises(ConfigError, match=r"shard\.index: 3 is not below shard\.count=3"):
            partition.partition_of(PartitionConfig(3, 3), {})

    def test_all_shards_once(self) -> None:
        found = [shard for i in range(3) for shard in Partition(i, 3).shards(11)]
        assert sorted(found) == list(range(11))

    def test_torchrun_with_two_processes(self, local: Path) -> None:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]
        command = [*torchrun, "pipeline", *ARGUMENTS, "run_id=shares"]
        ended = subprocess.run(command, cwd=local, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        assert equal(local, "shares")
        told = json.loads((local / "outputs/shares/run.json").read_text())
        assert (told["state"], len(told["attempts"])) == ("complete", 1)
        each = [
            json.loads((local / f"outputs/shares/shares/{i}-of-2.json").read_text())["attempts"][0]
            for i in range(2)
        ]
        assert [attempt["images"] for attempt in each] == [24, 24]

    def test_of_two_that_finish_at_once_one_runs_the_other_stages(
        self, configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """While this process waits for the lock, another one may end the audit."""
        config = configure(
            "dataset=demo",
            "model=demo",
            "stages=[rank]",
            "shard.index=0",
            "shard.count=2",
            "run_id=once",
        )
        config.folder.mkdir(parents=True)
        record = RunRecord(attempts=[Attempt("2026-01-01T00:00:00+00:00", state=COMPLETE)])
        audited: list[Config] = []
        monkeypatch.setattr(audit, "audit", audited.append)
        audit.run_audit(config)
        assert len(audited) == 1

        @contextmanager
        def wait(folder: Path, **_: int) -> Iterator[None]:
            (folder / "run.json").write_text(record.to_json())
            yield

        monkeypatch.setattr(audit, "lock", wait)
        audit.run_audit(config)
        assert len(audited) == 1
        monkeypatch.setattr(audit, "lock", lambda *_, **__: nullcontext())
        audit.run_audit(config)  # a later start runs the stages again
        assert len(audited) == 2

    def test_a_share_at_work_keeps_out_the_whole_run(self, tmp_path: Path) -> None:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/plan.parquet").touch()
        with lock.lock(tmp_path / "run", Partition(0, 2)):
            with lock.lock(tmp_path / "run", Partition(1, 2)):
                pass
            assert is_held(tmp_path / "run")
            with pytest.raises(Held), lock.lock(tmp_path / "run"):
                pass
        assert not is_held(tmp_path / "run")
        with (
            lock.lock(tmp_path / "run"),
            pytest.raises(Held),
            lock.lock(tmp_path / "run", Partition(0, 2)),
        ):
            pass

    def test_tasks_of_an_array_one_after_the_other(self, local: Path) -> None:
        for task in ("0", "1"):
            environment = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
            ended = subprocess.run(
                [*COMMAND, *ARGUMENTS, "run_id=array"],
                cwd=local,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=False,
            )
            assert ended.returncode == 0, ended.stderr
            if task == "0":
                done = "partition 0-of-2 is done; 6 parts of other partitions are missing"
                assert done in ended.stderr
                assert not (local / "outputs/array/analysis").exists()
        assert equal(local, "array")
