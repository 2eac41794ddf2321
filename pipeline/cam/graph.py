"""Forward and backward passes of a model whose autograd graph begins at the target layer.

The backbone (the layers up to the target layer) runs without autograd. The backward pass therefore
costs the head alone (the layers after it), and no parameter receives a gradient.
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
    """The target layer cannot be explained. The message states the cause without the layer name."""


@dataclass(frozen=True)
class Layout:
    """The arrangement of a map (N, C, rows, columns) in a layer's output.

    kind is CHANNELS_FIRST (N, C, rows, columns), CHANNELS_LAST (N, rows, columns, C) or TOKENS
    (N, prefix + rows * columns, C). prefix is the number of class and register tokens: they come
    first and belong to no position in the image.
    """

    kind: str
    rows: int
    columns: int
    prefix: int = 0

    def to_map(self, output: Tensor) -> Tensor:
        """Convert a layer's output to a map (N, C, rows, columns).

        Raises:
            LayerError: the output does not have the shape of this layout.
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
        """Convert a map (N, C, rows, columns) to a layer's output.

        The prefix tokens, which the map does not hold, are taken from `output`.
        """
        if self.kind == CHANNELS_LAST:
            return maps.permute(0, 2, 3, 1)
        if self.kind == TOKENS:
            kept = output[:, : self.prefix].detach().to(maps.dtype)
            return torch.cat([kept, maps.flatten(2).mT], dim=1)
        return maps


@contextmanager
def cut_graph(
    model: nn.Module, layer: nn.Module, layout: Layout, backbone_dtype: torch.dtype | None = None
) -> Iterator[Forward]:
    """Begin the autograd graph of `model` at the output of `layer`, for the time of the context.

    Yields forward(images) -> (logits (N, K), activations (N, C, h, w)). The graph of the logits
    begins at the activations; `compute_gradients` takes gradients. Within the context the model is
    in evaluation mode and its parameters need no gradient. Mode, requires_grad and hooks are
    restored at the end, also after an exception. The caller's grad mode has no influence.

    Args:
        model: returns logits (N, K).
        layer: a module of the model.
        layout: the arrangement of the map in the layer's output.
        backbone_dtype: bfloat16 or float16: autocast runs the backbone in this type, while the
            activations and the head stay at least float32. None: the types of the model.

    Raises:
        LayerError: from forward(): the layer is not run, is run more than once, or its output
            does not have the shape of the layout.
    """
    reached: list[Tensor] = []

    def begin_graph(_module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor):
            raise LayerError(f"its output is a {type(output).__name__}, not one tensor")
        # Two copies, because neither a tensor that shares the output's memory nor a later in-place
        # layer may overwrite the activations.
        maps = layout.to_map(output).detach()
        activations = maps.to(_at_least_float32(maps.dtype), copy=True).requires_grad_()
        reached.append(activations)
        torch.set_autocast_enabled(output.device.type, False)  # noqa: FBT003 - has no keyword
        torch.set_grad_enabled(True)  # a model may run its backbone under no_grad
        return layout.from_map(activations.clone(), output)

    def forward(images: Tensor) -> tuple[Tensor, Tensor]:
        reached.clear()
        autocast = torch.autocast(
            images.device.type, backbone_dtype, enabled=backbone_dtype is not None
        )
        # No tensor before the layer needs a gradient, so autograd stores nothing there.
        with torch.inference_mode(mode=False), torch.enable_grad(), autocast:
            logits = model(images.clone() if images.is_inference() else images.detach())
        if len(reached) != 1:
            raise LayerError(f"a forward pass goes through it {len(reached)} times, not once")
        return logits, reached.pop()

    with frozen(model), layer.register_forward_hook(begin_graph):
        yield forward


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients of parameters; both are restored, also on an exception."""
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


def compute_gradients(logits: Tensor, activations: Tensor, targets: Tensor) -> list[Tensor]:
    """Compute the gradients of each image's target logits with respect to its activations.

    In evaluation mode no image of a batch influences another one, so the gradient of the summed
    logits holds each image's own gradient.

    Args:
        logits: (N, K), with the graph of `cut_graph`.
        activations: (N, C, h, w), as `cut_graph` gave them.
        targets: (N, T) class indices: T classes of each image, after one forward pass.

    Returns:
        T tensors (N, C, h, w).

    Raises:
        LayerError: the logits do not depend on the layer.
    """
    if not logits.requires_grad:
        raise LayerError("it does not feed the model's output")
    gradients = []
    for classes in targets.T:
        one_hot = torch.zeros_like(logits).scatter_(1, classes[:, None], 1)
        (gradient,) = torch.autograd.grad(
            logits, activations, one_hot, retain_graph=True, allow_unused=True
        )
        if gradient is None:
            raise LayerError("it does not feed the model's output")
        gradients.append(gradient)
    return gradients


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
