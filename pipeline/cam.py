"""Grad-CAM and its family, with the graph cut at the target layer: hooks in a context, no I/O.

The trunk up to the target layer runs without autograd; the graph begins at the layer's output,
so a backward pass costs the head alone, and no gradient ever reaches a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

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


def gradcam(activations: Tensor, slopes: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient, summed, negative evidence cut off.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2.

    Args:
        activations: (N, C, h, w).
        slopes: (N, C, h, w), gradients of the explained logit.

    Returns:
        (N, h, w), not negative, in units of the logit per cell times h*w.
    """
    return _weighted(activations, slopes.mean(dim=(-2, -1)))


def gradcam_pp(activations: Tensor, slopes: Tensor) -> Tensor:
    """Grad-CAM++: positive gradients, weighted so that each of several objects counts in full.

    Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep
    Convolutional Networks", WACV 2018, equations 5 and 19 (for an exponential score, whose factor
    is the same for all cells and is left out). Arguments as `gradcam`.

    Returns:
        (N, h, w), not negative, up to a positive factor of each image.
    """
    below = 2 + activations.sum(dim=(-2, -1), keepdim=True) * slopes  # both sides over slope^2
    weights = torch.where(below != 0, slopes.relu() / below, 0)
    return _weighted(activations, weights.sum(dim=(-2, -1)))


def xgradcam(activations: Tensor, slopes: Tensor) -> Tensor:
    """XGrad-CAM: channels weighted by their gradient where they are active.

    Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
    BMVC 2020, equation 8. Arguments as `gradcam`; a channel that sums to 0 has no weight.

    Returns:
        (N, h, w), not negative, in units of the logit.
    """
    mass = activations.sum(dim=(-2, -1))
    product = torch.einsum("nchw,nchw->nc", slopes, activations)
    return _weighted(activations, torch.where(mass != 0, product / mass, 0))


def hirescam(activations: Tensor, slopes: Tensor) -> Tensor:
    """HiResCAM: each cell's activations times its own gradients, without pooling.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
    neural networks", 2020, equation 4. Arguments as `gradcam`.

    Returns:
        (N, h, w), not negative, in units of the logit: of a linear head, each cell's share.
    """
    return torch.einsum("nchw,nchw->nhw", slopes, activations).relu()


def layercam(activations: Tensor, slopes: Tensor) -> Tensor:
    """LayerCAM: each cell's activations times its own positive gradients.

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE
    TIP 2021, equations 5 to 7. Arguments as `gradcam`.

    Returns:
        (N, h, w), not negative, in units of the logit.
    """
    return hirescam(activations, slopes.relu())


def eigencam(activations: Tensor, _slopes: Tensor) -> Tensor:
    """Eigen-CAM: activations projected on their first right singular vector, whatever the class.

    Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020,
    equations 3 to 5 (the activations are not centred). The vector's sign, which the paper leaves
    open, makes the map's sum positive: of activations after a ReLU that is the only map without
    negative cells. Arguments as `gradcam`; the slopes are not looked at.

    Returns:
        (N, h, w), not negative, in units of the activations.
    """
    cells = activations.flatten(2).mT.double()  # (N, h*w, C)
    few_cells = cells.shape[1] <= cells.shape[2]
    gram = cells @ cells.mT if few_cells else cells.mT @ cells
    values, vectors = torch.linalg.eigh(gram)
    first = vectors[..., -1:]
    # U s equals A v, so that the smaller of the two Gram matrices will do.
    projected = first * values[:, -1:, None].clamp_min(0).sqrt() if few_cells else cells @ first
    signed = (projected * projected.sum(dim=1, keepdim=True).sign()).relu()
    maps: Tensor = signed.view_as(activations[:, 0]).to(activations.dtype)
    return maps


METHODS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gradcam": gradcam,
    "gradcam_pp": gradcam_pp,
    "xgradcam": xgradcam,
    "hirescam": hirescam,
    "layercam": layercam,
    "eigencam": eigencam,
}


class Explained(NamedTuple):
    """A batch explained: logits (N, K), activations (N, C, h, w), targets (N, T) and for each
    target the raw maps (N, h, w); all without a graph.
    """

    logits: Tensor
    activations: Tensor
    targets: Tensor
    maps: list[Tensor]


def explained(
    forward: Forward, inputs: Tensor, choose: Callable[[Tensor], Tensor], method: str
) -> Explained:
    """Predict a batch and explain classes of it in one forward pass.

    Args:
        forward: of `cut_graph`.
        inputs: (N, C, H, W), as the model takes them.
        choose: from logits (N, K) to the classes (N, T) that are explained.
        method: a key of METHODS.

    Raises:
        LayerError: as `cut_graph` and `gradients`.
    """
    logits, activations = forward(inputs)
    targets = choose(logits.detach())
    slopes = gradients(logits, activations, targets)
    activations = activations.detach()
    maps = [METHODS[method](activations, slope) for slope in slopes]
    return Explained(logits.detach(), activations, targets, maps)


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


def averaged(activations: Tensor, projection: Tensor | None) -> Tensor:
    """What is in the picture, looked at or not: activations averaged over the map, projected.

    Args:
        activations: (N, C, h, w).
        projection: (C, d), or None to keep the C channels.

    Returns:
        (N, d) int8, each row scaled so that its largest is 127 or -127; zeros where all are zero.
    """
    features = activations.mean(dim=(-2, -1))
    if projection is not None:
        features = features @ projection
    largest = features.abs().amax(dim=1, keepdim=True)
    scaled = 127 * features / largest.clamp_min(torch.finfo(features.dtype).tiny)
    return scaled.round().to(torch.int8)


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """Channels (N, C, h, w) summed with weights (N, C), negative evidence cut off."""
    return torch.einsum("nc,nchw->nhw", weights, activations).relu()


def _at_least_single(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
