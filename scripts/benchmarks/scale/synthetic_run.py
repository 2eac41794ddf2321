"""A run that is made up, of any number of images: what a model of many classes might have given.

Its rows are drawn shard by shard. A run of millions repeats the rows of some shards under ids of
its own, as drawing takes longer than writing.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from synthetic_photos import class_names, photo

from pipeline.config import Config, result_settings
from pipeline.data import pictures
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Resolved, Setup
from pipeline.storage.schema import (
    CANDIDATES,
    FINDINGS,
    FOCUS,
    IMAGE,
    INTERVENTIONS,
    MEMBERS,
    TOP,
    part_schema,
    plan_schema,
)

GRID, DIMENSIONS = (7, 7), 128
WRONG, ERRORS = 0.02, 0.001
"""Shares of wrong labels and of unreadable images."""
N_FINDINGS, N_MEMBERS = 40, 100
PROCESSES = 2


def settings(folder: Path, n_images: int, n_classes: int) -> list[str]:
    """Return the command's settings for a store in a folder."""
    here = Path(__file__).resolve().with_name("synthetic_photos.py")
    return [
        "dataset=custom",
        f"dataset.factory={here}:Photos",
        f"+dataset.factory_args.n_images={n_images}",
        f"+dataset.factory_args.n_classes={n_classes}",
        "model=custom",
        f"model.factory={here}:none",
        f"output_dir={folder}",
    ]


class Rows:
    """Rows of a run of which so many shards are drawn; the others repeat them."""

    def __init__(self, setup: Setup, drawn: int) -> None:
        self.setup, self.drawn = setup, drawn
        self.names = pa.array(setup.class_names)
        self.means = np.random.default_rng(0).normal(0, 20, (len(self.names), DIMENSIONS))
        self.shards: dict[int, pa.Table] = {}

    def planned(self, index: range) -> pa.Table:
        """Return the planned images at some positions."""
        at, cycle = np.arange(index.start, index.stop), self.drawn * self.setup.shard_size
        label = pa.array(at % cycle % len(self.names), pa.int32())
        names, number = self.names.take(label), pa.array(at).cast(pa.string())
        files = pc.binary_join_element_wise(pc.utf8_lpad(number, 7, "0"), ".jpg", "")
        ids = pc.binary_join_element_wise(names, files, "/")
        shard = pa.array(at // self.setup.shard_size, pa.int32())
        return pa.Table.from_arrays(
            [pa.array(at), ids, label, names, shard, number], schema=plan_schema()
        )

    def shard(self, number: int) -> pa.Table:
        """Return the rows of one shard."""
        planned, like = self.planned(self.setup.rows(number)), number % self.drawn
        if like not in self.shards:
            self.shards[like] = self._draw(like)
        rows = self.shards[like].slice(0, planned.num_rows)
        for place, name in enumerate(("index", "image_id", "label_index", "label")):
            rows = rows.set_column(place, rows.schema.field(place), planned[name])
        return rows

    def _draw(self, number: int) -> pa.Table:
        n, n_classes = self.setup.shard_size, len(self.names)
        planned, rng = (
            self.planned(range(number * n, (number + 1) * n)),
            np.random.default_rng(number),
        )
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
        columns["pred"] = self.names.take(columns["pred_index"])
        columns["status"] = pa.array(np.where(failed, "error", "ok"))
        columns["error"] = pa.array(["truncated JPEG"] * n, mask=~failed)
        for name in ("index", "image_id", "label_index", "label"):
            columns[name] = planned[name].combine_chunks()
        return pa.Table.from_arrays([columns[field.name] for field in schema], schema=schema)


def _lists(values: npt.NDArray[Any], kind: pa.DataType, absent: npt.NDArray[np.bool_]) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=pa.array(absent))


def write_run(config: Config, n_images: int, n_classes: int, shard_size: int, drawn: int) -> None:
    """Write all tables that rank and report read.

    Args:
        config: of `settings`.
        n_images, n_classes, shard_size: of the run.
        drawn: shards whose rows are drawn; the others repeat them.
    """
    setup = Setup(
        fingerprint="0",
        settings=result_settings(config),
        resolved=Resolved(
            camaudit="made up",
            device="cpu",
            target_layer="layer4",
            model_fingerprint="0",
            compile=False,
            channels_last=False,
            precision="fp32",
            batch_size=32,
        ),
        class_names=class_names(n_classes),
        grid=GRID,
        embedding_dim=DIMENSIONS,
        preprocess={"resize": 256, "crop": [224, 224]},
        n_images=n_images,
        shard_size=shard_size,
    )
    run, rows = RunFolder(config.folder), Rows(setup, min(drawn, setup.n_shards))
    plan = rows.planned(range(n_images))
    run_folder.write_plan(run, Plan(plan, setup))
    _write_parts(run, rows)
    parquet.write(CANDIDATES.empty_table(), run.analysis("candidates"))
    tables = zip(
        ("findings", "interventions", "members"),
        (FINDINGS, INTERVENTIONS, MEMBERS),
        _findings(setup, plan),
        strict=True,
    )
    for name, schema, made in tables:
        parquet.write(pa.Table.from_pylist(made, schema), run.analysis(name))


def _write_parts(run: RunFolder, rows: Rows) -> None:
    """Write the parts, every process those that repeat the same drawn ones."""
    with ProcessPoolExecutor(PROCESSES, get_context("spawn")) as pool:
        writing = [
            pool.submit(_write_some, run, rows, range(first, rows.setup.n_shards, rows.drawn))
            for first in range(rows.drawn)
        ]
        for some in writing:
            some.result()


def _write_some(run: RunFolder, rows: Rows, shards: range) -> None:
    for number in shards:
        run_folder.commit_part(run, rows.setup, number, rows.shard(number))


Made = tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]


def _findings(setup: Setup, plan: pa.Table) -> Made:
    """Return rows of FINDINGS, INTERVENTIONS and MEMBERS."""
    n_classes = len(setup.class_names)
    found, members, interventions = [], [], []
    shown = pictures.encode_webp(photo(0)[:224, :224]), pictures.encode_webp(photo(1)[:224, :224])
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
