"""Pictures that cues are carried into and out of, and how they are divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.interventions import ImageBatch

FEW = 4
"""Fewer donors than this are not taken for a group of their own."""


@dataclass(frozen=True)
class ImagePool:
    """Pictures of all classes, of which the model is sure, for screening and for trials."""

    screening: ImageBatch
    trial: ImageBatch

    @classmethod
    def draw(
        cls, bench: InterventionRunner, drawn: ClassSample, trials: int, rng: np.random.Generator
    ) -> ImagePool:
        """Of every class alike, from its surer half: `trials` others for each class and purpose."""
        rank, side = np.full((2, len(drawn.index)), len(drawn.index))
        labels = np.unique(drawn.classes)
        for label in labels:
            own = rng.permutation(np.flatnonzero(drawn.classes == label))
            sure = own[drawn.confidence[own] >= np.median(drawn.confidence[own])]
            rank[sure] = np.arange(len(sure))
            # Its images take turns; which side is first is drawn, as each may have but one.
            side[sure] = (rank[sure] + rng.integers(2)) % 2
        wanted = 2 * trials * len(labels) // max(1, len(labels) - 1)
        order = np.argsort(rank + rng.random(len(rank)) / 2)[:wanted]
        chosen = order[rank[order] < len(rank)]
        halves = [np.sort(drawn.index[chosen[side[chosen] == half]]) for half in (0, 1)]
        return cls(*(bench.scenes(half if len(half) else drawn.index[chosen]) for half in halves))


def others(scenes: ImageBatch, class_index: int) -> ImageBatch:
    """The scenes of all other classes."""
    return scenes.at(scenes.classes != class_index)


def donors(own: ImageBatch, row: dict[str, Any]) -> ImageBatch:
    """The images of a class that a candidate names, or all where it names few or none."""
    named = torch.as_tensor(row["donor_index"] or [], device=own.index.device, dtype=torch.int64)
    chosen = own.at(torch.isin(own.index, named))
    return chosen if len(chosen) >= FEW else own


def half(scenes: ImageBatch, which: int) -> ImageBatch:
    """Every second image, which is 0 or 1, in an order that has nothing to do with the plan's."""
    order: NDArray[np.int64] = np.random.default_rng(len(scenes)).permutation(len(scenes))
    return scenes.at(torch.from_numpy(np.sort(order[which::2] if len(order) > 1 else order)))
