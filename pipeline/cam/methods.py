"""Grad-CAM and five related methods: heatmaps from activations and gradients of the target layer.

Each method is a function of tensors alone. METHODS names them as the settings do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.cam.graph import Forward, compute_gradients


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM: the ReLU of the sum of the channels, each weighted by its mean gradient.

    Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2.

    Args:
        activations: (N, C, h, w).
        gradients: (N, C, h, w), gradients of the explained logit.

    Returns:
        (N, h, w), not negative, in units of the logit per cell times h*w.
    """
    return _weighted(activations, gradients.mean(dim=(-2, -1)))


def gradcam_pp(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++: positive gradients, weighted so that each of several objects has full weight.

    Chattopadhay et al., "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep
    Convolutional Networks", WACV 2018, equations 5 and 19 (for an exponential score, whose factor
    is the same for all cells and is left out). Arguments as `gradcam`.

    Returns:
        (N, h, w), not negative, up to a positive factor of each image.
    """
    below = (
        2 + activations.sum(dim=(-2, -1), keepdim=True) * gradients
    )  # both sides over gradient^2
    weights = torch.where(below != 0, gradients.relu() / below, 0)
    return _weighted(activations, weights.sum(dim=(-2, -1)))


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM: channels weighted by their gradient, averaged over the channel's activation.

    Fu et al., "Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs",
    BMVC 2020, equation 8. Arguments as `gradcam`. A channel that sums to 0 has weight 0.

    Returns:
        (N, h, w), not negative, in units of the logit.
    """
    mass = activations.sum(dim=(-2, -1))
    product = torch.einsum("nchw,nchw->nc", gradients, activations)
    return _weighted(activations, torch.where(mass != 0, product / mass, 0))


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """HiResCAM: the sum over channels of activation times gradient at each cell, without pooling.

    Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional
    neural networks", 2020, equation 4. Arguments as `gradcam`.

    Returns:
        (N, h, w), not negative, in units of the logit. With a linear head a cell's value is its
        contribution to the logit.
    """
    return torch.einsum("nchw,nchw->nhw", gradients, activations).relu()


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """LayerCAM: the sum over channels of activation times positive gradient at each cell.

    Jiang et al., "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE
    TIP 2021, equations 5 to 7. Arguments as `gradcam`.

    Returns:
        (N, h, w), not negative, in units of the logit.
    """
    return hirescam(activations, gradients.relu())


def eigencam(activations: Tensor, _gradients: Tensor) -> Tensor:
    """Eigen-CAM: activations projected on their first right singular vector, for any class.

    Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020,
    equations 3 to 5 (the activations are not centred). The paper leaves the vector's sign open;
    here it makes the map's sum positive, which for activations after a ReLU is the only sign
    without negative cells. Arguments as `gradcam`; the gradients are not used.

    Returns:
        (N, h, w), not negative, in units of the activations.
    """
    cells = activations.flatten(2).mT.double()  # (N, h*w, C)
    few_cells = cells.shape[1] <= cells.shape[2]
    gram = cells @ cells.mT if few_cells else cells.mT @ cells
    values, vectors = torch.linalg.eigh(gram)
    first = vectors[..., -1:]
    # U s equals A v, so the smaller of the two Gram matrices is enough.
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
    """The result of one forward and backward pass of a batch; no tensor carries a graph.

    logits (N, K), activations (N, C, h, w), targets (N, T), the explained classes, and maps: T
    tensors (N, h, w) of raw heatmaps.
    """

    logits: Tensor
    activations: Tensor
    targets: Tensor
    maps: list[Tensor]


def compute_cam(
    forward: Forward, inputs: Tensor, choose: Callable[[Tensor], Tensor], method: str
) -> CamResult:
    """Predict a batch and explain T classes of each image, in one forward pass.

    Args:
        forward: the function that `cut_graph` yields.
        inputs: (N, C, H, W), the model's input.
        choose: maps logits (N, K) to the explained classes (N, T).
        method: a key of METHODS.

    Raises:
        LayerError: as `cut_graph` and `compute_gradients`.
    """
    logits, activations = forward(inputs)
    targets = choose(logits.detach())
    gradients = compute_gradients(logits, activations, targets)
    activations = activations.detach()
    maps = [METHODS[method](activations, gradient) for gradient in gradients]
    return CamResult(logits.detach(), activations, targets, maps)


def normalise_maps(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each map (..., h, w) by its maximum; a dead map stays zero.

    Returns:
        The maps (..., h, w) in [0, 1], and their maxima (...).
    """
    peak = heatmaps.amax(dim=(-2, -1))
    scale = torch.where(peak > 0, peak, torch.ones_like(peak))
    return heatmaps / scale[..., None, None], peak


def pool_features(activations: Tensor, heatmaps: Tensor, projection: Tensor | None) -> Tensor:
    """Average activations weighted by the heatmap: features of the content that is explained.

    Args:
        activations: (N, C, h, w).
        heatmaps: (N, h, w), not negative.
        projection: (C, d), or None to keep the C channels.

    Returns:
        (N, d) of unit length, which float16 can hold without overflow; zeros where the map is dead.
    """
    mass = heatmaps.sum(dim=(-2, -1)).clamp_min(torch.finfo(heatmaps.dtype).tiny)
    features = torch.einsum("nhw,nchw->nc", heatmaps / mass[:, None, None], activations)
    if projection is not None:
        features = features @ projection
    return nn.functional.normalize(features, dim=1)


def average_features(activations: Tensor, projection: Tensor | None) -> Tensor:
    """Average activations over the whole map: features of the image's content.

    Args:
        activations: (N, C, h, w).
        projection: (C, d), or None to keep the C channels.

    Returns:
        (N, d) int8, each row scaled so that its largest magnitude is 127; a zero row stays zero.
    """
    features = activations.mean(dim=(-2, -1))
    if projection is not None:
        features = features @ projection
    largest = features.abs().amax(dim=1, keepdim=True)
    scaled = 127 * features / largest.clamp_min(torch.finfo(features.dtype).tiny)
    return scaled.round().to(torch.int8)


def _weighted(activations: Tensor, weights: Tensor) -> Tensor:
    """The ReLU of the sum of channels (N, C, h, w) with weights (N, C): maps (N, h, w)."""
    return torch.einsum("nc,nchw->nhw", weights, activations).relu()
