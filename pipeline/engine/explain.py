"""Heatmaps of a few pictures from Python, by the same code as those of a whole run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.cam import graph, methods
from pipeline.config import AUTO
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import MULTICLASS, LogitsModule
from pipeline.model.target_layer import find_target_layer

Targets = Tensor | Sequence[int] | int


def explain(
    model: nn.Module | Classifier,
    images: Tensor,
    targets: Targets | None = None,
    *,
    target_layer: str = AUTO,
    method: str = "gradcam",
) -> Tensor:
    """Where the evidence for a class lies in each picture of a batch.

    Args:
        model: a module that gives logits (N, K), left as it came; or a Classifier.
        images: (N, C, H, W) on the model's device, as it takes them, normalised; of a Classifier
            (N, 3, H, W) uint8 pictures that were fitted to it (Preprocess.fit).
        targets: the class (N,) to explain in each, or one for all; None: the predicted ones.
        target_layer: name of the module whose output is explained; auto: as model.target_layer.
            A Classifier has its own.
        method: a key of cam.METHODS.

    Returns:
        (N, h, w) in [0, 1] at the layer's own grid, each divided by its maximum; all 0 where
        nothing speaks for the class.

    Raises:
        ConfigError: a layer that cannot be explained.
        IndexError: a target that is no class of the model.
    """

    def chosen(logits: Tensor) -> Tensor:
        return _classes(targets, logits)[:, None]

    with _ready(model, images, target_layer) as (forward, inputs):
        found = methods.compute_cam(forward, inputs, chosen, method)
    return methods.normalise(found.maps[0])[0]


@contextmanager
def _ready(
    model: nn.Module | Classifier, images: Tensor, target_layer: str
) -> Iterator[tuple[graph.Forward, Tensor]]:
    """The forward pass with its graph cut, and its input."""
    if isinstance(model, Classifier):
        with model.cut_graph() as forward:
            yield forward, model.input(images)
        return
    module = LogitsModule(model, MULTICLASS)
    with graph.frozen(model):
        target = find_target_layer(target_layer, module, _two_that_differ(images))
    place = module.network.get_submodule(target.name)
    with graph.cut_graph(module, place, target.layout) as forward:
        yield forward, images


def _two_that_differ(images: Tensor) -> Tensor:
    """Two inputs like the images, which differ everywhere, for trials of the model."""
    first = images[:1].detach()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *first.shape[1:], generator=generator).to(first)
    return first.mean() + first.std() * noise


def _classes(targets: Targets | None, logits: Tensor) -> Tensor:
    """The classes (N,) to explain."""
    n, n_classes = logits.shape
    if targets is None:
        return logits.argmax(dim=1)
    classes = torch.as_tensor(targets, dtype=torch.int64, device=logits.device).expand(n)
    if ((classes < 0) | (classes >= n_classes)).any():
        wrong = classes[(classes < 0) | (classes >= n_classes)][0]
        raise IndexError(f"target {int(wrong)} is no class of a model with {n_classes}")
    return classes
