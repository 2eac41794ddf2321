"""Fold batch norms into the convolutions before them, where the logits stay the same."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.model.outputs import LogitsModule

MAX_RELATIVE_CHANGE = 1e-4
"""Largest change of a logit, relative to the largest logit, that counts as rounding.

Correct folding changed logits by 1e-6 or less.
"""


@torch.no_grad()
def fold_batch_norms(module: LogitsModule, names: set[str], images: Tensor) -> int:
    """Fold pairs of convolution and batch norm in place, and return the number of pairs.

    Folding saves a pass over each map and, in bfloat16 or float16, a rounding step whose error a
    batch norm with a mean far from zero would magnify. All pairs are restored if the logits of the
    two images change: a model may use a convolution's output twice.

    Args:
        module: the classifier in evaluation mode, float32.
        names: modules that may be changed; a pair is folded if both of its names are given.
        images: the model's input (2, C, H, W).
    """
    network, before = module.network, module(images.clone())
    pairs = [pair for pair in _pairs(module, images) if names.issuperset(pair)]
    parts = {name: network.get_submodule(name) for pair in pairs for name in pair}
    for conv, norm in pairs:
        folded: Any = fuse_conv_bn_eval(parts[conv], parts[norm])  # type: ignore[type-var, arg-type]
        network.set_submodule(conv, folded)
        network.set_submodule(norm, nn.Identity())
    if (module(images.clone()) - before).abs().max() <= MAX_RELATIVE_CHANGE * before.abs().max():
        return len(pairs)
    for name, part in parts.items():
        network.set_submodule(name, part)
    return 0


def _pairs(module: LogitsModule, images: Tensor) -> list[tuple[str, str]]:
    """Names (convolution, batch norm of its output); both run once in a forward pass."""
    given: list[tuple[str, Tensor]] = []  # holds the tensors, so that no object id is reused
    pairs: list[tuple[str, str]] = []
    runs: list[str] = []

    def after(name: str, _layer: nn.Module, _inputs: object, output: Tensor) -> None:
        runs.append(name)
        given.append((name, output))

    def before(name: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs.append(name)
        pairs.extend((conv, name) for conv, output in given if output is inputs[0])

    with ExitStack() as hooks:
        for name, layer in module.network.named_modules():
            own = dict(layer.named_parameters(recurse=False))  # computed weights are no parameters
            if isinstance(layer, nn.Conv2d) and "weight" in own:
                hooks.enter_context(layer.register_forward_hook(partial(after, name)))
            elif type(layer) is nn.BatchNorm2d and layer.track_running_stats:
                hooks.enter_context(layer.register_forward_pre_hook(partial(before, name)))
        module(images.clone())
    return [pair for pair in pairs if all(runs.count(name) == 1 for name in pair)]
