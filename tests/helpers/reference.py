"""A second implementation of Grad-CAM: float64, the whole graph, one image at a time."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.cam.graph import Layout

Array = NDArray[np.float64]


def enliven(model: nn.Module) -> None:
    """Random weights such that nothing is trivially zero or one, as heads and scales begin."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.running_mean.normal_(std=0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    for name, parameter in model.named_parameters():
        scales = name.endswith(("layer_scale", "gamma", "gamma1", "gamma2"))
        if scales and bool((parameter == parameter.flatten()[0]).all()):
            parameter.data.uniform_(0.1, 1, generator=generator)
        elif name.endswith("bias") or not parameter.any():
            parameter.data.normal_(std=0.05, generator=generator)


def heatmaps(
    model: nn.Module, layer: str, layout: Layout, images: Tensor, targets: Tensor
) -> Array:
    """Grad-CAM (T, N, h, w) of the target classes (N, T), by the paper's equations.

    The gradient is taken to a tensor of zeros that is added to the layer's output.
    """
    model = copy.deepcopy(model).double()
    seen: list[Tensor] = []

    def add_zeros(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        zeros = torch.zeros_like(output, requires_grad=True)
        seen.extend([output.detach().clone(), zeros])
        return output + zeros

    with model.get_submodule(layer).register_forward_hook(add_zeros):
        logits = model(images.double())
    activations, zeros = seen
    maps = []
    for image, classes in enumerate(targets.tolist()):
        for label in classes:
            (slope,) = torch.autograd.grad(logits[image, label], zeros, retain_graph=True)
            maps.append(gradcam(*(cells(each[image], layout) for each in (activations, slope))))
    stacked: Array = np.stack(maps).reshape(*targets.shape, *maps[0].shape)
    return np.swapaxes(stacked, 0, 1)


def cells(output: Tensor, layout: Layout) -> Array:
    """One image's output of a layer as (C, h, w)."""
    values: Array = output.numpy()
    if layout.kind == "channels_first":
        return values
    if layout.kind == "tokens":
        values = values[layout.prefix :].reshape(layout.rows, layout.columns, -1)
    return np.moveaxis(values, 2, 0)


def gradcam(activations: Array, slopes: Array) -> Array:
    """Equations 1 and 2 for one image, from (C, h, w) each."""
    channels, rows, columns = activations.shape
    total = np.zeros((rows, columns))
    for channel in range(channels):
        alpha = slopes[channel].sum() / (rows * columns)
        total += alpha * activations[channel]
    return np.maximum(total, 0)
