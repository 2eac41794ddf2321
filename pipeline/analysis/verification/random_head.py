"""Whether the maps depend on the model: the weights behind the explained layer drawn anew."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline.analysis.verification.intervention_runner import BATCH, InterventionRunner
from pipeline.analysis.verification.interventions import ImageBatch
from pipeline.engine import inference, precision
from pipeline.model.classifier import Classifier

HARDLY = 0.9
"""Rank correlation above which maps are said to hardly depend on the weights."""


def similarity(bench: InterventionRunner, scenes: ImageBatch, seed: int) -> float | None:
    """Mean rank correlation of the maps with those of a model whose head is random, in [-1, 1].

    The model parameter randomisation test of Adebayo et al., "Sanity Checks for Saliency Maps",
    NeurIPS 2018, section 3, for the layers behind the explained one. None where these have no
    weights, or all maps are dead.
    """
    random = randomised(bench.classifier, seed)
    if random is None:
        return None
    maps = [
        inference.heatmaps(random, images, classes, bench.method)[0]
        for images, classes in zip(
            torch.split(scenes.pictures, BATCH), torch.split(scenes.classes, BATCH), strict=True
        )
    ]
    found = [
        float(stats.spearmanr(one, other).statistic)
        for one, other in zip(_flat(scenes.heat), _flat(torch.cat(maps)), strict=True)
        if one.std() > 0 and other.std() > 0
    ]
    return float(np.mean(found)) if found else None


def randomised(classifier: Classifier, seed: int) -> Classifier | None:
    """The classifier with every weight behind the explained layer drawn anew; itself unchanged."""
    module = copy.deepcopy(classifier.module)
    trunk = precision.trunk(classifier)
    parameters = [
        parameter
        for name, part in module.network.named_modules()
        if not any(_contains(name, done) or _contains(done, name) for done in trunk)
        for parameter in part.parameters(recurse=False)
        if parameter.is_floating_point()
    ]
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        _draw(parameter, generator)
    return replace(classifier, module=module) if parameters else None


def _contains(outer: str, inner: str) -> bool:
    """Whether a module is another or holds it."""
    return outer in ("", inner) or inner.startswith(f"{outer}.")


@torch.no_grad()
def _draw(parameter: nn.Parameter, generator: torch.Generator) -> None:
    """Normal, with the mean and spread that the weights have."""
    spread = parameter.float().std(correction=0)
    drawn = torch.randn(parameter.shape, generator=generator).to(parameter.device)
    parameter.copy_(drawn * spread + parameter.float().mean())


def _flat(maps: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(maps.reshape(len(maps), -1).float().cpu())
