"""A few of the interventions on a cue, so that a person sees what was done, and what it did."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.analysis.verification import trial
from pipeline.analysis.verification.intervention_runner import (
    Floats,
    InterventionRunner,
    Ints,
    numbers,
)
from pipeline.analysis.verification.interventions import ImageBatch, Intervene, Intervention

ADDED, REMOVED = "added", "removed"
TRIED = 24
"""Pictures of which those to show are chosen."""
RANKS = (0.75, 0.25)
"""Which are shown, as shares of the pictures whose probability moves less: one that moves more than
most, and one that moves less. The best of all would show more than is true of the rest."""


@dataclass(frozen=True)
class Illustration:
    """A picture (3, H, W) uint8 before and after; its plan position, and that of the picture that
    pixels came from; the probability of the finding's class, and the predicted classes.
    """

    change: str
    index: int
    source: int
    before: Tensor
    after: Tensor
    prob_before: float
    prob_after: float
    pred_before: int
    pred_after: int


def of_cue(
    bench: InterventionRunner,
    probe: Intervention,
    own: ImageBatch,
    others: ImageBatch,
    donors: ImageBatch,
    fillers: ImageBatch,
) -> list[Illustration]:
    """The cue added to pictures of other classes, and taken out of those of its own.

    The draw is its own, so that what is shown changes nothing in what is measured.

    Args:
        own, others: images that carry the cue, and images of other classes.
        donors, fillers: the same, as pixels are taken from them.
    """
    rng = np.random.default_rng(0)
    class_index = int(own.classes[0])
    hosts, carriers = trial.pairs(others, donors, min(TRIED, len(others)), rng)
    members, put_in = trial.pairs(own, fillers, min(TRIED, len(own)), rng)
    return [
        *_shown(bench, ADDED, probe.transplant, hosts, carriers, class_index),
        *_shown(bench, REMOVED, probe.remove, members, put_in, class_index),
    ]


def _shown(
    bench: InterventionRunner,
    change: str,
    intervene: Intervene,
    hosts: ImageBatch,
    sources: ImageBatch,
    own: int,
) -> list[Illustration]:
    changed = intervene(hosts, sources)
    before, after = bench.probabilities(hosts.pictures), bench.probabilities(changed)
    at, of = numbers(hosts.index), numbers(sources.index)
    return [
        Illustration(
            change=change,
            index=int(at[row]),
            source=int(of[row]),
            before=hosts.pictures[row].cpu(),
            after=changed[row].cpu(),
            prob_before=float(before[row, own]),
            prob_after=float(after[row, own]),
            pred_before=int(before[row].argmax()),
            pred_after=int(after[row].argmax()),
        )
        for row in at_ranks(np.abs(after[:, own] - before[:, own]))
    ]


def at_ranks(moved: Floats) -> list[int]:
    """Rows, each once, whose values (n,) stand at RANKS."""
    order: Ints = np.argsort(moved, kind="stable")
    return list(dict.fromkeys(int(order[round(rank * (len(order) - 1))]) for rank in RANKS))


def worn(scenes: ImageBatch, wearers: list[int]) -> ImageBatch:
    """Those of the scenes that carry a cue, by plan position; all where none is known to."""
    carries = torch.isin(scenes.index, scenes.index.new_tensor(wearers))
    return scenes.at(carries) if wearers else scenes
