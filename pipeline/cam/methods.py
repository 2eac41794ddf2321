"""Grad-CAM and its family, with the graph cut at the target layer: hooks in a context, no I/O.

The trunk up to the target layer runs without autograd; the graph begins at the layer's output,
so a backward pass costs the head alone, and no gradient ever reaches a parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.cam.graph import Forward, gradients


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


class CamResult(NamedTuple):
    """A batch explained: logits (N, K), activations (N, C, h, w), targets (N, T) and for each
    target the raw maps (N, h, w); all without a graph.
    """

    logits: Tensor
    activations: Tensor
    targets: Tensor
    maps: list[Tensor]


def compute_cam(
    forward: Forward, inputs: Tensor, choose: Callable[[Tensor], Tensor], method: str
) -> CamResult:
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
    return CamResult(logits.detach(), activations, targets, maps)


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
