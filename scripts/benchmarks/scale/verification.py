"""How long discover and verify take with the number of classes, at the same sample of each.

Pictures and network are made up: every class has a pattern of its own, and the network names the
nearest one. Nothing is to be found; candidates count whatever they contribute, so that all of them
are screened: the most work that a class can give.

    python scripts/benchmarks/scale/verification.py --classes 10 100 1000
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn
from torch.utils.data import Dataset

from pipeline.analysis.shortcuts import divisions
from pipeline.config import conf_dir, load
from pipeline.stages.audit import audit

SIZE, GRID = 64, 4


def patterns(n_classes: int) -> npt.NDArray[np.float32]:
    """A pattern (n, 3, GRID, GRID) in [0, 1] for every class."""
    return np.random.default_rng(0).random((n_classes, 3, GRID, GRID)).astype(np.float32)


class Patterns(Dataset[dict[str, Any]]):
    """Pictures of the patterns with noise, as many of every class."""

    def __init__(self, n_classes: int, per_class: int) -> None:
        self.patterns = patterns(n_classes)
        self.classes = [f"class {index:04d}" for index in range(n_classes)]
        self.targets = [index % n_classes for index in range(n_classes * per_class)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = self.targets[index]
        side = SIZE // GRID
        wide = self.patterns[label].transpose(1, 2, 0).repeat(side, axis=0).repeat(side, axis=1)
        noise = np.random.default_rng(index).normal(0, 0.05, wide.shape)
        pixels = np.rint((wide + noise).clip(0, 1) * 255).astype(np.uint8)
        return {"image": pixels, "label": self.classes[label]}


class Nearest(nn.Module):
    """Logits that fall with the squared distance to each pattern."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.means = nn.Conv2d(3, 3, SIZE // GRID, stride=SIZE // GRID, groups=3, bias=False)
        nn.init.constant_(self.means.weight, (GRID / SIZE) ** 2)
        self.head = nn.Linear(3 * GRID * GRID, n_classes)
        known = torch.from_numpy(patterns(n_classes)).flatten(1)
        with torch.no_grad():
            self.head.weight.copy_(20 * known)
            self.head.bias.copy_(-10 * known.square().sum(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, n_classes) of pictures in [0, 1]."""
        logits: Tensor = self.head(self.means(x).flatten(1))
        return logits


def measure(n_classes: int, per_class: int, trials: int) -> dict[str, float]:
    """Seconds of each stage, and pictures that the model was asked about."""
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "dataset=custom",
            f"dataset.factory={here}:Patterns",
            f"+dataset.factory_args.n_classes={n_classes}",
            f"+dataset.factory_args.per_class={per_class}",
            "model=custom",
            f"model.factory={here}:Nearest",
            f"+model.factory_args.n_classes={n_classes}",
            f"model.preprocess.resize={SIZE}",
            "model.preprocess.mean=[0,0,0]",
            "model.preprocess.std=[1,1,1]",
            "precision=fp32",
            "stages=[explain,discover,verify]",
            f"analysis.sample_per_class={per_class}",
            f"analysis.trials={trials}",
            f"output_dir={folder}",
        ]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            config = load(compose("config", overrides))
        config.folder.mkdir(parents=True)
        audit(config)
        told = json.loads((config.folder / "run.json").read_text(encoding="utf-8"))
    seconds: dict[str, float] = told["seconds"]
    return seconds | {"asked": told["verification"]["pictures_asked"]}


def main() -> None:
    """Print a line for each number of classes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--sample", type=int, default=40, help="images of each class")
    parser.add_argument("--trials", type=int, default=20)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    divisions.MIN_CONTRIBUTION_ALONE = divisions.MIN_CONTRIBUTION = 0.0
    for n_classes in args.classes:
        seconds = measure(n_classes, args.sample, args.trials)
        both = seconds["discover"] + seconds["verify"]
        print(
            f"{n_classes:6} classes: discover {seconds['discover']:.1f} s, verify "
            f"{seconds['verify']:.1f} s, {1000 * both / n_classes:.0f} ms a class, "
            f"{seconds['asked']:,.0f} pictures asked",
            flush=True,
        )


if __name__ == "__main__":
    main()
