"""The report: overlays pixel by pixel, hostile names as text, empty cases, an old report kept."""

from __future__ import annotations

import csv
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from pipeline import store
from pipeline.config import Config, Manifest, ReportConfig, ZooModel, result_settings
from pipeline.errors import ConfigError, NotFinished
from pipeline.ops import Journal
from pipeline.report import page, pictures
from pipeline.schema import (
    CANDIDATES,
    FINDINGS,
    MEMBERS,
    SUSPECTS,
    Setup,
    classes_schema,
    part_schema,
    plan_schema,
)
from pipeline.stages import report
from pipeline.store import Plan, RunFolder

NASTY = [
    "<script>document.title='hacked'</script>",
    "\"'><img src=x onerror=\"document.title='hacked'\">",
    "Größe 猫 \u202egnp {{ 7 * 7 }} &amp; `${1}`",
    "n" * 300,
]
GRID = (2, 3)
SIZE = (40, 60)  # of the pictures: height, width
REGION = {"x0": 0.5, "y0": 0.5, "x1": 1.0, "y1": 1.0}


def make_run(
    folder: Path,
    *,
    names: list[str] = NASTY,
    labelled: bool = True,
    n_images: int = 9,
    failed: tuple[int, ...] = (4, 8),
    found: bool = True,
    preprocess: dict[str, Any] | None = None,
    look: ReportConfig | None = None,
) -> Config:
    """A run as the stages before the report leave it; without `found` there is nothing to show."""
    labels = [names[i % len(names)] if labelled else None for i in range(n_images)]
    ids = [f"{i} {names[i % len(names)][:80].replace('/', '_')}.png" for i in range(n_images)]
    config = Config(
        output_dir=str(folder / "out"),
        dataset=_dataset(folder / "data", ids, labels),
        model=ZooModel(kind="torchvision", name="resnet18"),
        look=look,
    ) if False else Config(
        output_dir=str(folder / "out"),
        dataset=_dataset(folder / "data", ids, labels),
        model=ZooModel(kind="torchvision", name="resnet18"),
        report=look or ReportConfig(thumbnail=64),
    )
    return config
