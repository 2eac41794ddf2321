"""A small run as the stages before the report leave it, with hostile names."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from helpers.setups import resolved
from pipeline.config import Config, Manifest, ReportConfig, ZooModel, result_settings
from pipeline.data import pictures
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import Plan, RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.schema import (
    CANDIDATES,
    DECISIONS,
    FINDINGS,
    INTERVENTIONS,
    MEMBERS,
    SUSPECTS,
    classes_schema,
    part_schema,
    plan_schema,
)

NASTY = [
    "<script>document.title='hacked'</script>",
    "\"'><img src=x onerror=\"document.title='hacked'\">",
    "Größe 猫 \u202egnp {{ 7 * 7 }} &amp; `${1}`",
    "n" * 300,
]
GRID = (2, 3)
SIZE = (40, 60)  # height and width of the pictures
FITTED = {"resize": list(SIZE), "crop": list(SIZE), "mean": [0.5] * 3, "std": [0.5] * 3}


def make_run(
    folder: Path,
    *,
    names: list[str] = NASTY,
    labelled: bool = True,
    found: bool = True,
    failed: tuple[int, ...] = (4, 8),
    preprocess: dict[str, Any] = FITTED,
    n_images: int = 9,
) -> Config:
    """A run of images as the other stages leave it; `found` says if anything was found."""
    labels = [names[i % len(names)] if labelled else None for i in range(n_images)]
    ids = [f"{i} {names[i % len(names)][:80]}.png".replace("/", "_") for i in range(n_images)]
    config = Config(
        output_dir=str(folder / "out"),
        dataset=_dataset(folder / "data", ids, labels),
        model=ZooModel(kind="torchvision", name="resnet18"),
        report=ReportConfig(thumbnail=64),
    )
    setup = Setup(
        fingerprint="0",
        settings=result_settings(config),
        resolved=resolved(2),
        class_names=names,
        grid=GRID,
        embedding_dim=2,
        preprocess=preprocess,
        n_images=len(ids),
        shard_size=4,
    )
    run = RunFolder(config.folder)
    rows = [_row(i, ids, labels, names, failed) for i in range(len(ids))]
    _write_rows(run, setup, rows)
    _write_analysis(run, names, labelled, [row for row in rows if found and row["status"] == "ok"])
    return config


def _dataset(folder: Path, ids: list[str], labels: list[str | None]) -> Manifest:
    """Pictures that are red on the left and blue on the right, named by a manifest."""
    folder.mkdir(parents=True)
    pixels = np.zeros((*SIZE, 3), np.uint8)
    pixels[:, : SIZE[1] // 2, 2] = pixels[:, SIZE[1] // 2 :, 0] = 255  # OpenCV writes BGR
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, quoting=csv.QUOTE_ALL)
        table.writerow(["path", "label"])
        for name, label in zip(ids, labels, strict=True):
            (folder / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
            table.writerow([name, label or ""])
    return Manifest(path=str(folder / "list.csv"))


def _row(
    index: int, ids: list[str], labels: list[str | None], names: list[str], failed: tuple[int, ...]
) -> dict[str, Any]:
    label, pred = labels[index], (index + index // 4) % len(names)
    given = {
        "index": index,
        "image_id": ids[index],
        "label": label,
        "label_index": None if label is None else names.index(label),
    }
    if index in failed:
        return {**given, "status": "error", "error": f"broken <b>{index % 2}</b>"}
    heatmap = np.eye(1, 6, index % 6, dtype=np.float16)[0]
    other = label is not None and names[pred] != label
    ordered = [pred, *(i for i in range(len(names)) if i != pred)][:5]
    return {
        **given,
        "status": "ok",
        "pred_index": pred,
        "pred": names[pred],
        "confidence": 0.75,
        "label_prob": None if label is None else 0.1 if other else 0.75,
        "top_index": [*ordered, None, None][:5],
        "top_prob": [0.75, *[0.25 / 4] * 3, None][:5],
        "heatmap": heatmap,
        "heatmap_max": 1.0,
        "heatmap_label": heatmap[::-1] if other else None,
        "image_height": SIZE[0],
        "image_width": SIZE[1],
        "image_brightness": 0.25,
        "focus_border": min(1.0, 0.1 * index),
        "focus_area50": 1 / 6,
    }


def _write_rows(run: RunFolder, setup: Setup, rows: list[dict[str, Any]]) -> None:
    planned = [{**row, "shard": row["index"] // setup.shard_size} for row in rows]
    run_folder.write_plan(run, Plan(pa.Table.from_pylist(planned, plan_schema()), setup))
    schema = part_schema(setup.grid, setup.embedding_dim)
    for shard in range(setup.n_shards):
        of_shard = [rows[i] for i in setup.rows(shard)]
        run_folder.commit_part(run, setup, shard, pa.Table.from_pylist(of_shard, schema))


def _write_analysis(
    run: RunFolder, names: list[str], labelled: bool, good: list[dict[str, Any]]
) -> None:
    """The tables of discover, verify and rank: all of `good` suspect, a finding for its first."""
    classes = [
        {"class_index": i, "class_name": name, "n_label": 2 * labelled, "n_pred": 1, "dead_maps": 0}
        | {"n_correct": int(labelled), "accuracy": 0.5 if labelled else None}
        | {"heatmap": [0.1 * i] * 6 if i else None}
        for i, name in enumerate(names)
    ]
    findings = [
        {"finding_id": "f<1>", "class_name": row["pred"], "kind": "region", "verdict": "confirmed"}
        | {"region": {"x0": 0.5, "y0": 0.5, "x1": 1.0, "y1": 1.0}, "n_images": 3, "score": 0.5}
        | {"effect": 0.8, "control": 0.1, "ci_low": 0.6, "ci_high": 0.8, "q_value": 1e-6}
        | {"example_ids": [row["image_id"]], "summary": f"{row['pred']}: a region."}
        for row in good[:1]
    ]
    members = [{**row, "finding_id": "f<1>", "reliance": 0.25} for row in good[:1]]
    suspects = [
        {**row, "rank": rank, "score": 1 / rank, "kind": ("label_error", "ambiguous")[rank % 2]}
        | {"finding_id": "f<1>" if rank == 1 else None, "reasons": [f"because of {row['pred']}"]}
        for rank, row in enumerate(good, start=1)
    ]
    packed = [pictures.encode_webp(flat(colour, 20, 20)) for colour in ((200, 0, 0), (0, 0, 200))]
    interventions = [
        {"finding_id": "f<1>", "index": row["index"], "image_id": row["image_id"]}
        | {"source_id": row["image_id"], "change": change, "class_name": row["pred"]}
        | {"prob_before": 0.125, "prob_after": 0.875, "pred_before": names[-1]}
        | {"pred_after": row["pred"], "before": packed[0], "after": packed[1]}
        for row in good[:1]
        for change in ("added", "removed")
    ]
    for name, rows, schema in (
        ("interventions", interventions, INTERVENTIONS),
        ("decisions", [], DECISIONS),
        ("classes", classes, classes_schema(GRID)),
        ("candidates", [], CANDIDATES),
        ("findings", findings, FINDINGS),
        ("members", members, MEMBERS),
        ("suspects", suspects, SUSPECTS),
    ):
        parquet.write(pa.Table.from_pylist(rows, schema), run.analysis(name))


def flat(colour: tuple[int, int, int], height: int = 70, width: int = 70) -> pictures.Rgb:
    """A picture of one colour."""
    return np.full((height, width, 3), colour, np.uint8)
