"""The classifier with access to the run's images: loads images, predicts changed images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.verification.image_batch import ImageBatch
from pipeline.analysis.verification.interventions import Intervention
from pipeline.data.source import DecodedImage
from pipeline.engine import inference
from pipeline.errors import DataError, one_line
from pipeline.model.classifier import Classifier

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BATCH = 64
"""Images that go through the model at once."""


@dataclass
class InterventionRunner:
    """Runs interventions on the classifier.

    Attributes:
        classifier: the model that the run explained.
        read: from a position in the plan to the decoded image.
        method: CAM method of the heatmaps, a key of cam.METHODS.
        n_predicted: images predicted so far.
    """

    classifier: Classifier
    read: Callable[[int], DecodedImage]
    method: str
    n_predicted: int = 0

    def load_images(self, index: Ints) -> ImageBatch:
        """Read and preprocess the images at positions in the plan, and compute top-2 heatmaps.

        Raises:
            DataError: naming the position of an image that can no longer be read.
        """
        device = self.classifier.device
        read = [self._load(int(i)) for i in index]
        pixels, objects = (torch.stack(parts).to(device) for parts in zip(*read, strict=True))
        blocks = [
            inference.top2_heatmaps(self.classifier, block, self.method)
            for block in torch.split(pixels, BATCH)
        ]
        maps, classes, energy = (torch.cat(parts) for parts in zip(*blocks, strict=True))
        plan = torch.as_tensor(index, device=device)
        heat, runner_up = _shares(maps).unbind(dim=1)
        return ImageBatch(plan, classes[:, 0], pixels, heat, runner_up, _shares(energy), objects)

    def probabilities(self, images: Tensor) -> Floats:
        """Compute the probabilities (n, K) of all classes for images (n, 3, H, W) uint8."""
        self.n_predicted += len(images)
        with self.classifier.cut_graph() as forward:
            blocks = [
                inference.probabilities(forward, self.classifier, block)
                for block in torch.split(images, BATCH)
            ]
        return np.asarray(torch.cat(blocks).cpu())

    def predict(self, images: Tensor) -> Ints:
        """Predict the classes (n,) of images (n, 3, H, W) uint8."""
        return np.asarray(self.probabilities(images).argmax(axis=1))

    def predict_transplant(
        self, intervention: Intervention, recipients: ImageBatch, sources: ImageBatch
    ) -> Ints:
        """Predict the classes (n,) of the recipients after a transplant from the sources."""
        return self.predict(intervention.transplant(recipients, sources))

    def _load(self, index: int) -> tuple[Tensor, Tensor]:
        """Pixels (3, H, W) of an image and its object mask (1, H, W), false without annotation."""
        fit = self.classifier.preprocess.fit
        try:
            picture = self.read(index)
            pixels = fit(picture.pixels)
            if picture.object is None:
                return pixels, torch.zeros_like(pixels[:1], dtype=torch.bool)
            return pixels, fit(picture.object[..., None]) > 127
        except Exception as error:
            raise DataError(f"image {index} of the plan: {one_line(error)}") from error


def _shares(maps: Tensor) -> Tensor:
    """Divide maps (..., h, w) by their sums; a dead map stays 0."""
    return maps / maps.sum(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
