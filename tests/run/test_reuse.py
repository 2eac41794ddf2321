"""A baseline's rows: only what is new or changed is computed, and the tables are a full run's."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from helpers.small_data import write_images
from pipeline.config import Config
from pipeline.errors import ConfigError
from pipeline.stages.audit import audit
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder

Configure = Callable[..., Config]
COUNTING = """

class Counting(nn.Module):
    seen = 0

    def __init__(self):
        super().__init__()
        self.net = build()

    def forward(self, x):
        import pathlib
        with pathlib.Path("seen").open("a") as file:
            file.write(f"{len(x)}\\n")
        return self.net(x)
"""
PER_CLASS, BATCH = 40, 8


class Nights:
    """Runs of a changing folder of 3 x 40 images, and how many images went through the model."""

    def __init__(self, configure: Configure, overrides: list[str]) -> None:
        self.configure, self.overrides = configure, overrides

    def run(self, name: str, *more: str) -> RunFolder:
        config = self.configure(*self.overrides, f"run_id={name}", *more)
        audit(config)
        return RunFolder(config.folder)

    def counted(self, name: str, *more: str) -> tuple[RunFolder, int]:
        Path("seen").unlink(missing_ok=True)
        run = self.run(name, *more)
        return run, sum(map(int, Path("seen").read_text().split()))


@pytest.fixture
def nights(
    configure: Configure,
    model_file: Path,
    small_model: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Nights:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", PER_CLASS)
    model_file.write_text(model_file.read_text() + COUNTING)
    loader = [f"loader.batch_size={BATCH}", "loader.shard_size=32", "dataset.root=photos"]
    model = [f"model.factory={model_file}:Counting", "stages=[explain]"]
    return Nights(configure, [*small_model, *loader, *model])


def rows_of(run: RunFolder) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (
        run_folder.rows(run, run_folder.read_plan(run).setup).to_table().to_pylist()
    )
    return rows


def warnings_of(run: RunFolder) -> str:
    return (run.path / "run.json").read_text()


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (18, 18, 3), dtype=np.uint8)
    assert cv2.imwrite(str(path), pixels)


def change_the_folder() -> tuple[int, int]:
    """Some images new, changed, gone, moved to another class; how many are to be computed."""
    for number in range(5):
        paint(Path(f"photos/cat/new-{number}.png"), number)
    for number in range(3):
        paint(Path(f"photos/dog/{number:04d}.png"), 100 + number)
    for number in range(7):
        Path(f"photos/owl/{number:04d}.png").unlink()
    Path("photos/cat/0001.png").rename("photos/dog/0900.png")
    return 5 + 3 + 1, 5 + 1 - 7 - 1


def test_only_what_changed_is_computed_and_the_tables_are_those_of_a_full_run(
    nights: Nights,
) -> None:
    _, everything = nights.counted("monday")
    fresh, more = change_the_folder()
    tuesday, some = nights.counted("tuesday", "baseline=out/monday")
    full, all_again = nights.counted("full")
    assert len(rows_of(full)) == 3 * PER_CLASS + more
    assert rows_of(tuesday) == rows_of(full)
    overhead = everything - 3 * PER_CLASS  # trials of the model before the first image
    assert some - overhead == -(-fresh // BATCH) * BATCH
    assert all_again > 3 * PER_CLASS
    for shard in range(run_folder.read_plan(full, []).setup.n_shards):
        schema, other = (parquet.read(run.part(shard)).schema for run in (tuesday, full))
        assert schema.equals(other)


def test_nothing_changed_and_nothing_is_computed(nights: Nights) -> None:
    monday, everything = nights.counted("monday")
    tuesday, some = nights.counted("tuesday", "baseline=out/monday")
    assert some == everything - 3 * PER_CLASS
    assert rows_of(tuesday) == rows_of(monday)


def test_rows_are_taken_in_another_order_and_by_parts_of_another_size(nights: Nights) -> None:
    nights.run("monday")
    names = [f"{path.parent.name}/{path.name}" for path in sorted(Path("photos").rglob("*.png"))]
    lines = [f"photos/{name},{name.split('/')[0]}" for name in reversed(names)]
    Path("list.csv").write_text("path,label\n" + "\n".join(lines))
    by_list = ["dataset=manifest", "dataset.path=list.csv", "loader.shard_size=50"]
    others = [each for each in nights.overrides if not each.startswith(("dataset", "loader.shard"))]
    nights.overrides = [*others, *by_list]
    _, everything = nights.counted("wednesday", "baseline=out/monday")
    assert everything > 3 * PER_CLASS  # their ids are others
    Path("list.csv").write_text("path,label\n" + "\n".join(sorted(lines)))
    thursday, some = nights.counted("thursday", "baseline=out/wednesday", "loader.shard_size=17")
    assert some == everything - sum(-(-n // BATCH) * BATCH for n in (50, 50, 20))
    full, _ = nights.counted("full", "loader.shard_size=17")
    assert rows_of(thursday) == rows_of(full)


def test_a_touched_image_is_computed_again_unless_contents_are_compared(nights: Nights) -> None:
    _, everything = nights.counted("monday")
    nights.run("monday-hash", "data.hash=true")
    os.utime("photos/cat/0003.png", (1, 1))
    _, touched = nights.counted("tuesday", "baseline=out/monday")
    assert touched == everything - 3 * PER_CLASS + BATCH
    _, hashed = nights.counted("tuesday-hash", "data.hash=true", "baseline=out/monday-hash")
    assert hashed == everything - 3 * PER_CLASS


def test_errors_are_tried_again(nights: Nights) -> None:
    broken = Path("photos/cat/0002.png")
    broken.write_bytes(b"no picture")
    monday, everything = nights.counted("monday")
    assert [row["status"] for row in rows_of(monday)].count("error") == 1
    tuesday, some = nights.counted("tuesday", "baseline=out/monday")
    assert some == everything - 3 * PER_CLASS
    assert [row["status"] for row in rows_of(tuesday)].count("error") == 1


@pytest.mark.parametrize(
    ("change", "culprit"),
    [
        ("cam=layercam", "cam.method: gradcam there, layercam here"),
        ("model.target_layer='net.0'", "model.target_layer"),
        ("model.preprocess.resize=20", "preprocess"),
        ("loader.batch_size=4", "loader.batch_size: 8 there, 4 here"),
        ("seed=3", "seed: 0 there, 3 here"),
    ],
)
def test_rows_that_depend_on_other_settings_are_not_taken(
    nights: Nights, change: str, culprit: str
) -> None:
    nights.run("monday")
    _, everything = nights.counted("full", change)
    tuesday, some = nights.counted("tuesday", "baseline=out/monday", change)
    assert some == everything
    assert "can be reused" in warnings_of(tuesday)
    assert culprit in warnings_of(tuesday)


def test_another_model_is_another_model(nights: Nights, model_file: Path) -> None:
    nights.run("monday")
    model_file.write_text(model_file.read_text().replace("manual_seed(1)", "manual_seed(2)"))
    other = model_file.with_name("net2.py")
    other.write_text(model_file.read_text())
    tuesday = nights.run("tuesday", "baseline=out/monday", f"model.factory={other}:Counting")
    assert "model.fingerprint" in warnings_of(tuesday)


def test_what_was_decided_is_kept_so_that_rows_can_be_taken(nights: Nights) -> None:
    nights.run("monday", "precision=auto", "loader.batch_size=auto")
    before = run_folder.read_plan(RunFolder(Path("out/monday")), []).setup.resolved
    tuesday = nights.run("tuesday", "baseline=out/monday", "loader.batch_size=auto")
    assert run_folder.read_plan(tuesday, []).setup.resolved == before


def test_a_baseline_that_cannot_be_used_is_named(nights: Nights) -> None:
    run = nights.run("monday")
    with pytest.raises(ConfigError, match="is this run itself"):
        nights.run("monday", "baseline=out/monday")
    run.part(1).unlink()
    with pytest.raises(ConfigError, match=r"baseline: 1 of 4 parts are missing"):
        nights.run("tuesday", "baseline=out/monday")


def test_images_that_change_while_a_run_is_unfinished_are_told(nights: Nights) -> None:
    run = nights.run("monday")
    run.part(2).unlink()
    paint(Path("photos/dog/0007.png"), 7)
    with pytest.raises(ConfigError, match=r"0 images new, 0 gone, 1 written since .*dog/0007"):
        nights.run("monday")


def test_failed_images_of_a_run_are_tried_again_and_nothing_else(nights: Nights) -> None:
    broken = Path("photos/dog/0002.png")
    good, when = broken.read_bytes(), broken.stat().st_mtime_ns
    broken.write_bytes(good[:-40] + bytes(40))
    os.utime(broken, ns=(when, when))
    monday, everything = nights.counted("monday")
    assert [row["image_id"] for row in rows_of(monday) if row["status"] == "error"] == [
        "dog/0002.png"
    ]
    untouched = {part: part.stat().st_mtime_ns for part in monday.path.glob("parts/part-*")}
    broken.write_bytes(good)
    os.utime(broken, ns=(when, when))
    again, some = nights.counted("monday", "retry_errors=true")
    assert some == everything - 3 * PER_CLASS + BATCH
    assert all(row["status"] == "ok" for row in rows_of(again))
    changed = [part for part, at in untouched.items() if part.stat().st_mtime_ns != at]
    assert [part.name for part in changed] == ["part-00001.parquet"]
    shutil.rmtree(monday.path)
    assert rows_of(nights.run("monday")) == rows_of(again)
