"""The model on its device and the pictures it saw: what every intervention is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.verification.interventions import ImageBatch, Intervention
from pipeline.data.source import Picture, describe
from pipeline.engine import inference
from pipeline.errors import DataError
from pipeline.model.classifier import Classifier

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BATCH = 64


@dataclass
class InterventionRunner:
    """A classifier, how its pictures are read by plan position, and how they are explained.

    asked counts the pictures it was asked about.
    """

    classifier: Classifier
    read: Callable[[int], Picture]
    method: str
    asked: int = 0

    def scenes(self, index: Ints) -> ImageBatch:
        """Pictures at plan positions as the model saw them, with the heat of two classes.

        Raises:
            DataError: naming a position that can be read no more.
        """
        device = self.classifier.device
        read = [self._picture(int(i)) for i in index]
        pictures, objects = (torch.stack(parts).to(device) for parts in zip(*read, strict=True))
        blocks = [
            inference.top2_heatmaps(self.classifier, block, self.method)
            for block in torch.split(pictures, BATCH)
        ]
        maps, classes, energy = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        plan = torch.as_tensor(index, device=device)
        heat, runner_up = _shares(maps).unbind(dim=1)
        return ImageBatch(plan, classes[:, 0], pictures, heat, runner_up, _shares(energy), objects)

    def probabilities(self, images: Tensor) -> Floats:
        """Probabilities (n, K) of pictures (n, 3, H, W) uint8."""
        self.asked += len(images)
        with self.classifier.cut_graph() as forward:
            blocks = [
                inference.probabilities(forward, self.classifier, block)
                for block in torch.split(images, BATCH)
            ]
        return np.asarray(torch.cat(blocks).cpu())

    def classes(self, images: Tensor) -> Ints:
        """Predicted classes (n,)."""
        return np.asarray(self.probabilities(images).argmax(axis=1))

    def transplant(self, probe: Intervention, hosts: ImageBatch, donors: ImageBatch) -> Ints:
        """What hosts are predicted to be, once they carry what the probe takes from the donors."""
        return self.classes(probe.transplant(hosts, donors))

    def _picture(self, index: int) -> tuple[Tensor, Tensor]:
        """A picture (3, H, W) and the mask (1, H, W) of its object, empty where none is marked."""
        fit = self.classifier.preprocess.fit
        try:
            picture = self.read(index)
            pixels = fit(picture.pixels)
            if picture.object is None:
                return pixels, torch.zeros_like(pixels[:1], dtype=torch.bool)
            return pixels, fit(picture.object[..., None]) > 127
        except Exception as error:
            raise DataError(f"image {index} of the plan: {describe(error)}") from error


def _shares(maps: Tensor) -> Tensor:
    """Maps (..., h, w) whose cells sum to 1; a dead one stays 0."""
    return maps / maps.sum(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def numbers(values: Tensor) -> Ints:
    """A tensor of whole numbers, from wherever it is."""
    return np.asarray(values.cpu(), np.int64)
