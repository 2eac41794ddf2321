"""How long rank and report take on a store of a million rows, how much memory, how large a report.

The rows are made up: predictions, heatmaps and features as a model of many classes might give
them. Pictures are JPEGs that are decoded for the report as those of a folder would be.

    python scripts/report_scale.py --images 1000000 --classes 1000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from hydra import compose, initialize_config_dir
from playwright.sync_api import sync_playwright
from report_photos import class_names, photo

from pipeline import pictures, store
from pipeline.config import Config, conf_dir, load, result_settings
from pipeline.schema import (
    CANDIDATES,
    FINDINGS,
    FOCUS,
    IMAGE,
    INTERVENTIONS,
    MEMBERS,
    TOP,
    Setup,
    part_schema,
    plan_schema,
)
from pipeline.stages.discover import class_table
from pipeline.store import Plan, RunFolder

GRID, DIMENSIONS, SHARD = (7, 7), 128, 1024
WRONG, ERRORS = 0.02, 0.001
"""Shares of wrong labels and of unreadable images."""
N_FINDINGS, N_MEMBERS = 40, 100


class Rows:
    """Rows of a part, drawn shard by shard."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        rng = np.random.default_rng(0)
        self.means = rng.normal(0, 20, (len(setup.class_names), DIMENSIONS))

    def plan(self) -> pa.Table:
        """Return the planned images."""
        names = pa.array(self.setup.class_names)
        index = np.arange(self.setup.n_images)
        label = pa.array(index % len(names), pa.int32())
        ids = [f"{self.setup.class_names[i % len(names)]}/{i:07d}.jpg" for i in index.tolist()]
        shard = pa.array(index // SHARD, pa.int32())
        version = pa.array(index).cast(pa.string())
        columns = [pa.array(index), pa.array(ids), label, names.take(label), shard, version]
        return pa.Table.from_arrays(columns, schema=plan_schema())

    def shard(self, planned: pa.Table, number: int) -> pa.Table:
        """Return the rows of one shard."""
        rng, n = np.random.default_rng(number), planned.num_rows
        n_classes = len(self.setup.class_names)
        label = planned["label_index"].to_numpy()
        true = np.where(rng.random(n) < WRONG, rng.integers(0, n_classes, n), label)
        logits = rng.normal(0, 1, (n, 8)) + np.array([6, 4, 3, 2.5, 2, 1, 1, 1])
        top = (true[:, None] + rng.integers(1, 30, (n, 8))) % n_classes
        place = np.where(rng.random(n) < 0.85, 0, rng.integers(1, 4, n))
        top[np.arange(n), place] = true
        logits = -np.sort(-logits, axis=1)
        probs = np.exp(logits) / (np.exp(logits).sum(axis=1, keepdims=True) + 5)
        held = np.where(top == label[:, None], probs, 0).max(axis=1)
        label_prob = np.where(held > 0, held, 1e-5)
        values: dict[str, Any] = {
            "pred_index": top[:, 0].astype(np.int32),
            "confidence": probs[:, 0],
            "label_prob": label_prob,
            "margin": probs[:, 0] - probs[:, 1],
            "entropy": -(probs * np.log(probs)).sum(axis=1),
            "loss": -np.log(label_prob),
            "heatmap_max": rng.random(n),
            "image_width": np.full(n, 500, np.int32),
            "image_height": np.full(n, 375, np.int32),
            **{name: rng.beta(2, 5, n) for name in (*FOCUS, *IMAGE)},
        }
        features = self.means[true] + rng.normal(0, 30, (n, DIMENSIONS))
        maps = rng.random((n, GRID[0] * GRID[1])) ** 4
        maps /= maps.max(axis=1, keepdims=True)
        lists = {
            "top_index": (top[:, :TOP], np.int32),
            "top_prob": (probs[:, :TOP], np.float16),
            "heatmap": (maps, np.float16),
            "embedding": (features / 30, np.float16),
            "features": (features.clip(-127, 127), np.int8),
        }
        failed = rng.random(n) < ERRORS
        schema = part_schema(GRID, DIMENSIONS)
        differs = (top[:, 0] != label) & ~failed
        columns = {
            name: pa.array(column, schema.field(name).type, from_pandas=True, mask=failed)
            for name, column in values.items()
        }
        for name, (column, kind) in lists.items():
            columns[name] = _lists(column.astype(kind), schema.field(name).type, failed)
        columns["heatmap_label"] = _lists(
            maps[:, ::-1].astype(np.float16), schema.field("heatmap").type, ~differs
        )
        columns["heatmap_label_max"] = pa.array(np.ones(n, np.float32), mask=~differs)
        columns["pred"] = pa.array(self.setup.class_names).take(columns["pred_index"])
        columns["status"] = pa.array(np.where(failed, "error", "ok"))
        columns["error"] = pa.array(["truncated JPEG"] * n, mask=~failed)
        for name in ("index", "image_id", "label_index", "label"):
            columns[name] = planned[name].combine_chunks()
        return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _lists(values: npt.NDArray[Any], kind: pa.DataType, absent: npt.NDArray[np.bool_]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(absent))


def settings(folder: Path, n_images: int, n_classes: int) -> list[str]:
    """Return the command's settings for a store in a folder."""
    here = Path(__file__).resolve().with_name("report_photos.py")
    return [
        "dataset=custom",
        f"dataset.factory={here}:Photos",
        f"+dataset.factory_args.n_images={n_images}",
        f"+dataset.factory_args.n_classes={n_classes}",
        "model=custom",
        f"model.factory={here}:none",
        f"output_dir={folder}",
    ]


def write_store(config: Config, n_images: int, n_classes: int) -> None:
    """Write all tables that rank and report read."""
    setup = Setup(
        fingerprint="0",
        settings=result_settings(config),
        decided={"device": "cpu", "loader.batch_size": 32, "model.target_layer": "layer4"},
        class_names=class_names(n_classes),
        grid=GRID,
        embedding_dim=DIMENSIONS,
        preprocess={"resize": 256, "crop": [224, 224]},
        n_images=n_images,
        shard_size=SHARD,
    )
    run, rows = RunFolder(config.folder), Rows(setup)
    plan = rows.plan()
    store.write_plan(run, Plan(plan, setup))
    for number in range(setup.n_shards):
        planned = plan.slice(number * SHARD, SHARD)
        store.commit_part(run, setup, number, rows.shard(planned, number))
    store.write(class_table(store.rows(run, setup), setup), run.analysis("classes"))
    store.write(CANDIDATES.empty_table(), run.analysis("candidates"))
    tables = zip(
        ("findings", "interventions", "members"),
        (FINDINGS, INTERVENTIONS, MEMBERS),
        _findings(setup, plan),
        strict=True,
    )
    for name, schema, made in tables:
        store.write(pa.Table.from_pylist(made, schema), run.analysis(name))


Made = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]


def _findings(setup: Setup, plan: pa.Table) -> Made:
    """Return rows of FINDINGS, INTERVENTIONS and MEMBERS."""
    n_classes = len(setup.class_names)
    found, members, interventions = [], [], []
    shown = pictures.webp(photo(0)[:224, :224]), pictures.webp(photo(1)[:224, :224])
    for number in range(min(N_FINDINGS, n_classes)):
        index = list(range(number, plan.num_rows, n_classes))[:N_MEMBERS]
        ids = plan["image_id"].take(pa.array(index)).to_pylist()
        about = {"finding_id": f"finding-{number}", "class_name": setup.class_names[number]}
        found.append(
            {
                **about,
                "kind": "patch",
                "verdict": "confirmed" if number % 2 else "suspected",
                "score": 0.6,
                "region": {"x0": 0.1, "y0": 0.1, "x1": 0.4, "y1": 0.3},
                "n_images": len(index),
                "effect": 0.5,
                "control": 0.1,
                "ci_low": 0.3,
                "ci_high": 0.5,
                "p_value": 1e-6,
                "q_value": 1e-5,
                "example_ids": ids[:8],
                "summary": f"{setup.class_names[number]}: a patch, top left.",
            }
        )
        pairs = list(zip(index, ids, strict=True))
        members += [{**about, "index": i, "image_id": name, "reliance": 0.5} for i, name in pairs]
        interventions += [
            {
                **about,
                "index": i,
                "image_id": name,
                "source_id": name,
                "change": ("added", "removed")[place // 2],
                "prob_before": 0.1,
                "prob_after": 0.9,
                "pred_before": setup.class_names[-1],
                "pred_after": setup.class_names[number],
                "before": shown[0],
                "after": shown[1],
            }
            for place, (i, name) in enumerate(pairs[:4])
        ]
    return found, interventions, members


def run_stages(*wanted: str) -> tuple[float, float]:
    """Run stages as the command, and return its seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", "pipeline", *wanted]
    begun = time.perf_counter()
    child = subprocess.Popen(command)  # noqa: S603 - our own command
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"the command failed: {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def interactive(page: Path, rounds: int = 5) -> tuple[float, float]:
    """Return medians, in seconds, until the filter can be used, and until it has answered."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    arguments = ["--no-sandbox", "--disable-gpu"]
    ready, answered = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for _ in range(rounds):
            tab = browser.new_page()
            begun = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="commit")
            tab.wait_for_selector("#filter:not([hidden])")
            ready.append(time.perf_counter() - begun)
            tab.locator("#filter [name=kind]").select_option("label_error")
            tab.locator("#count", has_text="48 of").wait_for()
            answered.append(time.perf_counter() - begun)
            tab.close()
        browser.close()
    return statistics.median(ready), statistics.median(answered)


def main() -> None:
    """Make the store, run the two stages, open the report, and tell what they cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="keep the store here, and use it again")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    wanted = settings(folder, args.images, args.classes)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(compose("config", wanted))
    if not (config.folder / "analysis/members.parquet").is_file():
        begun = time.perf_counter()
        write_store(config, args.images, args.classes)
        print(f"store written in {time.perf_counter() - begun:.0f} s", flush=True)
    wall, peak = run_stages(*wanted, "stages=[rank,report]")
    seconds = json.loads((config.folder / "run.json").read_text(encoding="utf-8"))["seconds"]
    report = config.folder / "report"
    sizes = [path.stat().st_size for path in report.rglob("*") if path.is_file()]
    index = report / "index.html"
    ready, answered = interactive(index)
    print(
        f"rank {seconds['rank']:.0f} s, report {seconds['report']:.0f} s, in all {wall:.0f} s; "
        f"peak memory {peak:,.0f} MiB"
    )
    print(
        f"index.html {index.stat().st_size / 1e6:.2f} MB, report {sum(sizes) / 1e6:.1f} MB in "
        f"{len(sizes):,} files"
    )
    print(f"the filter can be used after {ready:.2f} s and has answered after {answered:.2f} s")
    shutil.copytree(config.folder, folder / "before", copy_function=os.link, dirs_exist_ok=True)
    wall, peak = run_stages(*wanted, f"baseline={folder}/before", "stages=[compare]")
    print(f"compare with a baseline as large {wall:.0f} s; peak memory {peak:,.0f} MiB")
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
