"""The audited classifier with access to the images of its run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cam.graph import TOKENS
from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.data.source import DecodedImage
from pipeline.engine import inference, precision
from pipeline.engine.inference import ClassEvidence
from pipeline.errors import DataError, one_line
from pipeline.model.classifier import Classifier
from pipeline.model.device import pick_device
from pipeline.storage.run_setup import Setup

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

BATCH = 64
"""Images that go through the model at once."""
SALIENCY_BATCH = 8
"""The same where gradients of the pixels are taken, because all layers' activations are kept."""


@dataclass
class AuditedModel:
    """The classifier that the run explained, and its images.

    Attributes:
        classifier: the classifier.
        read: from a position in the plan to the decoded image.
        n_predicted: images predicted so far.
    """

    classifier: Classifier
    read: Callable[[int], DecodedImage]
    n_predicted: int = 0

    @classmethod
    def load(cls, config: Config, setup: Setup) -> AuditedModel:
        """Load the model and open the source.

        Raises:
            ConfigError: if the model is not the one that the explain stage used.
        """
        device = pick_device(config.device)
        classifier = precision.load_audited(config.model, setup.resolved, device, config.seed)
        source = open_source(config.dataset, config.data.max_pixels)
        return cls(precision.prepare_as_resolved(classifier, setup.resolved), source.read)

    def load_images(self, index: Ints) -> tuple[Tensor, Tensor]:
        """Read and fit the images at positions in the plan (n,).

        Returns:
            Pixels (n, 3, H, W) uint8, and masks (n, 1, H, W) bool of the annotated objects, all
            false where none is annotated; both on the device.

        Raises:
            DataError: naming the position of an image that can no longer be read.
        """
        read = [self._load(int(i)) for i in index]
        device = self.classifier.device
        pixels, objects = (torch.stack(parts).to(device) for parts in zip(*read, strict=True))
        return pixels, objects

    def activations(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the target layer's output (n, C, h, w) bfloat16, and the logits (n, K) float32.

        Args:
            images: (n, 3, H, W) uint8.
        """
        self.n_predicted += len(images)
        found = []
        with self.classifier.cut_graph() as forward:
            for block in torch.split(images, BATCH):
                logits, activations = forward(self.classifier.input(block))
                found.append((activations.detach().bfloat16(), logits.detach().float()))
        activations, logits = (torch.cat(blocks) for blocks in zip(*found, strict=True))
        return activations, logits

    @property
    def is_local(self) -> bool:
        """Whether a cell of the target layer's map holds what the image shows there.

        The tokens of a transformer's last blocks hold what the whole image shows.
        """
        return self.classifier.layout.kind != TOKENS

    def activity(self, images: Tensor, activations: Tensor | None = None) -> Tensor:
        """Compute where the objects probably are in images (n, 3, H, W) uint8, at the layer's grid.

        Args:
            images: the images.
            activations: the target layer's output for them, if it is known.

        Returns:
            (n, h, w): the energy of the activations where they are local, else the saliency of the
            pixels.
        """
        if self.is_local:
            known = self.activations(images)[0] if activations is None else activations
            return known.float().square().sum(dim=1)
        self.n_predicted += len(images)
        blocks = torch.split(images, SALIENCY_BATCH)
        return torch.cat([inference.saliency(self.classifier, block) for block in blocks])

    def evidence(self, images: Tensor, class_index: int) -> ClassEvidence:
        """Compute what the target layer contributes to a class in images (n, 3, H, W) uint8."""
        self.n_predicted += len(images)
        with self.classifier.cut_graph() as forward:
            blocks = [
                inference.class_evidence(forward, self.classifier, block, class_index)
                for block in torch.split(images, BATCH)
            ]
        names = [field.name for field in fields(ClassEvidence)]
        return ClassEvidence(
            *(torch.cat([getattr(block, name) for block in blocks]) for name in names)
        )

    def probabilities(self, images: Tensor) -> Floats:
        """Compute the probabilities (n, K) of all classes for images (n, 3, H, W) uint8."""
        self.n_predicted += len(images)
        with self.classifier.cut_graph() as forward:
            blocks = [
                inference.probabilities(forward, self.classifier, block)
                for block in torch.split(images, BATCH)
            ]
        return np.asarray(torch.cat(blocks).cpu())

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
