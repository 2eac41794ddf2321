"""Grad-CAM and its family, with the graph cut at the target layer: hooks in a context, no I/O.

The trunk up to the target layer runs without autograd; the graph begins at the layer's output,
so a backward pass costs the head alone, and no gradient ever reaches a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], tuple[Tensor, Tensor]]


CHANNELS_FIRST, CHANNELS_LAST, TOKENS = "channels_first", "channels_last", "tokens"


class LayerError(Exception):
    """The target layer cannot be explained; the message says why, without naming the layer."""


@dataclass(frozen=True)
class Layout:
    """How a layer's output holds a map (N, C, rows, columns), and the way there and back.

    kind is CHANNELS_FIRST (N, C, rows, columns), CHANNELS_LAST (N, rows, columns, C) or TOKENS
    (N, prefix + rows * columns, C), where prefix counts the class and register tokens, which come
    first and have no place in the picture.
    """

    kind: str
    rows: int
    columns: int
    prefix: int = 0

    def to_map(self, output: Tensor) -> Tensor:
        """(N, C, rows, columns) of a layer's output.

        Raises:
            LayerError: where the output has another shape.
        """
        n, cells = output.shape[0], self.rows * self.columns
        if self.kind == CHANNELS_FIRST and output.ndim == 4:
            return output
        if self.kind == CHANNELS_LAST and output.ndim == 4:
            return output.permute(0, 3, 1, 2)
        if self.kind == TOKENS and output.ndim == 3 and output.shape[1] == self.prefix + cells:
            return output[:, self.prefix :].mT.reshape(n, -1, self.rows, self.columns)
        raise LayerError(f"its output has shape {tuple(output.shape)}, which is not {self}")

    def from_map(self, maps: Tensor, output: Tensor) -> Tensor:
        """A layer's output with `maps` in it; its prefix tokens stay."""
        if self.kind == CHANNELS_LAST:
            return maps.permute(0, 2, 3, 1)
        if self.kind == TOKENS:
            kept = output[:, : self.prefix].detach().to(maps.dtype)
            return torch.cat([kept, maps.flatten(2).mT], dim=1)
        return maps


@contextmanager
def cut_graph(
    model: nn.Module, layer: nn.Module, layout: Layout, trunk: torch.dtype | None = None
) -> Iterator[Forward]:
    """Make `model` ready to be explained at `layer`, and leave it as it came.

    Yields forward(images) -> (logits (N, K), activations (N, C, h, w)). The logits carry a graph
    that begins at the activations; take gradients with `gradients`. Inside, the model is in
    evaluation mode and its parameters need no gradient; mode, requires_grad and hooks are
    restored afterwards, exception or not. The caller's grad mode does not matter.

    Args:
        model: gives logits (N, K).
        layer: a module of it.
        layout: how the layer's output holds a map.
        trunk: bfloat16 or float16, in which autocast then runs all up to the layer; the
            activations and what follows are at least float32. None: as the model is.

    Raises:
        LayerError: from forward(), where the layer is not reached, is reached more than once,
            or gives something else than the layout says.
    """
    reached: list[Tensor] = []

    def begin_graph(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise LayerError(f"its output is a {type(output).__name__}, not one tensor")
        # Copied twice: neither what shares this layer's memory nor an in-place layer behind it
        # may overwrite the activations.
        maps = layout.to_map(output).detach()
        activations = maps.to(_at_least_single(maps.dtype), copy=True).requires_grad_()
        reached.append(activations)
        torch.set_autocast_enabled(output.device.type, False)  # noqa: FBT003 - has no keyword
        torch.set_grad_enabled(True)  # a model may run its trunk under no_grad
        return layout.from_map(activations.clone(), output)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        reached.clear()
        fast = torch.autocast(images.device.type, trunk, enabled=trunk is not None)
        # Up to the layer nothing needs a gradient, so that autograd keeps nothing.
        with torch.inference_mode(mode=False), torch.enable_grad(), fast:
            logits = model(images.clone() if images.is_inference() else images.detach())
        if len(reached) != 1:
            raise LayerError(f"a forward pass goes through it {len(reached)} times, not once")
        return logits, reached.pop()

    with frozen(model), layer.register_forward_hook(begin_graph):
        yield forward


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients to parameters; both are restored, exception or not."""
    modes = [(module, module.training) for module in model.modules()]
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in learning:
            parameter.requires_grad = False
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad = True
        for module, mode in modes:
            module.training = mode


def gradients(logits: Tensor, activations: Tensor, targets: Tensor) -> list[Tensor]:
    """Gradients of each image's target logits to its activations.

    Images of a batch do not mix in evaluation mode, so the gradient of the summed logits is
    every image's own.

    Args:
        logits: (N, K), with the graph of `cut_graph`.
        activations: (N, C, h, w), as `cut_graph` gave them.
        targets: (N, T) class indices; T maps are made of every image in one forward pass.

    Returns:
        T of (N, C, h, w).

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
    return slopes


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
