"""Sanity check of the heatmaps: whether they change when the model's head is randomised."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn

from pipeline.analysis.audited_model import BATCH, AuditedModel
from pipeline.engine import inference, precision
from pipeline.model.classifier import Classifier

MAX_SIMILARITY = 0.9
"""Rank correlation above which the heatmaps hardly depend on the head's weights."""


def heatmap_similarity(model: AuditedModel, images: Tensor, method: str, seed: int) -> float | None:
    """Correlate the heatmaps with those of the same model with a randomised head.

    This is the model parameter randomisation test of Adebayo et al., "Sanity Checks for Saliency
    Maps", NeurIPS 2018, section 3, for the layers after the target layer.

    Args:
        model: the audited model.
        images: (n, 3, H, W) uint8.
        method: CAM method of the heatmaps, a key of cam.METHODS.
        seed: seed of the random weights.

    Returns:
        Mean rank correlation (Spearman) over the images, in [-1, 1]; None if the head has no
        weights or all heatmaps are constant.
    """
    randomised = randomise_head(model.classifier, seed)
    if randomised is None:
        return None
    correlations = []
    for block in torch.split(images, BATCH):
        maps, classes = inference.heatmaps(model.classifier, block, method=method)
        others, _ = inference.heatmaps(randomised, block, classes, method)
        correlations += [
            float(stats.spearmanr(one, other).statistic)
            for one, other in zip(_to_array(maps), _to_array(others), strict=True)
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


def _to_array(maps: Tensor) -> NDArray[np.float32]:
    """Maps (n, h * w) as an array."""
    return np.asarray(maps.float().cpu())
