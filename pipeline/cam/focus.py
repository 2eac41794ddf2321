"""Statistics of heatmaps and images, computed for a batch on the device.

Positions are fractions of the part of the image that the model sees, x to the right and y down,
taken at cell centres. The statistics of a dead map (all zero) are NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma of ITU-R BT.601."""
CORNER_SHARE = 4
"""The outer 1/CORNER_SHARE of the rows and of the columns, at least one cell, form a corner."""


def focus_statistics(heatmaps: Tensor) -> dict[str, Tensor]:
    """Compute position, concentration and number of peaks of each heatmap.

    Args:
        heatmaps: (N, h, w) float32, not negative, before normalisation.

    Returns:
        Each (N,) float32:
        focus_entropy: Shannon entropy of the mass over the cells / ln(h*w), in [0, 1];
        focus_gini: Gini coefficient of the cells, in [0, 1), 0 where all are equal;
        focus_area50, focus_area90: smallest share of cells with 50 %, 90 % of the mass, (0, 1];
        focus_x, focus_y: centroid of the mass, in (0, 1);
        focus_spread: root mean square distance from the centroid, in image sides, [0, 0.71];
        focus_peak_x, focus_peak_y: centre of the hottest cell, the first of several;
        focus_peaks: number of cells with at least half of the maximum and no smaller than their 8
            neighbours; adjacent cells of equal value are counted separately;
        focus_border: share of mass in the outermost ring of cells, [0, 1];
        focus_corner: share of mass in the four corners (outer quarter of rows and columns), [0, 1];
        focus_mean: mean of the raw map, in the map's own units (its maximum is heatmap_max).
    """
    _, rows, columns = heatmaps.shape
    total = heatmaps.sum(dim=(1, 2))
    mass = heatmaps / total[:, None, None]
    flat = mass.flatten(1)
    y, x = _centres(rows, columns, heatmaps)
    centre_x, centre_y = _mean_at(mass, x), _mean_at(mass, y)
    variance = _mean_at(mass, (x - centre_x[:, None, None]) ** 2) + _mean_at(
        mass, (y - centre_y[:, None, None]) ** 2
    )
    peak = flat.argmax(dim=1)
    ordered = flat.sort(dim=1, descending=True).values
    hotter = ordered.cumsum(dim=1) - ordered
    statistics = {
        "focus_entropy": _entropy(flat),
        "focus_gini": _gini(ordered),
        "focus_area50": _area(ordered, hotter, 0.5),
        "focus_area90": _area(ordered, hotter, 0.9),
        "focus_x": centre_x,
        "focus_y": centre_y,
        "focus_spread": variance.sqrt(),
        "focus_peak_x": (peak % columns + 0.5) / columns,
        "focus_peak_y": (peak.div(columns, rounding_mode="floor") + 0.5) / rows,
        "focus_peaks": _peaks(heatmaps),
        "focus_border": _share(mass, _ring(1, 1, mass)),
        "focus_corner": _share(mass, _corners(mass)),
        "focus_mean": heatmaps.mean(dim=(1, 2)),
    }
    dead = ~(total > 0)
    return {name: _blank(value, dead) for name, value in statistics.items()}


def label_similarity(heatmaps: Tensor, label_heatmaps: Tensor) -> Tensor:
    """Compute the cosine similarity of the predicted class's and the label's heatmaps.

    Args:
        heatmaps, label_heatmaps: (N, h, w) in [0, 1], divided by their maxima.

    Returns:
        (N,) in [0, 1]; NaN where one of the two maps is dead.
    """
    similarity = F.cosine_similarity(heatmaps.flatten(1), label_heatmaps.flatten(1), dim=1)
    similarity = similarity.clamp_max(1)
    dead = ~((heatmaps.amax(dim=(1, 2)) > 0) & (label_heatmaps.amax(dim=(1, 2)) > 0))
    return _blank(similarity, dead)


def cover(objects: Tensor, heatmaps: Tensor) -> Tensor:
    """Compute the share of each heatmap cell that the object covers: (N, h, w) in [0, 1].

    Args:
        objects: (N, H, W) in [0, 1], coverage by the object at the model's input size.
        heatmaps: (N, h, w); only their grid is used.
    """
    _, rows, columns = heatmaps.shape
    return F.adaptive_avg_pool2d(objects[:, None].to(heatmaps.dtype), (rows, columns))[:, 0]


def object_statistics(heatmaps: Tensor, cover: Tensor) -> dict[str, Tensor]:
    """Compute how much of each heatmap lies on the object that the dataset marks.

    Args:
        heatmaps: (N, h, w), not negative.
        cover: (N, h, w) in [0, 1], the share of each cell that the object covers. Where it is all
            zero, the image has no object, and its statistics are NaN.

    Returns:
        focus_object_mass: share of mass on the object, [0, 1];
        focus_pointing_hit: 1 where the maximum's cell contains part of the object, else 0 (the
        pointing game of Zhang et al., "Top-down Neural Attention by Excitation Backprop", ECCV
        2016). Each (N,).
    """
    total = heatmaps.sum(dim=(1, 2))
    on_object = _share(heatmaps / total[:, None, None], cover)
    at_peak = cover.flatten(1).gather(1, heatmaps.flatten(1).argmax(dim=1, keepdim=True))[:, 0]
    none = ~(total > 0) | (cover.amax(dim=(1, 2)) == 0)
    return {
        "focus_object_mass": _blank(on_object, none),
        "focus_pointing_hit": _blank((at_peak > 0).to(heatmaps.dtype), none),
    }


def image_statistics(images: Tensor) -> dict[str, Tensor]:
    """Compute colour, brightness and sharpness statistics of images at the model's input size.

    Args:
        images: (N, 1 or 3, H, W) uint8; a grey image counts as three equal channels.

    Returns:
        Each (N,) float32, colours in [0, 1]:
        image_mean_*, image_std_*: mean and standard deviation of red, green, blue;
        image_brightness, image_contrast: mean and standard deviation of the luma (ITU-R BT.601);
        image_sharpness: standard deviation of the luma's Laplacian (4 neighbours) over the pixels
            that have four; NaN where none has;
        image_border_*: mean colour of the outer 1/16 of the sides, at least one pixel.
    """
    # One contiguous plane per colour, because reductions are fastest along memory.
    planes = images.expand(-1, 3, -1, -1).to(torch.float32, memory_format=torch.contiguous_format)
    red, green, blue = planes.unbind(dim=1)
    luma = (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    statistics = {
        "image_brightness": luma.mean(dim=(1, 2)) / 255,
        "image_contrast": _deviation(luma) / 255,
        "image_sharpness": _deviation(_laplacian(luma)) / 255,
    }
    named = {
        "mean": planes.mean(dim=(2, 3)),
        "std": _deviation(planes),
        "border": _border_colour(planes),
    }
    for name, colours in named.items():
        statistics |= {f"image_{name}_{c}": colours[:, i] / 255 for i, c in enumerate("rgb")}
    return statistics


def _laplacian(luma: Tensor) -> Tensor:
    """Laplacian (N, H-2, W-2) of the luma (N, H, W), over the four neighbours."""
    vertical = luma[:, :-2, 1:-1] + luma[:, 2:, 1:-1]
    horizontal = luma[:, 1:-1, :-2] + luma[:, 1:-1, 2:]
    return (vertical + horizontal).sub_(luma[:, 1:-1, 1:-1], alpha=4)


def _centres(rows: int, columns: int, like: Tensor) -> tuple[Tensor, Tensor]:
    y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) / rows
    x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) / columns
    return y[:, None].expand(rows, columns), x[None, :].expand(rows, columns)


def _mean_at(mass: Tensor, position: Tensor) -> Tensor:
    return (mass * position).sum(dim=(1, 2))


def _entropy(flat: Tensor) -> Tensor:
    maximum = math.log(max(flat.shape[1], 2))  # one cell alone has entropy 0
    entropy: Tensor = torch.special.entr(flat).sum(dim=1) / maximum
    return entropy.clamp_max(1)


def _gini(ordered: Tensor) -> Tensor:
    """Gini coefficient of values (N, cells) that sum to 1, in descending order."""
    cells = ordered.shape[1]
    order = torch.arange(1, cells + 1, device=ordered.device, dtype=ordered.dtype)
    return ((cells + 1 - 2 * order) * ordered).sum(dim=1).clamp_min(0) / cells


def _area(ordered: Tensor, hotter: Tensor, share: float) -> Tensor:
    """Smallest share of cells with `share` of the mass; `hotter` is the mass before each cell."""
    # A remainder below a hundredth of the cell may be rounding and does not count as a cell.
    return (share - hotter > ordered / 100).sum(dim=1) / ordered.shape[1]


def _peaks(heatmaps: Tensor) -> Tensor:
    highest = heatmaps.amax(dim=(1, 2), keepdim=True)
    around = F.max_pool2d(heatmaps[:, None], kernel_size=3, stride=1, padding=1)[:, 0]
    return ((heatmaps >= around) & (heatmaps >= highest / 2)).sum(dim=(1, 2)).to(heatmaps.dtype)


def _share(mass: Tensor, where: Tensor) -> Tensor:
    """Sum (N,) of mass (N, h, w) times weights (h, w) or (N, h, w) in [0, 1]; at most 1."""
    return (mass * where).sum(dim=(1, 2)).clamp_max(1)


def _ring(high: int, wide: int, like: Tensor) -> Tensor:
    """(h, w): 1 in the outer `high` rows and `wide` columns, else 0."""
    rows, columns = like.shape[-2:]
    return torch.maximum(_ends(rows, high, like)[:, None], _ends(columns, wide, like))


def _corners(like: Tensor) -> Tensor:
    """(h, w): 1 in the four corners, else 0."""
    high, wide = (_ends(side, max(1, side // CORNER_SHARE), like) for side in like.shape[-2:])
    return high[:, None] * wide


def _ends(size: int, depth: int, like: Tensor) -> Tensor:
    """(size,): 1 at the first and last `depth` positions, else 0."""
    place = torch.arange(size, device=like.device)
    return ((place < depth) | (place >= size - depth)).to(like.dtype)


def _deviation(values: Tensor) -> Tensor:
    """Standard deviation over the last two dimensions; Tensor.std takes 20 times as long."""
    centred = (values - values.mean(dim=(-2, -1), keepdim=True)).flatten(-2)
    cells = centred.shape[-1]
    length: Tensor = torch.linalg.vector_norm(centred, dim=-1)
    return length / (cells**0.5 if cells else math.nan)


def _border_colour(planes: Tensor) -> Tensor:
    """Mean colour (N, 3) of the border.

    Sums are in float64: a matrix product would round differently by the position in the batch.
    """
    rows, columns = planes.shape[2:]
    high, wide = (max(1, side // 16) for side in (rows, columns))
    below, right = max(high, rows - high), max(wide, columns - wide)
    sides = (
        planes[:, :, :high],
        planes[:, :, below:],
        planes[:, :, high:below, :wide],
        planes[:, :, high:below, right:],
    )
    total = torch.stack([side.sum(dim=(2, 3), dtype=torch.float64) for side in sides]).sum(dim=0)
    return (total / sum(side[0, 0].numel() for side in sides)).to(planes.dtype)


def _blank(values: Tensor, where: Tensor) -> Tensor:
    return values.masked_fill(where, float("nan"))
