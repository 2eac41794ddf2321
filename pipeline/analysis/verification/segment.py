"""Where the object of a picture ends: outlined by its colours, from a box or from activity."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.analysis.verification import transfers

SIDE = 96
"""Pictures are outlined at no more than this many pixels a side."""
SURE, LIKELY, COLD = 0.1, 0.5, 0.1
"""Shares of a picture's activity that are surely and probably on the object, and share of its
pixels, the coldest, that surely are not."""
EDGE = 1 / 32
"""Share of a picture's side along which nothing unlikely is taken for the object (the boundary
prior of Wei et al., "Geodesic Saliency Using Background Priors", ECCV 2012)."""
ROUNDS = 3

Seeds = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def objects(pictures: Tensor, energy: Tensor, marked: Tensor) -> Tensor:
    """Masks (n, 1, H, W) of the objects.

    GrabCut (Rother, Kolmogorov and Blake, "GrabCut", SIGGRAPH 2004; OpenCV) parts object and rest
    by their colours. It begins with the box that was marked, or, where nothing was, with where the
    layer is active. A marked object that does not fill its box is taken as it is. Where all of the
    picture falls to one side, the likely pixels are taken.

    Args:
        pictures: (n, 3, H, W) uint8.
        energy: (n, h, w) activity of the layer, shares that sum to 1.
        marked: (n, 1, H, W) bool, empty where no object is marked.
    """
    height, width = pictures.shape[2:]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    small = F.interpolate(pictures.float(), size=size, mode="bilinear", antialias=True)
    colours = np.ascontiguousarray(small.round().byte().permute(0, 2, 3, 1).cpu().numpy())
    masks = [
        _outlined(picture, _seeds_of_box(box) if box.any() else _seeds_of_activity(*active))
        for picture, box, active in zip(
            colours, _resized(marked, size), _activity(energy, size), strict=True
        )
    ]
    found = torch.from_numpy(np.stack(masks))[:, None].to(pictures.device)
    found = F.interpolate(found.float(), size=(height, width), mode="nearest-exact") > 0.5
    return torch.where(_exact(marked), marked, found)


def _resized(marked: Tensor, size: tuple[int, int]) -> Mask:
    small = F.interpolate(marked.float(), size=size, mode="nearest-exact")
    return np.asarray(small[:, 0].cpu()) > 0.5


def _activity(energy: Tensor, size: tuple[int, int]) -> list[tuple[Seeds, Seeds, Seeds]]:
    """Of each picture the pixels surely and probably on the object, and the warm ones."""
    shares = [transfers.hot(energy, share, *size) for share in (SURE, LIKELY)]
    fine = F.interpolate(energy[:, None], size=size, mode="bilinear")
    shares.append(fine >= fine.flatten(1).quantile(COLD, dim=1)[:, None, None, None])
    masks = [np.asarray(mask[:, 0].cpu(), np.uint8) for mask in shares]
    return list(zip(*masks, strict=True))


def _seeds_of_box(marked: Mask) -> Seeds:
    return np.where(marked, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)


def _seeds_of_activity(sure: Seeds, likely: Seeds, warm: Seeds) -> Seeds:
    seeds = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    seeds[(warm == 0) | (_along_edges(likely.shape) & (likely == 0))] = cv2.GC_BGD
    seeds[sure > 0] = cv2.GC_FGD
    return seeds.astype(np.uint8)


def _along_edges(shape: tuple[int, ...]) -> Mask:
    edges = np.ones(shape, bool)
    margin = max(1, round(EDGE * min(shape)))
    edges[margin:-margin, margin:-margin] = False
    return edges


def _outlined(picture: Seeds, seeds: Seeds) -> Mask:
    likely = _front(seeds)
    if likely.all() or not likely.any():
        return likely
    cv2.setRNGSeed(0)  # of the clusters that it begins with
    mask, models = seeds.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    try:
        cv2.grabCut(picture, mask, None, *models, ROUNDS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error:  # too few pixels of one side for a model of its colours
        return likely
    found = _front(mask)
    return found if found.any() and not found.all() else likely


def _front(mask: Seeds) -> Mask:
    return np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _exact(marked: Tensor) -> Tensor:
    """Which objects (n, 1, 1, 1) are marked by an outline, not by a box that they would fill."""
    rows, columns = (marked.any(dim=side).sum(dim=2) for side in (3, 2))
    return (marked.sum(dim=(2, 3)) < rows * columns)[..., None, None]
