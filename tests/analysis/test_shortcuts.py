"""The stages discover and verify on images and a network whose evidence is known exactly.

The network counts pixels of pure colours, so that every test knows what each class relies on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from helpers.setups import resolved
from pipeline.analysis import place_words
from pipeline.analysis.shortcuts import candidate_rows
from pipeline.analysis.verification import effects
from pipeline.config import Config
from pipeline.stages import discover
from pipeline.stages.audit import audit
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import part_schema

NETWORK = '''
import torch
from torch import nn

COLOURS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "magenta": (1, 0, 1)}


class Counter(nn.Module):
    """A channel per pure colour, relu, mean over the picture, and weights from colour to class."""

    def __init__(self, cue):
        super().__init__()
        self.detect = nn.Conv2d(3, 4, 4, stride=4)
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            for channel, colour in enumerate(COLOURS.values()):
                sign = torch.tensor(colour, dtype=torch.float) * 2 - 1
                self.detect.weight[channel] = sign[:, None, None] / 16
                self.detect.bias[channel] = 0.5 - sum(colour)
            self.head.weight[:] = 0
            for index in range(3):
                self.head.weight[index, index] = 40.0
            self.head.weight[2, 3] = cue
            self.head.bias[:] = 0

    def forward(self, x):
        return self.head(self.relu(self.detect(x)).mean((2, 3)))


def uses_cue():
    return Counter(400.0)


def ignores_cue():
    return Counter(0.0)
'''
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
MAGENTA = (255, 0, 255)


def write_pictures(root: Path, n: int = 40) -> None:
    """A coloured square at a random place; three in four blue images have a magenta patch."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for number in range(n):
            picture = np.full((32, 32, 3), 100, np.uint8) + rng.integers(
                0, 20, (32, 32, 1), np.uint8
            )
            x, y = rng.integers(8, 20, 2)
            picture[y : y + 8, x : x + 8] = colour
            if name == "blue" and number % 4:
                picture[26:32, 0:6] = MAGENTA
            assert cv2.imwrite(str(root / name / f"{number:03d}.png"), picture[:, :, ::-1])


@pytest.fixture
def run(tmp_path: Path, configure: Callable[..., Config]) -> Callable[[str], RunFolder]:
    """Audit the images with one of the two networks."""
    write_pictures(tmp_path / "photos")
    (tmp_path / "counter.py").write_text(NETWORK)

    def go(factory: str) -> RunFolder:
        config = configure(
            f"dataset.root={tmp_path}/photos",
            "model=custom",
            f"model.factory={tmp_path}/counter.py:{factory}",
            "model.class_names=[red,green,blue]",
            "model.preprocess.resize=32",
            "model.preprocess.mean=[0,0,0]",
            "model.preprocess.std=[1,1,1]",
            "loader.num_workers=0",
            "analysis.trials=60",
            f"run_id={factory}",
        )
        audit(config)
        return RunFolder(config.folder)

    return go


def test_a_cue_that_the_model_uses_is_confirmed_with_its_place(
    run: Callable[[str], RunFolder],
) -> None:
    folder = run("uses_cue")
    findings = parquet.read(folder.analysis("findings")).to_pylist()
    assert [(f["class_name"], f["verdict"], f["kind"]) for f in findings] == [
        ("blue", "confirmed", "patch")
    ]
    (found,) = findings
    region = found["region"]
    assert region["x0"] == 0
    assert region["y1"] == 1
    assert region["x1"] <= 0.3
    assert region["y0"] >= 0.7
    assert found["effect"] > 0.9
    assert found["control"] == 0
    assert found["n_images"] == 30
    assert found["q_value"] < 0.001
    assert "blue" in found["summary"]
    assert "bottom left" in found["summary"]


def test_members_are_the_images_with_the_cue(
    run: Callable[[str], RunFolder],
) -> None:
    folder = run("uses_cue")
    members = parquet.read(folder.analysis("members")).to_pylist()
    assert {m["image_id"] for m in members} == {f"blue/{n:03d}.png" for n in range(40) if n % 4}
    # Blue squares alone are predicted as blue, so that the patch adds little probability.
    assert all(0 <= m["reliance"] <= 1 for m in members)
    suspects = parquet.read(folder.analysis("suspects")).to_pylist()
    shortcut = [s for s in suspects if s["kind"] == "shortcut"]
    assert {s["image_id"] for s in shortcut} <= {m["image_id"] for m in members}
    assert all(s["finding_id"] for s in shortcut)


def test_an_unused_cue_is_no_finding(run: Callable[[str], RunFolder]) -> None:
    folder = run("ignores_cue")
    assert parquet.read(folder.analysis("findings")).num_rows == 0


def test_without_candidates_the_heatmaps_are_checked_all_the_same(
    run: Callable[[str], RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_rows, "MIN_IMAGES", np.inf)
    folder = run("uses_cue")
    assert parquet.read(folder.analysis("candidates")).num_rows == 0
    assert parquet.read(folder.analysis("findings")).num_rows == 0
    told = json.loads((folder.path / "run.json").read_text(encoding="utf-8"))["verification"]
    assert told["map_similarity_random_head"] is not None
    assert told["pseudo_classes"] == told["candidates_tested"] == 0
    assert "unknown" in told["false_findings"]


def test_findings_keep_their_ids_and_repeat_exactly(run: Callable[[str], RunFolder]) -> None:
    first = parquet.read(run("uses_cue").analysis("findings"))
    again = parquet.read(run("uses_cue").analysis("findings"))
    assert first.equals(again)


def test_kinds_and_places_have_names() -> None:
    ring = np.ones((6, 6), bool)
    ring[1:-1, 1:-1] = False
    assert place_words.kind_of_cells(ring) == "frame"
    corner = np.zeros((6, 6), bool)
    corner[0, 5] = True
    assert (place_words.kind_of_cells(corner), place_words.place_of_cells(corner)) == (
        "patch",
        "top right",
    )
    assert place_words.place_of_cells(np.ones((6, 6), bool)) == "centre"
    bottom = np.zeros((6, 6), bool)
    bottom[-1, 1:] = True
    assert (place_words.kind_of_cells(bottom), place_words.place_of_cells(bottom)) == (
        "edge",
        "bottom edge",
    )
    assert place_words.bounding_box(corner) == pytest.approx(
        {"x0": 5 / 6, "y0": 0, "x1": 1, "y1": 1 / 6}
    )


def test_the_parts_of_a_region_are_named_one_by_one() -> None:
    bars = np.zeros((8, 8), bool)
    bars[0] = bars[-1] = True
    parts = place_words.parts_of_cells(bars)
    assert {place_words.place_of_cells(part) for part in parts} == {"top edge", "bottom edge"}
    bars[4, 4] = True  # much smaller
    assert len(place_words.parts_of_cells(bars)) == 2
    (whole,) = place_words.parts_of_cells(np.eye(9, dtype=bool)[:, ::2])
    assert whole.sum() == 5


def test_a_cue_flips_most_classes_and_a_likeness_one_class() -> None:
    classes = np.repeat([0, 1, 2], 10)
    none = np.zeros(30, bool)
    assert effects.median_class_gain(classes == 0, none, classes) == 0
    assert effects.median_class_gain(classes < 2, none, classes) == 1
    assert effects.median_class_gain(classes < 2, classes < 2, classes) == 0
    # Of a hundred classes with one image each, four in ten flip: scattered, or neighbouring.
    many = np.arange(100)
    assert effects.median_class_gain(many % 5 < 2, many < 0, many) == pytest.approx(0.4)
    assert effects.median_class_gain(many < 40, many < 0, many) == 0


def test_the_bound_on_false_findings_is_clopper_and_pearsons() -> None:
    most = effects.false_finding_bound(0, 20)
    assert (1 - most) ** 20 == pytest.approx(0.05)
    most = effects.false_finding_bound(2, 50)
    assert stats.binom.cdf(2, 50, most) == pytest.approx(0.05)
    assert effects.false_finding_bound(3, 3) == 1


@pytest.mark.parametrize("many", [1, 10, 1 << 14])
def test_class_means_do_not_depend_on_the_batch_size(
    tmp_path: Path, many: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discover, "MIN_BATCH_ROWS", many)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = [
        {
            "index": index, "image_id": str(index), "status": "error" if index % 9 == 8 else "ok",
            "pred_index": index % 2, "label_index": None if index % 5 == 4 else index % 3,
            "confidence": rng.random(), "heatmap_max": float(index % 4 > 0),
            "focus_area90": None if index % 4 == 0 else rng.random(), "heatmap": rng.random(4),
        }
        for index in range(40)
    ]  # fmt: skip
    setup = Setup(
        fingerprint="f",
        settings={},
        resolved=resolved(4),
        class_names=["cat", "dog", "owl"],
        grid=(2, 2),
        embedding_dim=2,
        preprocess={},
        n_images=len(rows),
        shard_size=7,
    )
    run = RunFolder(tmp_path)
    for shard in range(setup.n_shards):
        own = [rows[index] for index in setup.rows(shard)]
        run_folder.commit_part(run, setup, shard, pa.Table.from_pylist(own, part_schema((2, 2), 2)))
    cat, _, owl = discover.class_table(run_folder.rows(run, setup), setup).to_pylist()
    cats = [row for row in rows if row["status"] == "ok" and row["pred_index"] == 0]
    assert (cat["n_pred"], cat["dead_maps"]) == (len(cats), sum(not r["heatmap_max"] for r in cats))
    assert cat["n_correct"] == sum(row["label_index"] == 0 for row in cats)
    assert cat["confidence"] == pytest.approx(np.mean([row["confidence"] for row in cats]))
    areas = [row["focus_area90"] for row in cats if row["focus_area90"] is not None]
    assert cat["focus_area90"] == pytest.approx(np.mean(areas))
    heat = np.mean([row["heatmap"].astype(np.float16) for row in cats], axis=0, dtype=float)
    assert cat["heatmap"] == pytest.approx(heat)
    assert (owl["n_pred"], owl["confidence"], owl["heatmap"]) == (0, None, None)
