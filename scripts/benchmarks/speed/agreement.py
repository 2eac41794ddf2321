"""Whether the sides of the benchmark find the same: classes and heatmaps, image by image."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.run.worker import ShardWorker
from pipeline.storage import parquet

F32 = NDArray[np.float32]
Like = Callable[[F32, tuple[int, ...]], F32]


@dataclass(frozen=True)
class Maps:
    """What a side found for the images at n plan positions.

    predicted is (n,) class indices; heatmaps is (n, h, w), or None where the side makes none.
    """

    indices: NDArray[np.int64]
    predicted: NDArray[np.int64]
    heatmaps: F32 | None


@dataclass
class Agreement:
    """How far two results are alike.

    same_class is the share of images with the same predicted class. Cosines are of the heatmaps of
    n_maps of these, without the n_dead where either map is zero everywhere.
    """

    first: str
    second: str
    n_images: int
    same_class: float | None
    n_maps: int
    n_dead: int
    mean_cosine: float | None
    min_cosine: float | None


def upsampled(heatmaps: F32, size: tuple[int, ...]) -> F32:
    """Maps (n, h, w) as pytorch-grad-cam would return them, (n, *size): scaled twice, as it does.

    Its maps are compared at the input's size, by its own function: shrinking them back to the
    layer's grid would blur what bilinear interpolation has already blurred.
    """
    scale: Any = importlib.import_module("pytorch_grad_cam.utils.image").scale_cam_image
    scaled: F32 = scale(scale(heatmaps, size[::-1]))
    return scaled


def without_minimum(heatmaps: F32, _size: tuple[int, ...]) -> F32:
    """Maps (n, h, w) as torchcam returns them, but for their scale: it subtracts the minimum."""
    lowest: F32 = heatmaps.min(axis=(1, 2), keepdims=True)
    return heatmaps - lowest


def unchanged(heatmaps: F32, _size: tuple[int, ...]) -> F32:
    """Maps (n, h, w) as captum returns them, but for their scale."""
    return heatmaps


# camaudit's maps brought to what a peer hands out, so that the cosine tells of Grad-CAM alone.
LIKE: dict[str, Like] = {
    "pytorch-grad-cam": upsampled,
    "torchcam": without_minimum,
    "captum": unchanged,
}


def stored_maps(job: ShardWorker, shard: int) -> Maps:
    """What camaudit committed for a shard, without the images that could not be explained."""
    table = parquet.read(job.run.part(shard), ["index", "pred_index", "heatmap", "status"])
    table = table.filter(pc.equal(table["status"], "ok"))
    flat = pc.list_flatten(table["heatmap"]).to_numpy().astype(np.float32)
    return Maps(
        indices=table["index"].to_numpy(),
        predicted=table["pred_index"].to_numpy(),
        heatmaps=flat.reshape(len(table), *job.plan.setup.grid),
    )


def compare(first: str, second: str, pairs: Iterable[tuple[Maps, Maps]], like: Like) -> Agreement:
    """How far pairs of results for the same images agree; `like` is applied to the first maps."""
    same, cosines = [np.zeros(0, np.bool_)], [np.zeros(0)]
    for ours, theirs in pairs:
        _, at, other = np.intersect1d(ours.indices, theirs.indices, return_indices=True)
        same.append(ours.predicted[at] == theirs.predicted[other])
        at, other = at[same[-1]], other[same[-1]]  # other classes have other maps
        if ours.heatmaps is not None and theirs.heatmaps is not None and len(at):
            maps = theirs.heatmaps[other]
            cosines.append(cosine(like(ours.heatmaps[at], maps.shape[1:]), maps))
    agree, found = np.concatenate(same), np.concatenate(cosines)
    alive = found[np.isfinite(found)]
    return Agreement(
        first=first,
        second=second,
        n_images=len(agree),
        same_class=float(agree.mean()) if len(agree) else None,
        n_maps=len(alive),
        n_dead=len(found) - len(alive),
        mean_cosine=float(alive.mean()) if len(alive) else None,
        min_cosine=float(alive.min()) if len(alive) else None,
    )


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine (n,) of maps (n, h, w); NaN where one of the two is zero everywhere."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), lengths, out=found, where=lengths > 0)
    return found
