"""Batch norms folded into the convolutions before them, where that changes nothing."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.model.outputs import LogitsModule

CLOSE = 1e-4
"""Change of a logit, by the largest, above which it is no rounding; seen were 1e-6 and less."""


@torch.no_grad()
def fold_batch_norms(module: LogitsModule, names: set[str], pictures: Tensor) -> int:
    """Fold the pairs whose names are both given, in place; the number of pairs.

    That saves a pass over each map and, in a fast precision, a rounding, which a batch norm whose
    mean is far from zero would magnify. All is taken back where the logits of the two pictures
    change: a model may use what a convolution gives twice.

    Args:
        module: in evaluation mode, float32.
        names: modules that may be changed; both of a pair have to be among them.
        pictures: the model's input (2, C, H, W).
    """
    network, before = module.network, module(pictures.clone())
    pairs = [pair for pair in _pairs(module, pictures) if names.issuperset(pair)]
    parts = {name: network.get_submodule(name) for pair in pairs for name in pair}
    for conv, norm in pairs:
        folded: Any = fuse_conv_bn_eval(parts[conv], parts[norm])  # type: ignore[type-var, arg-type]
        network.set_submodule(conv, folded)
        network.set_submodule(norm, nn.Identity())
    if (module(pictures.clone()) - before).abs().max() <= CLOSE * before.abs().max():
        return len(pairs)
    for name, part in parts.items():
        network.set_submodule(name, part)
    return 0


def _pairs(module: LogitsModule, pictures: Tensor) -> list[tuple[str, str]]:
    """Names of convolutions and of the batch norms that take their output, each run only once."""
    given: list[tuple[str, Tensor]] = []  # keeps the tensors, so that no new one is taken for one
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
            own = dict(layer.named_parameters(recurse=False))  # no weight that is computed anew
            if isinstance(layer, nn.Conv2d) and "weight" in own:
                hooks.enter_context(layer.register_forward_hook(partial(after, name)))
            elif type(layer) is nn.BatchNorm2d and layer.track_running_stats:
                hooks.enter_context(layer.register_forward_pre_hook(partial(before, name)))
        module(pictures.clone())
    return [pair for pair in pairs if all(runs.count(name) == 1 for name in pair)]
