"""The explain stage: what is decided by itself, memory that runs out, commits in the background."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.small_data import write_images
from pipeline.cam import methods
from pipeline.config import Config
from pipeline.engine import precision
from pipeline.engine.precision import Agreement
from pipeline.errors import ConfigError
from pipeline.run import explain_shards, plan
from pipeline.stages.audit import audit
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import METADATA_KEY

Configure = Callable[..., Config]
Settings = Callable[..., Config]

GREEDY = """

class Greedy(nn.Module):
    most = 10

    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(x)


class Greedier(Greedy):
    most = 3
"""


@pytest.fixture
def settings(configure: Configure, tmp_path: Path, small_model: list[str]) -> Settings:
    """Settings of an explain stage over thirty pictures, with further overrides."""
    write_images(tmp_path / "photos", 10)

    def make(*overrides: str) -> Config:
        return configure(
            f"dataset.root={tmp_path}/photos", *small_model, "stages=[explain]", *overrides
        )

    return make


def parts(config: Config) -> pa.Table:
    run = RunFolder(config.folder)
    return run_folder.rows(run, run_folder.read_plan(run).setup).to_table()


def engine_of(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((config.folder / "run.json").read_text())["engine"]
    return found


@pytest.mark.parametrize("method", methods.METHODS)
def test_every_method_fills_the_table(settings: Settings, method: str) -> None:
    config = settings(f"cam={method}")
    audit(config)
    rows = parts(config)
    assert rows["status"].to_pylist() == ["ok"] * 30
    assert max(rows["heatmap_max"].to_pylist()) > 0


def test_memory_that_runs_out_changes_no_result(
    settings: Settings, model_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model_file.write_text(model_file.read_text() + GREEDY)
    tables = []
    for name in ("Greedy", "Greedier"):
        config = settings("loader.batch_size=8", f"run_id={name}")
        config.model.factory = f"{model_file}:{name}"
        audit(config)
        tables.append(parts(config))
        assert ("out of memory" in caplog.text) is (name == "Greedier")
    # A batch of another size may round otherwise; float16 keeps three digits.
    for name in tables[0].column_names:
        whole, pieces = (table[name].combine_chunks() for table in tables)
        assert whole.is_null().equals(pieces.is_null()), name
        if pa.types.is_fixed_size_list(whole.type):
            whole, pieces = whole.flatten(), pieces.flatten()
        if pa.types.is_floating(whole.type):
            one, other = (np.float64(each.to_numpy(False)) for each in (whole, pieces))
            half = pa.types.is_float16(whole.type)
            np.testing.assert_allclose(one, other, 1e-5, 2e-3 if half else 1e-6, err_msg=name)
        else:
            assert whole.equals(pieces), name


def test_a_small_dataset_runs_in_float32(settings: Settings) -> None:
    config = settings()
    audit(config)
    found = engine_of(config)
    assert (found["precision"], found["channels_last"], found["compile"]) == ("fp32", True, False)
    assert "bf16" not in found


@pytest.mark.parametrize("agrees", [True, False])
def test_a_fast_precision_is_taken_where_it_agrees_and_kept(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, agrees: bool
) -> None:
    monkeypatch.setattr(plan, "MIN_DATASET_FACTOR", 0)
    monkeypatch.setattr(plan, "COMPARED", 24)
    monkeypatch.setattr(precision, "fastest", lambda _device: "bf16")
    if not agrees:
        monkeypatch.setattr(precision, "agreement", lambda *_: Agreement(0.9, 1.0, 24))
    config = settings("loader.shard_size=16")
    audit(config)
    found = engine_of(config)
    assert found["precision"] == ("bf16" if agrees else "fp32")
    assert found["bf16"]["images"] == 24
    assert found["bf16"]["top1"] == (1.0 if agrees else 0.9)
    # Another machine goes on as this one began.
    before = parts(config)
    monkeypatch.setattr(precision, "fastest", lambda _device: "fp32")
    RunFolder(config.folder).part(1).unlink()
    audit(config)
    assert engine_of(config) == found
    assert parts(config).equals(before)


def test_a_model_that_has_no_fast_numbers_runs_in_float32(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plan, "MIN_DATASET_FACTOR", 0)
    monkeypatch.setattr(precision, "fastest", lambda _device: "bf16")

    def refuse(*_: object) -> Agreement:
        raise RuntimeError('"fft" not implemented for BFloat16')

    monkeypatch.setattr(precision, "agreement", refuse)
    caplog.set_level(logging.INFO)
    config = settings()
    audit(config)
    assert engine_of(config)["precision"] == "fp32"
    assert 'the model cannot run in bf16 and stays in fp32: "fft" not' in caplog.text


def test_the_comparison_is_by_the_method_in_use(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MIN_DATASET_FACTOR", 0)
    monkeypatch.setattr(precision, "fastest", lambda _device: "bf16")
    seen: list[object] = []

    def note(*arguments: object) -> Agreement:
        seen.append(arguments[-1])
        return Agreement(1.0, 1.0, 24)

    monkeypatch.setattr(precision, "agreement", note)
    audit(settings("cam=hirescam"))
    assert seen == ["hirescam"]


def test_a_plan_of_an_older_version_is_refused_in_words(settings: Settings) -> None:
    config = settings()
    audit(config)
    path = RunFolder(config.folder).plan
    table = pq.read_table(path)
    content = json.loads(table.schema.metadata[METADATA_KEY])
    del content["measured"]
    pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(content)}), path)
    with pytest.raises(ConfigError, match="was not written by this version; start a new run_id"):
        audit(config)


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_precision_that_was_asked_for_is_not_measured(settings: Settings, name: str) -> None:
    config = settings(f"precision={name}", "channels_last=false", f"run_id={name}")
    audit(config)
    found = engine_of(config)
    assert (found["precision"], found["channels_last"]) == (name, False)
    assert not {"bf16", "fp16"} & found.keys()
    exact = settings("precision=fp32", "run_id=exact")
    audit(exact)
    agree = [
        a == b
        for a, b in zip(
            parts(config)["pred_index"].to_pylist(),
            parts(exact)["pred_index"].to_pylist(),
            strict=True,
        )
    ]
    assert np.mean(agree) >= 0.9


def test_commits_happen_behind_the_back_in_order_and_at_most_two_wait() -> None:
    gate, done = threading.Event(), list[int]()
    waiting: list[int] = []

    def work(number: int) -> None:
        gate.wait(10)
        done.append(number)

    with explain_shards._writing_thread() as commit:
        for number in range(explain_shards.MAX_QUEUED_COMMITS):
            commit(lambda number=number: work(number))  # type: ignore[misc]
        assert done == []  # none was waited for
        threading.Timer(0.05, gate.set).start()
        commit(lambda: work(explain_shards.MAX_QUEUED_COMMITS))
        waiting.append(len(done))
    assert waiting[0] >= 1  # the third had to wait for the first
    assert done == [0, 1, 2]


def test_a_commit_that_fails_ends_the_stage() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), explain_shards._writing_thread() as commit:
        commit(fail)
    with pytest.raises(OSError, match="No space left"), explain_shards._writing_thread() as commit:
        commit(fail)
        for _ in range(200):
            commit(lambda: time.sleep(0.01))
        pytest.fail("it must not go on for ever")


def test_commits_do_not_take_threads_from_the_model() -> None:
    torch.set_num_threads(2)  # conftest has set one
    seen: list[int] = []
    try:
        with explain_shards._writing_thread() as commit:
            commit(lambda: seen.append(torch.get_num_threads()))
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


WIDE = """
import torch
from torch import nn


def wide():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 3),
    )
"""


def test_a_row_does_not_depend_on_the_batch_it_is_in(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    """Matrix products add up in another order for one row than for many."""
    (tmp_path / "wide.py").write_text(WIDE)
    model = [
        *small_model,
        f"model.factory={tmp_path}/wide.py:wide",
        "loader.batch_size=8",
        "model.class_names=[all,or,none]",
    ]

    def explained(n_images: int) -> pa.Table:
        root = tmp_path / f"photos {n_images}"
        write_images(root, n_images, ("all",))
        config = configure(
            f"dataset.root='{root}'", *model, f"run_id=n{n_images}", "stages=[explain]"
        )
        audit(config)
        return parts(config)

    together = explained(13)
    for n_images in (1, 2, 5, 9, 12):
        alone = explained(n_images)
        for name in ("heatmap_max", "heatmap", "confidence", "embedding", "features", "entropy"):
            assert alone[name].equals(together[name].slice(0, n_images)), (n_images, name)
