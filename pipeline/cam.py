"""Grad-CAM with the graph cut at the target layer: hooks in a context, batched pooling, no I/O.

The trunk up to the target layer runs without autograd; the graph begins at the layer's output,
so a backward pass costs the head alone, and no gradient ever reaches a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


class LayerError(Exception):
    """The target layer cannot be explained; the message says why, without naming the layer."""


@contextmanager
def cut_graph(model: nn.Module, layer: nn.Module) -> Iterator[Forward]:
    """Make `model` ready to be explained at `layer`, and leave it as it came.

    Yields forward(images) -> (logits (N, K), activations (N, C, h, w)). The logits carry a graph
    that begins at the activations; take gradients with `gradients`. Inside, the model is in
    evaluation mode and its parameters need no gradient; mode, requires_grad and hooks are
    restored afterwards, exception or not. The caller's grad mode does not matter.

    Raises:
        LayerError: from forward(), where the layer is not reached, is reached more than once,
            or gives something other than one (N, C, h, w) tensor.
    """
    reached: list[Tensor] = []

    def begin_graph(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        # Copied twice: neither what shares this layer's memory nor an in-place layer behind it
        # may overwrite the activations.
        activations = _checked(output).detach().clone().requires_grad_()
        reached.append(activations)
        torch.set_grad_enabled(True)  # a model may run its trunk under no_grad
        return activations.clone()

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        reached.clear()
        # Up to the layer nothing needs a gradient, so that autograd keeps nothing.
        with torch.inference_mode(mode=False), torch.enable_grad():
            logits = model(images.clone() if images.is_inference() else images.detach())
        if len(reached) != 1:
            raise LayerError(f"a forward pass goes through it {len(reached)} times, not once")
        return logits, reached.pop()

    modes = [(module, module.training) for module in model.modules()]
    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    handle = layer.register_forward_hook(begin_graph)
    try:
        model.eval()
        for parameter in frozen:
            parameter.requires_grad = False
        yield forward
    finally:
        handle.remove()
        for parameter in frozen:
            parameter.requires_grad = True
        for module, mode in modes:
            module.training = mode


def gradients(logits: Tensor, activations: Tensor, targets: Tensor) -> Tensor:
    """Gradient of each image's target logits to its activations.

    Images of a batch do not mix in evaluation mode, so the gradient of the summed logits is
    every image's own.

    Args:
        logits: (N, K), with the graph of `cut_graph`.
        activations: (N, C, h, w), as `cut_graph` gave them.
        targets: (N, T) class indices; T maps are made of every image in one forward pass.

    Returns:
        (T, N, C, h, w).

    Raises:
        LayerError: where no path leads from the layer to the logits.
    """
    if not logits.requires_grad:
        raise LayerError("it does not feed the model's output")
    slopes = []
    for classes in targets.T:
        chosen = torch.zeros_like(logits).scatter_(1, classes[:, None], 1)
        (slope,) = torch.autograd.grad(
            logits, activations, chosen, retain_graph=True, allow_unused=True
        )
        if slope is None:
            raise LayerError("it does not feed the model's output")
        slopes.append(slope)
    return torch.stack(slopes)


def gradcam(activations: Tensor, slopes: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient, summed, negative evidence cut off.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2.

    Args:
        activations: (N, C, h, w).
        slopes: (..., N, C, h, w), gradients of the explained logit.

    Returns:
        (..., N, h, w), not negative, in units of the logit per cell times h*w.
    """
    weights = slopes.mean(dim=(-2, -1))
    return torch.einsum("...nc,nchw->...nhw", weights, activations).relu()


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"gradcam": gradcam}


def normalise(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each map by its maximum: ((..., h, w) in [0, 1], maxima (...)); a dead map stays 0."""
    peak = heatmaps.amax(dim=(-2, -1))
    scale = torch.where(peak > 0, peak, torch.ones_like(peak))
    return heatmaps / scale[..., None, None], peak


def pooled(activations: Tensor, heatmaps: Tensor, projection: Tensor | None) -> Tensor:
    """What was looked at: activations averaged under the heatmap, projected, of unit length.

    Args:
        activations: (N, C, h, w).
        heatmaps: (N, h, w), not negative.
        projection: (C, d), or None to keep the C channels.

    Returns:
        (N, d); unit length keeps float16 from overflowing, zeros where the map is dead.
    """
    mass = heatmaps.sum(dim=(-2, -1)).clamp_min(torch.finfo(heatmaps.dtype).tiny)
    features = torch.einsum("nhw,nchw->nc", heatmaps / mass[:, None, None], activations)
    if projection is not None:
        features = features @ projection
    return nn.functional.normalize(features, dim=1)


def _checked(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise LayerError(f"its output is a {type(output).__name__}, not one tensor")
    if output.ndim != 4:
        shape = tuple(output.shape)
        raise LayerError(
            f"its output has shape {shape}; a map needs (batch, channels, rows, columns)"
        )
    return output
