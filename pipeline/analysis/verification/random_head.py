"""Sanity check of the heatmaps: whether they change when the model's head is randomised."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from pipeline.analysis.verification.image_batch import ImageBatch
from pipeline.analysis.verification.intervention_runner import BATCH, InterventionRunner
from pipeline.engine import inference, precision
from pipeline.model.classifier import Classifier

MAX_SIMILARITY = 0.9
"""Rank correlation above which the heatmaps hardly depend on the head's weights."""


def heatmap_similarity(runner: InterventionRunner, images: ImageBatch, seed: int) -> float | None:
    """Correlate the heatmaps with those of the same model with a randomised head.

    This is the model parameter randomisation test of Adebayo et al., "Sanity Checks for Saliency
    Maps", NeurIPS 2018, section 3, for the layers after the target layer.

    Args:
        runner: the model and its CAM method.
        images: images with heatmaps of the model.
        seed: seed of the random weights.

    Returns:
        Mean rank correlation (Spearman) over the images, in [-1, 1]; None if the head has no
        weights or all heatmaps are constant.
    """
    randomised = randomise_head(runner.classifier, seed)
    if randomised is None:
        return None
    maps = [
        inference.heatmaps(randomised, pixels, classes, runner.method)[0]
        for pixels, classes in zip(
            torch.split(images.pixels, BATCH), torch.split(images.classes, BATCH), strict=True
        )
    ]
    correlations = [
        float(stats.spearmanr(one, other).statistic)
        for one, other in zip(_flatten(images.heat), _flatten(torch.cat(maps)), strict=True)
        if one.std() > 0 and other.std() > 0
    ]
    return float(np.mean(correlations)) if correlations else None


def randomise_head(classifier: Classifier, seed: int) -> Classifier | None:
    """Copy a classifier and draw all weights after the target layer anew.

    The weights of each parameter are drawn from a normal distribution with the parameter's mean and
    standard deviation. None is returned if there are no weights after the target layer.
    """
    module = copy.deepcopy(classifier.module)
    backbone = precision.backbone_names(classifier)
    parameters = [
        parameter
        for name, part in module.network.named_modules()
        if not any(_contains(name, other) or _contains(other, name) for other in backbone)
        for parameter in part.parameters(recurse=False)
        if parameter.is_floating_point()
    ]
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        _redraw(parameter, generator)
    return replace(classifier, module=module) if parameters else None


def _contains(outer: str, inner: str) -> bool:
    """Whether the module named `inner` is the module named `outer` or a part of it."""
    return outer in ("", inner) or inner.startswith(f"{outer}.")


@torch.no_grad()
def _redraw(parameter: nn.Parameter, generator: torch.Generator) -> None:
    spread = parameter.float().std(correction=0)
    drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
    parameter.copy_(drawn * spread + parameter.float().mean())


def _flatten(maps: Tensor) -> NDArray[np.float32]:
    """Maps (n, h, w) as an array (n, h * w)."""
    return np.asarray(maps.reshape(len(maps), -1).float().cpu())
