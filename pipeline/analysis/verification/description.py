"""The kind and the place of a cue, from the intervention that describes it best and its masks."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.analysis import place_words
from pipeline.analysis.interventions import transfers
from pipeline.analysis.interventions.catalogue import STATISTICS
from pipeline.analysis.interventions.scenes import COVERING_PRESENCE, Scenes
from pipeline.analysis.local_features import GRID, local_features
from pipeline.analysis.verification.image_pool import Sources

MIN_EVIDENCE, FULL_EVIDENCE = 0.3, 0.5
"""Evidence from which a pixel belongs partly, and fully, to the place of a cue."""
FIXED = 0.55
"""Mean overlap of the cue's places in two images from which the place counts as fixed."""
NEAR_MAXIMUM = 0.5
"""Share of the images' largest agreement from which a cell belongs to a fixed place."""
MIN_FREE = 0.5
"""Share of the images in which a cell of a place is not covered by the object."""
MIN_COMPARED = 8
"""Fewest images with and without a cue whose pixels are compared."""
MIN_DISTINCT = 0.5
"""Difference of the means of images with and without a cue, in pooled standard deviations, from
which the pixels at one place are said to differ."""
SURE_ERRORS = 3.0
"""Standard errors of that difference which it must reach."""
WHOLE_BACKGROUND = 0.5
"""Share of the pixels outside the object that the cue's concepts cover in a background."""
MUCH_SMALLER = 0.5
"""Ratio of two differences below which the first is much smaller."""
WHOLE_OBJECT = 0.5
"""Share of the object's pixels from which a part is the object."""
MIN_OBJECT = 0.18
"""Share of the image's pixels that such a part has at least; a smaller one is a mark."""


@dataclass(frozen=True)
class Description:
    """Kind of a cue, its place in words, its box in fractions of the image; None if it moves."""

    kind: str
    place: str | None = None
    region: dict[str, float] | None = None


def describe_cue(
    intervention: str, with_cue: Scenes, others: Scenes, *, is_local: bool = True
) -> Description:
    """Describe the cue that an intervention proved.

    Args:
        intervention: name of the intervention.
        with_cue: images with the cue. Their objects are outlined without the cue's concepts.
        others: images of other classes.
        is_local: whether a part of the image has most of the effect; where none has, a cue without
            a fixed place is the background.
    """
    if intervention in (*STATISTICS, "object colour"):
        return Description(intervention)
    outside = 1 - with_cue.objects
    whole = torch.maximum(with_cue.objects, with_cue.active)
    spread = ((with_cue.evidence - MIN_EVIDENCE) / (FULL_EVIDENCE - MIN_EVIDENCE)).clamp(0, 1)
    if intervention in ("region", "background"):
        covered = (with_cue.presence >= COVERING_PRESENCE).float()
        is_context = not covered.any()
        if is_context or _share(covered * outside, outside) >= WHOLE_BACKGROUND:
            return Description("background")
    elif _share(spread * whole, whole) >= WHOLE_OBJECT and spread.mean() >= MIN_OBJECT:
        return Description("object")
    is_beside = intervention in ("region", "background")
    free, other_free = (
        1 - images.objects if is_beside else torch.ones_like(images.objects)
        for images in (with_cue, others)
    )
    cells = fixed_cells(spread * free)
    if cells is None:
        return Description("moving" if is_local else "background")
    distinct = distinct_cells((with_cue.pixels, free), (others.pixels, other_free), spread * free)
    return describe_place(cells if distinct is None else distinct)


def describe_place(cells: NDArray[np.bool_]) -> Description:
    """Describe a place (h, w); of one that has several parts, the box is that of the largest."""
    parts = place_words.parts_of_cells(cells)
    kinds = {place_words.kind_of_cells(part) for part in parts}
    return Description(
        kinds.pop() if len(kinds) == 1 else "region",
        " and ".join(place_words.place_of_cells(part) for part in parts),
        place_words.bounding_box(parts[0]),
    )


def changes_objects(intervention: str, sources: Sources) -> bool:
    """Whether the statistic that an intervention transfers is that of the objects, too.

    A plain background changes the colours of the whole image, but not those of the object. The
    groups with and without the cue are compared by the statistic inside and outside the objects.

    Returns:
        False if the difference of the groups inside the objects is below MUCH_SMALLER times that
        outside; True otherwise, and for a layout of light and dark, which has no such statistic.
    """
    measure = {
        "colour": transfers.colour_statistics,
        "texture": transfers.log_strengths,
        "sharpness": transfers.log_strengths,
    }.get(intervention)
    if measure is None:
        return True
    inside, outside = (
        _difference(
            *(
                measure(images.pixels, images.objects if on_object else 1 - images.objects)
                for images in (sources.with_cue, sources.without_cue)
            )
        )
        for on_object in (True, False)
    )
    return inside >= MUCH_SMALLER * outside


def _difference(one: Tensor, other: Tensor) -> float:
    """Largest difference of the means of statistics (n, d) and (m, d)."""
    return float((one.mean(dim=0) - other.mean(dim=0)).abs().max())


def fixed_cells(spread: Tensor) -> NDArray[np.bool_] | None:
    """Cells (GRID, GRID) of the place that the images' cues share; None if they share none.

    Args:
        spread: (n, 1, H, W) in [0, 1], the cue in each image.
    """
    maps = F.adaptive_avg_pool2d(spread, GRID)[:, 0]
    mean = maps.mean(dim=0)
    overlap = mean.square().sum() / maps.square().sum(dim=(1, 2)).mean().clamp_min(1e-9)
    if float(overlap) < FIXED:
        return None
    return np.asarray((mean >= NEAR_MAXIMUM * mean.max()).cpu())


def distinct_cells(
    with_cue: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor], spread: Tensor
) -> NDArray[np.bool_] | None:
    """Cells (GRID, GRID) where images with a cue differ from others in the same pixels.

    The layer's grid is coarse, and what it sees is blurred by its receptive fields; the pixels show
    the place of a cue that does not move. Local means of the colours and the local contrast are
    compared; connected cells count if the layer's concepts are there, too.

    Args:
        with_cue: pixels (n, 3, H, W) float32 in [0, 255], and whether a pixel counts (n, 1, H, W)
            in {0, 1}. Cells that do not count in half of the images are left out.
        others: pixels and counts of m images without the cue. Pixels that count in fewer than
            MIN_COMPARED images are left out.
        spread: (n, 1, H, W) in [0, 1], the cue's concepts in each image with the cue.

    Returns:
        None if no such cells differ by MIN_DISTINCT, or if there are too few images.
    """
    if min(len(with_cue[0]), len(others[0])) < MIN_COMPARED:
        return None
    (one, one_variance), (other, other_variance) = map(_local_moments, (with_cue, others))
    pooled = ((one_variance + other_variance) / 2 + 1).sqrt()
    counts, other_counts = (each.sum(dim=0).clamp_min(1e-9) for _, each in (with_cue, others))
    is_sure = (one - other).abs() >= SURE_ERRORS * pooled * (1 / counts + 1 / other_counts).sqrt()
    distance = (one - other).abs() / pooled * is_sure * (other_counts >= MIN_COMPARED)
    largest = np.asarray(F.adaptive_avg_pool2d(distance, GRID).amax(dim=0).cpu())
    mean = _cells_of(spread)
    is_present = mean >= NEAR_MAXIMUM * mean.max()
    if not largest[is_present].max() >= MIN_DISTINCT:
        return None
    allowed = _cells_of(with_cue[1]) >= MIN_FREE
    differs = (largest >= NEAR_MAXIMUM * largest[is_present].max()) & allowed
    _, parts = cv2.connectedComponents(differs.astype(np.uint8))
    shared = np.isin(parts, np.unique(parts[is_present & differs])) & differs
    return np.asarray(shared, np.bool_) if shared.any() else None


def _cells_of(masks: Tensor) -> NDArray[np.float32]:
    """Mean (GRID, GRID) of masks (n, 1, H, W) in every cell."""
    return np.asarray(F.adaptive_avg_pool2d(masks, GRID).mean(dim=0)[0].cpu())


def _local_moments(images: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Means and variances (4, H, W), over images where a pixel counts, of local features."""
    pixels, counts = images
    features = local_features(pixels)
    weights = counts / counts.sum(dim=0).clamp_min(1)
    mean = (features * weights).sum(dim=0)
    return mean, ((features - mean).square() * weights).sum(dim=0)


def _share(part: Tensor, whole: Tensor) -> float:
    shares = part.sum(dim=(1, 2, 3)) / whole.sum(dim=(1, 2, 3)).clamp_min(1)
    return float(torch.nan_to_num(shares).mean())
