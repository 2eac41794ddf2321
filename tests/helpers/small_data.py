"""Small data and a small network, as several tests audit them."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

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
