"""Runs and pictures in buckets, against a server of S3: the same tables, nothing lost or half."""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer
from test_command import tables
from test_run_folder import SETUP, part

from helpers import buckets
from helpers.buckets import CUT, PASS, REFUSE, STALL
from helpers.small_data import write_images
from pipeline.cli import export, show, status
from pipeline.config import Config, ImageFolder, Manifest
from pipeline.data.datasets import open_source
from pipeline.errors import ConfigError, DataError, NotFinished, Superseded
from pipeline.run import faults, lock
from pipeline.stages.audit import audit
from pipeline.storage import files, lease, parquet, paths, run_folder
from pipeline.storage.files import StoreError
from pipeline.storage.paths import to_path
from pipeline.storage.run_folder import RunFolder

PATIENT = """

class Patient(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        import pathlib, time
        time.sleep(0.2 * pathlib.Path("slow").exists())
        while pathlib.Path("hold").exists():
            time.sleep(0.02)
        return self.net(x)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Host and port of a server of S3."""
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    yield running.get_host_and_port()
    running.stop()


@pytest.fixture
def s3(server: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of it, with an empty bucket `audits`; the environment leads to it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    lead_to(monkeypatch, f"http://{server[0]}:{server[1]}")
    client = boto3.client("s3", endpoint_url=f"http://{server[0]}:{server[1]}")
    client.create_bucket(Bucket="audits")
    for key in keys(client):
        client.delete_object(Bucket="audits", Key=key)
    return client


def lead_to(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let this process and its children find S3 there."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    paths._opened.clear()
    s3fs.S3FileSystem.clear_instance_cache()


def keys(client: Any) -> list[str]:
    """Keys of all objects in the bucket."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="audits")
    return [each["Key"] for page in pages for each in page.get("Contents", [])]


def upload(client: Any, folder: Path) -> None:
    """A folder to the bucket, under its own name."""
    for path in folder.rglob("*"):
        if path.is_file():
            key = str(path.relative_to(folder.parent))
            client.put_object(Bucket="audits", Key=key, Body=path.read_bytes())


def copied(client: Any, to: Path) -> Path:
    """The run in the bucket as a local folder."""
    for key in keys(client):
        if key.startswith("runs/"):
            path = to / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(client.get_object(Bucket="audits", Key=key)["Body"].read())
    return to / "runs" / "audit"


def command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The audit to its end, its output captured."""
    call = [sys.executable, "-m", "pipeline", *arguments]
    return subprocess.run(call, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def same(found: dict[str, pa.Table], expected: dict[str, pa.Table]) -> bool:
    """Whether two runs hold the same, but for what tells a file of a bucket from a later one."""
    return found.keys() == expected.keys() and all(
        found[name].equals(table)
        if name != "plan.parquet"
        else found[name].drop(["version"]).equals(table.drop(["version"]))
        for name, table in expected.items()
    )


def test_a_run_from_bucket_to_bucket_is_that_of_this_machine(
    s3: Any,
    tmp_path: Path,
    small_model: list[str],
    configure: Callable[..., Config],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "photos", 6)
    (tmp_path / "photos" / "cat" / "bad.png").write_bytes(b"no picture")
    (tmp_path / "photos" / ".hidden").mkdir()
    (tmp_path / "photos" / ".hidden" / "x.png").write_bytes(b"hidden")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    upload(s3, tmp_path / "photos")
    given = [*small_model, "loader.num_workers=2", "loader.shard_size=8"]
    given += ["report.suspects=4", "report.examples=4", "data.max_error_rate=1"]
    there = command(
        *given, "dataset.root=s3://audits/photos", "output_dir=s3://audits/runs", cwd=tmp_path
    )
    assert there.returncode == 0, there.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.py", "outputs", "photos"]
    assert [path.name for path in (tmp_path / "outputs" / "audit").iterdir()] == ["attempts"]
    audit(configure(*given, f"dataset.root={tmp_path}/photos", f"output_dir={tmp_path}/here"))
    found = copied(s3, tmp_path / "copy")
    assert same(tables(found), tables(tmp_path / "here" / "audit"))
    names = [
        {str(p.relative_to(run)) for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
        for run in (found, tmp_path / "here" / "audit")
    ]
    assert names[0] == {name for name in names[1] if not name.startswith("attempts/")}
    page = s3.head_object(Bucket="audits", Key="runs/audit/report/index.html")
    assert page["ContentType"] == "text/html"
    assert "runs/audit/.lock" not in keys(s3)

    assert status.main(["s3://audits/runs/audit", "--verify"]) == 0
    assert "damaged: none" in capsys.readouterr().out
    assert show.main(["s3://audits/runs/audit", "--csv", "--top", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert export.main(["s3://audits/runs/audit", "csv"]) == 1
    assert "give a local file with --to" in capsys.readouterr().err
    given_file = ["spotlight", "--to", str(tmp_path / "x.parquet")]
    assert export.main(["s3://audits/runs/audit", *given_file]) == 0

    key = "runs/audit/parts/part-00001.parquet"
    content = bytearray(s3.get_object(Bucket="audits", Key=key)["Body"].read())
    content[200] ^= 4
    s3.put_object(Bucket="audits", Key=key, Body=bytes(content))
    assert status.main(["s3://audits/runs/audit", "--verify"]) == 3
    then = [*given, "dataset.root=s3://audits/photos", "output_dir=s3://audits/runs"]
    more = ["run_id=next", "baseline=s3://audits/runs/audit", "stages=[explain,discover]"]
    with pytest.raises(DataError, match=r"part-00001\.parquet is damaged"):
        audit(configure(*then, *more))


@pytest.fixture
def settings(tmp_path: Path, s3: Any, small_model: list[str]) -> list[str]:
    """Overrides of a run of 6 shards in a bucket."""
    write_images(tmp_path / "photos", 8)
    upload(s3, tmp_path / "photos")
    sizes = ["loader.shard_size=4", "loader.batch_size=2", "stages=[explain,discover]"]
    return [*small_model, *sizes, "dataset.root=s3://audits/photos", "output_dir=s3://audits/runs"]


def as_here(settings: list[str], tmp_path: Path, configure: Callable[..., Config]) -> Any:
    """The tables of the same run on this machine."""
    local = [f"dataset.root={tmp_path}/photos", f"output_dir={tmp_path}/here"]
    audit(configure(*settings, *local))
    return tables(tmp_path / "here" / "audit")


def test_killed_in_the_middle_it_goes_on_to_the_same_tables(
    settings: list[str],
    s3: Any,
    tmp_path: Path,
    model_file: Path,
    configure: Callable[..., Config],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model_file.write_text(model_file.read_text() + PATIENT)
    settings += [f"model.factory={model_file}:Patient", "loader.num_workers=1"]
    call = [sys.executable, "-m", "pipeline", *settings]
    (tmp_path / "slow").touch()
    child = subprocess.Popen(call, cwd=tmp_path, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 60
    while not any("/part-" in key for key in keys(s3)):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (tmp_path / "hold").touch()
    second = command(*settings, cwd=tmp_path)
    assert second.returncode == 75, second.stderr
    assert (
        f"another camaudit is at work in s3://audits/runs/audit: process {child.pid}"
        in (second.stderr.splitlines()[-1])
    )
    assert status.main(["s3://audits/runs/audit"]) == 75
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    done = [key for key in keys(s3) if "/part-" in key]
    assert 0 < len(done) < 6
    (tmp_path / "hold").unlink()
    (tmp_path / "slow").unlink()
    config = configure(*settings)
    with lock.lock(config.folder), caplog.at_level(logging.INFO):
        audit(config)
    assert f"{24 - 4 * len(done)} images to explain, {4 * len(done)} are done" in caplog.text
    told = json.loads(files.read_text(to_path("s3://audits/runs/audit/run.json")))
    assert [attempt["state"] for attempt in told["attempts"]] == ["aborted", "complete"]
    found = tables(copied(s3, tmp_path / "copy"))
    monkeypatch.chdir(tmp_path)
    assert same(found, as_here(settings, tmp_path, configure))


def test_a_put_that_is_cut_leaves_no_part_and_the_run_goes_on_later(
    settings: list[str],
    s3: Any,
    server: tuple[str, int],
    tmp_path: Path,
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def rule(method: str, path: str) -> str:
        return CUT if method == "PUT" and "part-00002" in path else PASS

    with buckets.proxy(server, rule) as url:
        lead_to(monkeypatch, url)
        failed = command(*settings, cwd=tmp_path)
    lead_to(monkeypatch, f"http://{server[0]}:{server[1]}")
    assert failed.returncode == 75, failed.stderr
    assert "Traceback" not in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert "part-00002.parquet: " in last and "committed parts stay; run the same" in last
    done = [key for key in keys(s3) if "/part-" in key]
    assert "runs/audit/parts/part-00001.parquet" in done
    assert "runs/audit/parts/part-00002.parquet" not in done
    audit(configure(*settings))
    found = tables(copied(s3, tmp_path / "copy"))
    assert same(found, as_here(settings, tmp_path, configure))


def test_an_image_that_is_missing_refused_or_never_comes_is_an_error_row(
    s3: Any,
    server: tuple[str, int],
    tmp_path: Path,
    small_model: list[str],
    configure: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_images(tmp_path / "photos", 2)
    upload(s3, tmp_path / "photos")
    names = ["cat/0000.png", "cat/gone.png", "dog/0000.png", "owl/0000.png", "owl/0001.png"]
    rows = "".join(f"photos/{name},{name[:3]}\n" for name in names)
    s3.put_object(Bucket="audits", Key="list.csv", Body=f"path,label\n{rows}".encode())
    fates = {"photos/dog/0000.png": REFUSE, "photos/owl/0000.png": STALL}

    def rule(method: str, path: str) -> str:
        return next((fate for key, fate in fates.items() if path.endswith(key)), PASS)

    with buckets.proxy(server, rule) as url:
        lead_to(monkeypatch, url)
        config = configure(
            *[*small_model, "dataset=manifest", "dataset.path=s3://audits/list.csv"],
            *["data.max_error_rate=1", "data.timeout=1", "stages=[explain]"],
            "output_dir=s3://audits/runs",
        )
        audit(config)
        found = parquet.read(RunFolder(config.folder).part(0), ["status", "error"]).to_pylist()
    assert [row["status"] for row in found] == ["ok", "error", "error", "error", "ok"]
    assert [row["error"] for row in found[1:4]] == [
        "cannot be read: The specified key does not exist.",
        "cannot be read: access is refused: Access Denied",
        "not read within 1 s",
    ]


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["output_dir=s3://gone/runs"], 1, "output_dir: nothing can be written: s3://gone/runs"),
        (["dataset.root=s3://gone/photos"], 1, "dataset.root: s3://gone/photos: The specified"),
        (["dataset.root=s3://audits/no"], 3, "no images in s3://audits/no"),
        (["dataset=manifest", "dataset.path=s3://audits/x.csv"], 1, "there is no file s3://audits"),
        (["dataset=huggingface", "dataset.path=s3://audits/x"], 1, "must be local files"),
    ],
)
def test_places_that_are_not_there(
    overrides: list[str],
    code: int,
    said: str,
    s3: Any,
    tmp_path: Path,
    small_model: list[str],
    configure: Callable[..., Config],
) -> None:
    write_images(tmp_path / "photos", 1)
    given = [f"dataset.root={tmp_path}/photos"] if len(overrides) == 1 else []
    config = configure(*small_model, *given, *overrides)
    with pytest.raises((ConfigError, DataError), match=said) as raised, lock.lock(config.folder):
        audit(config)
    assert raised.value.exit_code == code


def test_no_rights_and_no_answer_are_one_line(
    s3: Any,
    server: tuple[str, int],
    tmp_path: Path,
    configure: Callable[..., Config],
    small_model: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with buckets.proxy(server, lambda method, _path: REFUSE if method == "PUT" else PASS) as url:
        lead_to(monkeypatch, url)
        refused = pytest.raises(ConfigError, match="s3://audits/x: access is refused")
        with refused, lease.held(to_path("s3://audits/x")):
            pass
    lead_to(monkeypatch, "http://127.0.0.1:9")
    write_images(tmp_path / "photos", 1)
    ended = command(
        *small_model, "dataset.root=photos", "output_dir=s3://audits/runs", cwd=tmp_path
    )
    assert ended.returncode == 75
    assert "Traceback" not in ended.stderr
    with pytest.raises(NotFinished, match="photos: Could not connect to"):
        open_source(ImageFolder(root="s3://audits/photos"), 10**6)
    assert "nothing can be written: s3://audits/runs/audit/.lock: Could not connect" in ended.stderr
    with (
        pytest.raises(NotFinished, match=r"x\.parquet: .*committed parts stay"),
        faults.as_not_finished(),
    ):
        parquet.write(pa.table({"a": [1]}), to_path("s3://audits/x.parquet"))


@pytest.mark.parametrize("protocol", ["ftp", "sftp", "http", "github"])
def test_an_output_without_atomic_writes_is_refused(
    protocol: str, configure: Callable[..., Config]
) -> None:
    with pytest.raises(ConfigError, match=f"output_dir: {protocol}://x/y cannot be written to"):
        configure("dataset.root=photos", "model.name=resnet18", f"output_dir={protocol}://x/y")


@pytest.mark.parametrize("package", ["upath", "s3fs"])
def test_without_the_extra_it_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_opened", {})
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ConfigError, match=r"s3://x/y: pip install \"camaudit\[remote\]\""):
        to_path("s3://x/y")


def test_a_folder_of_a_bucket_is_copied_for_tools_that_want_one(s3: Any, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 1)
    upload(s3, tmp_path / "photos")
    with files.fetched(to_path("s3://audits/photos")) as copy:
        assert copy.name == "photos"
        assert sorted(p.name for p in copy.rglob("*.png")) == ["0000.png"] * 3
        assert (copy / "cat" / "0000.png").is_file()
    assert not copy.exists()


def test_a_report_brought_anew_leaves_nothing_of_the_old_one(s3: Any, tmp_path: Path) -> None:
    to = to_path("s3://audits/runs/audit/report")
    for names in (["index.html", "a/old.js"], ["index.html", "a/new.js"]):
        folder = tmp_path / names[1].replace("/", "-")
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        files.upload(folder, to, last="index.html")
    assert keys(s3) == ["runs/audit/report/a/new.js", "runs/audit/report/index.html"]


def test_a_forked_process_leaves_the_connections_of_its_parent_alone(s3: Any) -> None:
    s3.put_object(Bucket="audits", Key="x", Body=b"x")
    for _ in range(2):
        assert files.get(to_path("s3://audits/x")) == b"x"
        process = os.fork()
        if not process:
            read = files.fetch("s3://audits/x", 10)
            gc.collect()
            os._exit(read != b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
        begun = time.monotonic()
        assert files.get(to_path("s3://audits/x")) == b"x"
        assert time.monotonic() - begun < 2


def test_places_of_this_machine_stay_paths(tmp_path: Path) -> None:
    assert to_path("a/b") == Path("a/b")
    assert to_path(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    with pytest.raises(ConfigError, match="nope://x"):
        to_path("nope://x")


class TestLease:
    @pytest.fixture(autouse=True)
    def quick(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "EVERY", 0.1)
        monkeypatch.setattr(lease, "SETTLE", 0.1)

    def test_it_is_renewed_and_let_go_of(self, s3: Any) -> None:
        run = to_path("s3://audits/runs/a")
        with lease.held(run):
            assert lease.is_held(run)
            first = s3.head_object(Bucket="audits", Key="runs/a/.lock")["LastModified"]
            time.sleep(1.2)
            assert s3.head_object(Bucket="audits", Key="runs/a/.lock")["LastModified"] > first
            with pytest.raises(NotFinished, match="another camaudit is at work"), lease.held(run):
                pass
        assert not lease.is_held(run)
        assert keys(s3) == []

    def test_one_that_was_taken_over_ends_the_run_which_writes_no_more(self, s3: Any) -> None:
        run = to_path("s3://audits/runs/a")
        taken = json.dumps({"host": "other", "pid": 1, "token": "x"}).encode()
        ended = pytest.raises(Superseded, match="another camaudit took over")
        with ended as raised, lease.held(run):
            s3.put_object(Bucket="audits", Key="runs/a/.lock", Body=taken)
            try:
                time.sleep(10)
            finally:
                with pytest.raises(StoreError, match="took over"):
                    parquet.write(pa.table({"a": [1]}), RunFolder(run).plan)
        assert raised.value.exit_code == 75
        assert keys(s3) == ["runs/a/.lock"]  # which is the other's

    def test_a_stale_one_of_another_machine_is_taken_over(
        self, s3: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = to_path("s3://audits/runs/a")
        told = {"host": "other", "machine": "other", "pid": 1, "token": "x", "started": "1"}
        s3.put_object(Bucket="audits", Key="runs/a/.lock", Body=json.dumps(told).encode())
        with pytest.raises(NotFinished, match="process 1 on other"), lease.held(run):
            pass
        monkeypatch.setattr(lease, "STALE", -1.0)
        monkeypatch.setattr(lease, "MARGIN", -60.0)
        with lease.held(run):
            assert lease._read(run / ".lock")["pid"] == os.getpid()
        assert keys(s3) == []

    def test_one_of_a_process_that_has_ended_is_taken_over_at_once(self, s3: Any) -> None:
        run = to_path("s3://audits/runs/a")
        told = json.loads(lease.Lease(run).content()) | {"pid": 2**22 + 1}
        s3.put_object(Bucket="audits", Key="runs/a/.lock", Body=json.dumps(told).encode())
        assert not lease.is_held(run)
        with lease.held(run):
            assert lease.is_held(run)


class TestRules:
    """Both rules, on a filesystem in memory."""

    @pytest.fixture(params=[paths.PUT, paths.RENAME])
    def run(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
        monkeypatch.setitem(paths.RULES, "memory", request.param)
        folder = RunFolder(to_path(f"memory://{time.monotonic_ns()}/run"))
        for shard in range(SETUP.n_shards):
            run_folder.commit_part(folder, SETUP, shard, part(SETUP, shard))
        return folder

    def test_what_is_committed_is_read_and_checked(self, run: RunFolder) -> None:
        run_folder.commit_part(run, SETUP, 1, part(SETUP, 1))
        assert run_folder.missing_shards(run, SETUP) == run_folder.verify(run, SETUP) == []
        assert run_folder.rows(run, SETUP).to_table()["index"].to_pylist() == list(range(10))
        names = [path.name for path in files.names(run.part(0).parent, "*")]
        assert names == [f"part-0000{shard}.parquet" for shard in range(3)]
        files.remove(run.part(2))
        content = bytearray(files.get(run.part(1)) or b"")
        content[99] ^= 1
        files.put(run.part(1), bytes(content))
        assert run_folder.missing_shards(run, SETUP) == [2]
        assert run_folder.verify(run, SETUP) == [1, 2]
        with pytest.raises(DataError, match=r"part-00001\.parquet is damaged"):
            parquet.read(run.part(1))
        with pytest.raises(NotFinished, match="is not there yet"):
            parquet.read(run.part(2))

    def test_what_does_not_arrive_leaves_nothing(
        self, run: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(files, "_arrived", lambda *_arguments: False)
        with pytest.raises(StoreError, match="reads back as something else"):
            parquet.write(pa.table({"a": [1]}), run.analysis("x"))
        assert not files.is_file(run.analysis("x"))
        assert files.names(run.analysis("x").parent, ".*") == []

    def test_a_footer_longer_than_what_is_asked_for_first(
        self, run: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_folder, "TAIL", 64)
        assert run_folder.missing_shards(run, SETUP) == []


def test_a_bucket_is_listed_once_and_each_picture_is_one_request(
    s3: Any, server: tuple[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path / "photos", 3)
    upload(s3, tmp_path / "photos")
    s3.put_object(Bucket="audits", Key="photos/empty/", Body=b"")
    asked: list[str] = []

    def rule(method: str, path: str) -> str:
        asked.append(f"{method} {path.partition('?')[0]}")
        return PASS

    here = open_source(ImageFolder(root=str(tmp_path / "photos")), 10**6)
    with buckets.proxy(server, rule) as url:
        lead_to(monkeypatch, url)
        there = open_source(ImageFolder(root="s3://audits/photos"), 10**6)
        assert asked == ["GET /audits"]
        assert there.version is not None
        versions = [there.version(index, content=False) for index in range(9)]
        assert len(set(versions)) == 9 and None not in versions
        assert asked == ["GET /audits"]
        pictures = [there.read(index).pixels for index in range(9)]
        assert len(asked) == 10
        assert here.version is not None
        hashes = [source.version(4, content=True) for source in (here, there)]  # type: ignore[misc]
    assert hashes[0] == hashes[1]
    assert (there.image_ids, there.labels, there.class_names) == (
        here.image_ids,
        here.labels,
        here.class_names,
    )
    assert all((here.read(i).pixels == pictures[i]).all() for i in range(9))
    assert there.warnings == ["1 folders without an image are no classes: empty"]


def test_a_manifest_may_name_objects_by_url(s3: Any, tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 1)
    upload(s3, tmp_path / "photos")
    table = tmp_path / "list.csv"
    table.write_text("path,label\ns3://audits/photos/cat/0000.png,cat\n")
    source = open_source(Manifest(path=str(table), root="s3://audits/other"), 10**6)
    assert source.read(0).pixels.shape == (16, 20, 3)
