"""The model on its device and the pictures it saw: what every intervention is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import engine
from pipeline.errors import DataError
from pipeline.model import Classifier
from pipeline.shortcuts.probes import Probe, Scenes
from pipeline.sources.source import Picture, describe

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BATCH = 64


@dataclass
class Bench:
    """A classifier, how its pictures are read by plan position, and how they are explained.

    asked counts the pictures it was asked about.
    """

    classifier: Classifier
    read: Callable[[int], Picture]
    method: str
    asked: int = 0

    def scenes(self, index: Ints) -> Scenes:
        """Pictures at plan positions as the model saw them, with the heat of two classes.

        Raises:
            DataError: naming a position that can be read no more.
        """
        device = self.classifier.device
        pictures = torch.stack([self._picture(int(i)) for i in index]).to(device)
        blocks = [
            engine.rivals(self.classifier, block, self.method)
            for block in torch.split(pictures, BATCH)
        ]
        maps, classes = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        heat = maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        plan = torch.as_tensor(index, device=device)
        return Scenes(plan, classes[:, 0], pictures, heat[:, 0], heat[:, 1])

    def probabilities(self, images: Tensor) -> Floats:
        """Probabilities (n, K) of pictures (n, 3, H, W) uint8."""
        self.asked += len(images)
        with self.classifier.cut_graph() as forward:
            blocks = [
                engine.probabilities(forward, self.classifier, block)
                for block in torch.split(images, BATCH)
            ]
        return np.asarray(torch.cat(blocks).cpu())

    def classes(self, images: Tensor) -> Ints:
        """Predicted classes (n,)."""
        return np.asarray(self.probabilities(images).argmax(axis=1))

    def transplant(self, probe: Probe, hosts: Scenes, donors: Scenes) -> Ints:
        """What hosts are predicted to be, once they carry what the probe takes from the donors."""
        return self.classes(probe.transplant(hosts, donors))

    def _picture(self, index: int) -> Tensor:
        try:
            return self.classifier.preprocess.fit(self.read(index).pixels)
        except Exception as error:
            raise DataError(f"image {index} of the plan: {describe(error)}") from error


def numbers(values: Tensor) -> Ints:
    """A tensor of whole numbers, from wherever it is."""
    return np.asarray(values.cpu(), np.int64)
