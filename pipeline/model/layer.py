"""The layer that is explained: found, or checked where it is named."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from pipeline import cam
from pipeline.config import AUTO
from pipeline.errors import ConfigError, close_names

# Layers that thin out a map without computing a new one, and layers that hand on what they get.
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d)


def target_layer(wanted: str, module: nn.Module, pictures: Tensor) -> str:
    """Name of the layer that the settings want, or of the one that is found.

    Raises:
        ConfigError: where the model has no such layer, with the names that come close.
    """
    if wanted != AUTO:
        names = [name for name, _ in module.named_modules() if name]
        if wanted in names:
            return wanted
        raise ConfigError(
            f"model.target_layer: the model has no {wanted!r}{close_names(wanted, names)}"
        )
    return auto_layer(module, pictures)


def auto_layer(module: nn.Module, pictures: Tensor) -> str:
    """Name of the last module that computes an (N, C, h, w) map which all evidence passes through.

    A map has more than one cell. Pooling computes nothing new and is passed over, and so is a
    block that ends in it, or a branch beside others. Where several modules give the same map, the
    outermost is named.

    Args:
        module: a classifier in evaluation mode.
        pictures: two inputs (2, C, h, w) that differ everywhere.

    Raises:
        ConfigError: where there is no such module, or layers that work on tokens come after it,
            as in transformers after the map of their patches.
    """
    found = _maps(module, pictures[:1])
    for name in reversed(found):
        if name is None:
            break
        if found.count(name) == 1 and _all_passes(module, name, pictures):
            return name
    after = ": its last layers work on tokens" if None in found else ""
    raise ConfigError(
        f"model.target_layer: auto finds no map at the end of the model{after}; name a layer that "
        "gives (batch, channels, rows, columns)"
    )


def explained(module: nn.Module, layer_name: str, images: Tensor) -> Tensor:
    """The layer's map (1, C, h, w) of one picture, after a trial of its gradients.

    Raises:
        ConfigError: where the layer gives no map, or does not feed the model's output.
    """
    target = torch.zeros(1, 1, dtype=torch.long, device=images.device)
    try:
        with cam.cut_graph(module, module.get_submodule(layer_name)) as forward:
            logits, activations = forward(images)
            _check_map(activations, images)
            cam.gradients(logits, activations, target)
    except Exception as error:
        raise ConfigError(
            f"model.target_layer: {layer_name!r} cannot be explained: {error}"
        ) from error
    return activations.detach()


@torch.no_grad()
def _maps(module: nn.Module, images: Tensor) -> list[str | None]:
    """Names of the modules that compute maps, in the order of their outputs; None for tokens."""
    found: list[str | None] = []
    thinned: list[Tensor] = []  # kept alive, so that no new tensor is taken for one of them

    def note(name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or isinstance(layer, SILENT):
            return
        if _are_tokens(output, images):
            found.append(None)
        elif output.ndim != 4 or output[0, 0].numel() == 1:
            return
        elif isinstance(layer, POOLING) or any(output is other for other in thinned):
            thinned.append(output)
        else:
            found.append(name)

    with ExitStack() as hooks:
        for name, layer in module.named_modules():
            if name:
                hooks.enter_context(layer.register_forward_hook(partial(note, name)))
        module(images)
    return found


@torch.no_grad()
def _all_passes(module: nn.Module, name: str, pictures: Tensor) -> bool:
    """Whether the logits hang on one map alone: while it stays, another picture changes none."""
    kept: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.clone())
        return kept[0].clone()

    with module.get_submodule(name).register_forward_hook(keep):
        first, second = module(pictures[:1]), module(pictures[1:])
    return bool((first - second).abs().max() <= 1e-4 * first.abs().max())


def _are_tokens(output: Tensor, images: Tensor) -> bool:
    """Whether a layer's output is (N, tokens, C) or a map with the channels last."""
    if output.ndim == 3:
        return min(output.shape[1:]) > 1
    return output.ndim == 4 and _channels_last(output, images)


def _channels_last(output: Tensor, images: Tensor) -> bool:
    """Whether (N, a, b, c) is rows, columns, channels: a and b, not b and c, are like the picture.

    The sides of a map are those of the picture divided by one stride, but for a cell or so.
    """
    height, width = images.shape[2:]

    def alike(rows: int, columns: int) -> bool:
        return abs(rows * width - columns * height) <= height + width

    _, a, b, c = output.shape
    return alike(a, b) and not alike(b, c) and a * b > 1


def _check_map(activations: Tensor, images: Tensor) -> None:
    shape = tuple(activations.shape)
    if _channels_last(activations, images):
        raise cam.LayerError(
            f"its output of shape {shape} is (batch, rows, columns, channels); "
            "a map needs (batch, channels, rows, columns)"
        )
    if shape[2] * shape[3] == 1:
        raise cam.LayerError(f"its output of shape {shape} has a single cell, which is no map")
