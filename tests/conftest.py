"""What several test files share: settings as from the command line, small data, a small model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from pipeline import config as settings
from pipeline.config import Config

MODEL = """
import torch
from torch import nn


def build(n_classes=3):
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, n_classes),
    )
"""
CLASSES = ("cat", "dog", "owl")


os.environ["OMP_NUM_THREADS"] = "1"  # of commands that are started; two test at a time


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two processes test at a time, and the continuous integration has two cores."""
    torch.set_num_threads(1)


@pytest.fixture
def configure(tmp_path: Path) -> Callable[..., Config]:
    """Settings from overrides, the run in a folder of the test."""

    def make(*overrides: str) -> Config:
        with initialize_config_dir(str(settings.conf_dir()), version_base="1.3"):
            composed = compose(
                "config", ["report.suspects=8", f"output_dir={tmp_path}/out", *overrides]
            )
        return settings.load(composed)

    return make


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A file with a factory of a small network for 16 x 16 pictures."""
    path = tmp_path / "net.py"
    path.write_text(MODEL)
    return path


@pytest.fixture
def small_model(model_file: Path) -> list[str]:
    """Overrides that audit the small network."""
    return [*network(f"{model_file}:build"), "loader.num_workers=0"]


def network(factory: str) -> list[str]:
    """Overrides of a network for 16 x 16 pictures."""
    return [
        "model=custom",
        f"model.factory={factory}",
        "model.preprocess.resize=16",
        "model.preprocess.mean=[0.5,0.5,0.5]",
        "model.preprocess.std=[0.5,0.5,0.5]",
    ]


def write_images(root: Path, per_class: int, classes: tuple[str, ...] = CLASSES) -> None:
    """Random PNG pictures of a few sizes, a folder per class; the same ones each time."""
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            size = (16 + number % 5, 20 - number % 3, 3)
            pixels = rng.integers(0, 256, size, dtype=np.uint8)
            assert cv2.imwrite(str(root / name / f"{number:04d}.png"), pixels)
