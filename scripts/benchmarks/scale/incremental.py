"""What a night costs when little changed: an audit with a baseline next to a full one.

Writes made-up JPEGs, audits them, adds, repaints and removes some, audits again with the first run
as baseline and once more without, compares the tables, and prints images and seconds in the model.
Usage: python scripts/benchmarks/scale/incremental.py --folder DIR [--images 10000] [--size 64]
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torchvision.models import resnet18

from pipeline.config import conf_dir, load
from pipeline.stages.audit import audit
from pipeline.storage import run_folder
from pipeline.storage.run_folder import RunFolder

CLASSES = 10
NEW, CHANGED, REMOVED = 100, 50, 30


class Timed(nn.Module):
    """ResNet-18 that adds up what goes through it."""

    images, seconds = 0, 0.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = resnet18(num_classes=CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        begun = time.perf_counter()
        logits: Tensor = self.net(images)
        Timed.seconds += time.perf_counter() - begun
        Timed.images += len(images)
        return logits


def build() -> nn.Module:
    """The factory that the settings name, in this very module, whose counts are read."""
    return Timed()


def paint(path: Path, seed: int, size: int) -> None:
    """A made-up picture, another one for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC))


def place(root: Path, number: int) -> Path:
    return root / f"class-{number % CLASSES}" / f"{number:06d}.jpg"


def change(root: Path, n_images: int, size: int) -> None:
    """Add, repaint and remove images from all over the folder."""
    for number in range(NEW):
        paint(place(root, n_images + number), n_images + number, size)
    for number in np.linspace(0, n_images - 1, CHANGED).astype(int).tolist():
        paint(place(root, number), n_images + NEW + number, size)
    for number in np.linspace(1, n_images - 2, REMOVED).astype(int).tolist():
        place(root, number).unlink(missing_ok=True)


def audited(folder: Path, size: int, *more: str) -> tuple[int, float, float]:
    """Images and seconds in the model, and seconds of explain."""
    Timed.images, Timed.seconds = 0, 0.0
    wanted = [
        f"dataset.root={folder}/images",
        f"output_dir={folder}/runs",
        "model=custom",
        "model.factory=__main__:build",
        f"model.preprocess.resize={size}",
        "stages=[explain]",
        "precision=fp32",  # measured anew, another one might be chosen for the changed images
        *more,
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(compose("config", wanted))
    begun = time.perf_counter()
    audit(config)
    return Timed.images, Timed.seconds, time.perf_counter() - begun


def main() -> None:
    """Audit three times and tell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=64)
    wanted = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    for number in range(wanted.images):
        paint(place(wanted.folder / "images", number), number, wanted.size)
    audited(wanted.folder, wanted.size, "run_id=monday")
    change(wanted.folder / "images", wanted.images, wanted.size)
    baseline = f"baseline={wanted.folder}/runs/monday"
    some = audited(wanted.folder, wanted.size, "run_id=tuesday", baseline)
    full = audited(wanted.folder, wanted.size, "run_id=full")
    for name, (images, seconds, whole) in (("with baseline", some), ("full", full)):
        print(f"{name}: {images} images and {seconds:.2f} s in the model, {whole:.1f} s in all")
    print(f"share of the full run's time in the model: {some[1] / full[1]:.1%}")
    runs = [RunFolder(wanted.folder / "runs" / name) for name in ("tuesday", "full")]
    found, expected = (
        run_folder.rows(run, run_folder.read_plan(run).setup).to_table() for run in runs
    )
    print(f"tables equal: {found.equals(expected)}, {expected.num_rows} rows")


if __name__ == "__main__":
    main()
