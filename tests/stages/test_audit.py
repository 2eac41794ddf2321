"""Whole audits in this process: every source and model, bad input, resume, stages alone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torchvision import models

from helpers.bad_files import BAD_KINDS
from helpers.small_data import CLASSES, write_images
from pipeline.config import Config
from pipeline.errors import ConfigError, DataError, NotFinished
from pipeline.stages.audit import audit
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import (
    CANDIDATES,
    FINDINGS,
    MEMBERS,
    SUSPECTS,
    classes_schema,
    part_schema,
)

Configure = Callable[..., Config]


def rows_of(config: Config) -> pa.Table:
    """All rows of a run, after checking that each planned image has exactly one."""
    run = RunFolder(config.folder)
    plan = run_folder.read_plan(run)
    rows = run_folder.rows(run, plan.setup).to_table()
    assert rows["index"].to_pylist() == list(range(plan.setup.n_images))
    assert rows["image_id"].to_pylist() == plan.table["image_id"].to_pylist()
    return rows


def check_contract(config: Config) -> pa.Table:
    """Tables as the schemas say, heatmaps in [0, 1] with a maximum of 1 or dead."""
    run = RunFolder(config.folder)
    setup = run_folder.read_plan(run).setup
    rows = rows_of(config)
    expected = part_schema(setup.grid, setup.embedding_dim)
    assert rows.schema.equals(parquet.stored_schema(expected))
    good = rows.filter(pa.compute.equal(rows["status"], "ok"))
    maps = np.stack(good["heatmap"].to_numpy(zero_copy_only=False)).astype(np.float32)
    assert maps.shape == (good.num_rows, setup.grid[0] * setup.grid[1])
    peak = good["heatmap_max"].to_numpy()
    assert np.array_equal(maps.max(axis=1) == 1, peak > 0)
    assert np.array_equal(maps.max(axis=1) == 0, peak == 0)
    assert maps.min() >= 0
    for name, schema in (
        ("candidates", CANDIDATES),
        ("findings", FINDINGS),
        ("members", MEMBERS),
        ("suspects", SUSPECTS),
        ("classes", classes_schema(setup.grid)),
    ):
        stored = parquet.read(run.analysis(name)).schema
        assert stored.equals(parquet.stored_schema(schema)), name
    assert (run.report / "index.html").is_file()
    return rows


def test_image_folder_with_a_custom_model_and_checkpoint(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 7)
    config = configure(f"dataset.root={tmp_path}/photos", *small_model)
    module: dict[str, Any] = {}
    exec((tmp_path / "net.py").read_text(), module)
    net = module["build"]()
    torch.save({"state_dict": net.state_dict()}, tmp_path / "net.pt")
    config.model.checkpoint = str(tmp_path / "net.pt")
    audit(config)
    rows = check_contract(config)
    assert rows.num_rows == 21
    assert set(rows["label"].to_pylist()) == set(CLASSES)
    assert json.loads((config.folder / "run.json").read_text())["state"] == "complete"


def test_a_manifest_carries_its_metadata(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 4)
    files = sorted((tmp_path / "photos").rglob("*.png"))
    pd.DataFrame(
        {
            "path": [str(f.relative_to(tmp_path / "photos")) for f in files],
            "label": [f.parent.name for f in files],
            "hospital": ["north", "south"] * 6,
            "age": range(12),
        }
    ).to_csv(tmp_path / "images.csv", index=False)
    config = configure(
        "dataset=manifest",
        f"dataset.path={tmp_path}/images.csv",
        f"dataset.root={tmp_path}/photos",
        *small_model,
    )
    audit(config)
    check_contract(config)
    metadata = pq.read_table(config.folder / "plan.parquet")["metadata"].to_pylist()
    assert metadata[3] == {"hospital": "south", "age": 3}


def test_a_hugging_face_parquet_file(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (20, 18, 3), dtype=np.uint8) for _ in range(9)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    table = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 2] * 3}, features=features)
    table.to_parquet(tmp_path / "images.parquet")
    config = configure(
        "dataset=huggingface", f"dataset.path={tmp_path}/images.parquet", *small_model
    )
    audit(config)
    assert check_contract(config)["label"].to_pylist() == list(CLASSES) * 3


@pytest.mark.parametrize(
    "model",
    [
        ["model=torchvision", "model.name=resnet18", "model.weights=null"],
        ["model=timm", "model.name=convnext_atto", "model.weights=null"],
    ],
)
def test_models_by_name_with_random_weights(
    configure: Configure, tmp_path: Path, model: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "flat", 5, ("",))
    config = configure(
        f"dataset.root={tmp_path}/flat",
        *model,
        "model.preprocess.resize=64",
        "loader.num_workers=0",
    )
    audit(config)
    rows = check_contract(config)
    assert rows["label"].null_count == rows.num_rows == 5
    assert "random weights" in caplog.text


def test_twenty_kinds_of_bad_files_are_twenty_error_rows(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 340, CLASSES)
    for number in range(20):
        (tmp_path / "photos" / "owl" / f"{320 + number:04d}.png").unlink()
    kinds = list(BAD_KINDS)[:20]
    for kind in kinds:
        BAD_KINDS[kind](tmp_path / "photos" / "cat" / f"bad {kind}.jpg")
    config = configure(f"dataset.root={tmp_path}/photos", *small_model)
    audit(config)
    rows = check_contract(config)
    assert rows.num_rows == 1020
    bad = rows.filter(pa.compute.equal(rows["status"], "error"))
    assert {Path(name).stem for name in bad["image_id"].to_pylist()} == {f"bad {k}" for k in kinds}
    assert all(bad["error"].to_pylist())
    assert bad["heatmap"].null_count == bad["pred"].null_count == 20

    config.data.max_error_rate = 0.01
    with pytest.raises(DataError, match="20 of 1020 images") as refused:
        audit(config)
    assert refused.value.exit_code == 3


def test_nothing_but_bad_files(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    for name in CLASSES:
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "a.jpg").write_bytes(b"")
    config = configure(f"dataset.root={tmp_path}/photos", *small_model)
    with pytest.raises(DataError, match="3 of 3"):
        audit(config)
    assert (config.folder / "report" / "index.html").is_file()


@pytest.mark.parametrize("classes", [("cat",), CLASSES])
def test_one_image_per_class(
    configure: Configure, tmp_path: Path, small_model: list[str], classes: tuple[str, ...]
) -> None:
    write_images(tmp_path / "photos", 1, classes)
    config = configure(
        f"dataset.root={tmp_path}/photos", *small_model, f"model.class_names=[{','.join(CLASSES)}]"
    )
    audit(config)
    assert check_contract(config).num_rows == len(classes)


def test_logits_that_are_not_numbers_are_error_rows(
    configure: Configure, tmp_path: Path, small_model: list[str], model_file: Path
) -> None:
    write_images(tmp_path / "photos", 3)
    model_file.write_text(
        model_file.read_text()
        + "\n\nclass Faulty(nn.Module):\n"
        + "    def __init__(self):\n        super().__init__()\n        self.net = build()\n\n"
        + "    def forward(self, x):\n        y = self.net(x)\n"
        + "        return torch.where(torch.arange(len(y))[:, None] == 1, torch.nan, y)\n"
    )
    config = configure(f"dataset.root={tmp_path}/photos", *small_model, "data.max_error_rate=1")
    config.model.factory = f"{model_file}:Faulty"
    audit(config)
    rows = check_contract(config)
    assert [i for i, s in enumerate(rows["status"].to_pylist()) if s == "error"] == [1]
    assert "NaN" in rows["error"][1].as_py()


def test_a_finished_run_is_not_computed_again(
    configure: Configure, tmp_path: Path, small_model: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "photos", 10)
    config = configure(f"dataset.root={tmp_path}/photos", *small_model, "loader.shard_size=8")
    audit(config)
    before = {path: path.stat().st_mtime_ns for path in config.folder.glob("parts/*")}
    assert len(before) == 4
    (config.folder / "parts" / "part-00002.parquet").unlink()
    caplog.set_level(logging.INFO)
    audit(config)
    assert "8 images to explain, 22 are done" in caplog.text
    after = {path: path.stat().st_mtime_ns for path in config.folder.glob("parts/*")}
    assert {p.name for p in before if before[p] != after[p]} == {"part-00002.parquet"}


def test_changed_settings_and_data_are_refused_by_name(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 3)
    overrides = [f"dataset.root={tmp_path}/photos", *small_model]
    audit(configure(*overrides))
    audit(configure(*overrides, "report.suspects=1", "loader.num_workers=1", "analysis.fdr=0.1"))
    for change, named in (
        ("cam.embedding_dim=4", "cam.embedding_dim: 128 -> 4"),
        ("loader.batch_size=2", "loader.batch_size: 128 -> 2"),
        ("model.target_layer='0'", "model.target_layer: 4 -> 0"),
    ):
        with pytest.raises(ConfigError, match=named):
            audit(configure(*overrides, change))
    (tmp_path / "photos" / "cat" / "new.png").write_bytes(b"")
    with pytest.raises(ConfigError, match="1 images new, 0 gone"):
        audit(configure(*overrides))


def test_stages_run_alone_with_the_same_result(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 20)
    overrides = [f"dataset.root={tmp_path}/photos", *small_model]
    with pytest.raises(NotFinished, match=r"plan\.parquet"):
        audit(configure(*overrides, "stages=[rank]"))
    audit(configure(*overrides))
    run = RunFolder(configure(*overrides).folder)
    names = ("classes", "candidates", "findings", "members", "suspects")
    before = {name: parquet.read(run.analysis(name)) for name in names}
    audit(configure(*overrides, "stages=[discover,verify,rank,report]"))
    for name in names:
        assert parquet.read(run.analysis(name)).equals(before[name]), name


def test_setup_survives_its_metadata(
    configure: Configure, tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 2)
    config = configure(f"dataset.root={tmp_path}/photos", *small_model)
    audit(config)
    setup = run_folder.read_plan(RunFolder(config.folder)).setup
    assert Setup.from_metadata(setup.to_metadata()) == setup
    assert setup.class_names == list(CLASSES)


def test_the_heatmap_of_a_row_is_gradcam_of_its_file(configure: Configure, tmp_path: Path) -> None:
    """From the file to the table, against autograd in float64 through the whole model."""
    write_images(tmp_path / "photos", 2, ("one",))
    torch.manual_seed(0)
    net = models.resnet18(num_classes=4)
    torch.save(net.state_dict(), tmp_path / "net.pt")
    config = configure(
        f"dataset.root={tmp_path}/photos",
        "model.name=resnet18",
        f"model.checkpoint={tmp_path}/net.pt",
        "model.class_names=[one,two,three,four]",
        "model.preprocess.resize=[64,64]",
        "loader.num_workers=0",
        "stages=[explain]",
    )
    audit(config)
    row: dict[str, Any] = rows_of(config).to_pylist()[1]
    expected, raw_max = _reference(net, tmp_path / "photos" / "one" / "0001.png", row["pred_index"])
    assert np.abs(np.asarray(row["heatmap"], float) - expected).max() < 1e-3  # float16 in the table
    assert row["heatmap_max"] == pytest.approx(raw_max, rel=1e-4)


def _reference(net: torch.nn.Module, path: Path, target: int) -> tuple[np.ndarray[Any, Any], float]:
    from PIL import Image
    from torchvision.transforms.v2 import functional as V

    picture = V.pil_to_tensor(Image.open(path).convert("RGB"))
    picture = V.resize(picture, [64, 64], antialias=True).double() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    net = net.double().eval()
    kept: list[torch.Tensor] = []
    net.layer4.register_forward_hook(lambda _m, _i, out: kept.append(out))  # type: ignore[union-attr]
    logits = net(((picture - mean[:, None, None]) / std[:, None, None])[None])
    (slope,) = torch.autograd.grad(logits[0, target], kept[0])
    cam = (slope.mean((2, 3), keepdim=True) * kept[0]).sum(1).clamp_min(0)[0].detach().numpy()
    return (cam / cam.max()).ravel(), float(cam.max())
