"""Outlines of objects: GrabCut, started from an annotated box or from the layer's activity."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

MAX_SIDE = 96
"""Longer side, in pixels, to which images are reduced before the segmentation."""
SURE_ACTIVITY, LIKELY_ACTIVITY = 0.1, 0.5
"""Shares of the activity on the hottest pixels that surely, and probably, belong to the object."""
COLD_AREA = 0.1
"""Share of the pixels, those with the least activity, that surely do not belong to the object."""
EDGE = 1 / 32
"""Width of the border, as a fraction of the image's side, in which unlikely pixels surely do not
belong to the object (boundary prior of Wei et al., "Geodesic Saliency Using Background Priors",
ECCV 2012)."""
N_ITERATIONS = 1
"""Iterations of GrabCut; further ones hardly change the outline."""
SEEDED = 0.2
"""Share of a connected part of the outline that must be probable object from the start; other parts
only have similar colours."""
COVERED, MAX_DROPPED = 0.6, 0.3
"""Share of a connected part that a cue must cover for the part not to belong to the object, and the
largest share of the outline that such parts may have; otherwise the cue is on the object."""

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def outline_objects(images: Tensor, activity: Tensor, annotated: Tensor) -> Tensor:
    """Segment the object of every image.

    GrabCut (Rother, Kolmogorov and Blake, "GrabCut: Interactive Foreground Extraction using
    Iterated Graph Cuts", SIGGRAPH 2004; OpenCV) separates object and background by their colours.
    It starts from the annotated box, or, without annotation, from the pixels where the layer is
    active; connected parts without such pixels do not belong to the object. An annotated outline
    (a mask that does not fill its box) is returned unchanged. Where GrabCut assigns all pixels to
    one side, the likely pixels are returned.

    Args:
        images: (n, 3, H, W) uint8.
        activity: (n, h, w) activity of the layer; sums to 1.
        annotated: (n, 1, H, W) bool, all false where no object is annotated.

    Returns:
        (n, 1, H, W) bool masks of the objects, on the images' device.
    """
    height, width = images.shape[2:]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    small = F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    arrays = np.ascontiguousarray(small.round().byte().permute(0, 2, 3, 1).cpu().numpy())
    seeds = [
        _seeds_of_box(box) if box.any() else _seeds_of_activity(*active)
        for box, active in zip(
            _resize_masks(annotated, size), _activity_masks(activity, size), strict=True
        )
    ]
    with ThreadPoolExecutor() as pool:  # OpenCV computes without the lock of the interpreter
        outlines = list(pool.map(_grab_cut, arrays, seeds))
    found = torch.from_numpy(np.stack(outlines))[:, None].to(images.device)
    found = F.interpolate(found.float(), size=(height, width), mode="nearest-exact") > 0.5
    return torch.where(_is_outline(annotated), annotated, found)


def drop_parts(objects: Tensor, cue: Tensor) -> Tensor:
    """Remove the connected parts of outlines that are a cue beside the object.

    Args:
        objects: (n, 1, H, W) bool.
        cue: (n, 1, H, W) bool, where the cue is.
    """
    both = zip(np.asarray(objects[:, 0].cpu()), np.asarray(cue[:, 0].cpu()), strict=True)
    kept = np.stack([_without_parts(outline, covered) for outline, covered in both])
    return torch.from_numpy(kept)[:, None].to(objects.device)


def hottest_pixels(heat: Tensor, share: float, height: int, width: int) -> Tensor:
    """Masks (n, 1, height, width) of the hottest pixels that hold a share of the heat (n, h, w).

    The heat is interpolated bilinearly between the centres of its cells. The mask of a dead map is
    empty.
    """
    fine = F.interpolate(heat[:, None], size=(height, width), mode="bilinear")[:, 0]
    flat = fine.flatten(1)
    ordered, order = flat.sort(dim=1, descending=True)
    before = ordered.cumsum(dim=1) - ordered
    inside = before < share * ordered.sum(dim=1, keepdim=True)
    return torch.zeros_like(inside).scatter(1, order, inside).view(-1, 1, height, width)


def _resize_masks(annotated: Tensor, size: tuple[int, int]) -> Mask:
    small = F.interpolate(annotated.float(), size=size, mode="nearest-exact")
    return np.asarray(small[:, 0].cpu()) > 0.5


def _activity_masks(activity: Tensor, size: tuple[int, int]) -> list[tuple[Bytes, Bytes, Bytes]]:
    """Masks of each image: surely object, probably object, and possibly object."""
    hot = [hottest_pixels(activity, share, *size) for share in (SURE_ACTIVITY, LIKELY_ACTIVITY)]
    fine = F.interpolate(activity[:, None], size=size, mode="bilinear")
    hot.append(fine >= fine.flatten(1).quantile(COLD_AREA, dim=1)[:, None, None, None])
    return list(zip(*[np.asarray(mask[:, 0].cpu(), np.uint8) for mask in hot], strict=True))


def _seeds_of_box(annotated: Mask) -> Bytes:
    return np.where(annotated, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)


def _seeds_of_activity(sure: Bytes, likely: Bytes, possible: Bytes) -> Bytes:
    seeds = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    seeds[(possible == 0) | (_border(likely.shape) & (likely == 0))] = cv2.GC_BGD
    seeds[sure > 0] = cv2.GC_FGD
    return seeds.astype(np.uint8)


def _border(shape: tuple[int, ...]) -> Mask:
    border = np.ones(shape, bool)
    margin = max(1, round(EDGE * min(shape)))
    border[margin:-margin, margin:-margin] = False
    return border


def _grab_cut(image: Bytes, seeds: Bytes) -> Mask:
    """Segment an image (h, w, 3) from seeds (h, w), OpenCV's GC_* codes."""
    likely = _foreground(seeds)
    if likely.all() or not likely.any():
        return likely
    cv2.setRNGSeed(0)  # GrabCut starts from random clusters of colours; a thread has its own seed
    labels, models = seeds.copy(), (np.zeros((1, 65)), np.zeros((1, 65)))
    try:
        cv2.grabCut(image, labels, None, *models, N_ITERATIONS, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    except cv2.error:  # too few pixels of one side for a model of its colours
        return likely
    found = _seeded_parts(_foreground(labels), likely)
    return found if found.any() and not found.all() else likely


def _seeded_parts(found: Mask, likely: Mask) -> Mask:
    parts, shares = _shares_of_parts(found, likely)
    return np.asarray((shares >= SEEDED)[parts] & found)


def _without_parts(outline: Mask, covered: Mask) -> Mask:
    parts, shares = _shares_of_parts(outline, covered)
    kept = np.asarray((shares < COVERED)[parts] & outline)
    return kept if kept.sum() >= (1 - MAX_DROPPED) * outline.sum() else outline


def _shares_of_parts(outline: Mask, inside: Mask) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Number (h, w) of each pixel's connected part, and the share of each part inside a mask."""
    n_parts, parts = cv2.connectedComponents(outline.astype(np.uint8))
    masks = (outline, outline & inside)
    sizes, hits = (np.bincount(parts[mask], minlength=n_parts) for mask in masks)
    return np.asarray(parts, np.int32), hits / np.maximum(sizes, 1)


def _foreground(labels: Bytes) -> Mask:
    return np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))


def _is_outline(annotated: Tensor) -> Tensor:
    """Whether each annotation (n, 1, H, W) is an outline, not a filled box: (n, 1, 1, 1)."""
    rows, columns = (annotated.any(dim=side).sum(dim=2) for side in (3, 2))
    return (annotated.sum(dim=(2, 3)) < rows * columns)[..., None, None]
