"""Examples of the interventions on a cue, for the report: images before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.analysis.verification import intervention_tests
from pipeline.analysis.verification.image_batch import ImageBatch, to_numpy
from pipeline.analysis.verification.intervention_runner import Floats, InterventionRunner, Ints
from pipeline.analysis.verification.interventions import Intervention, Transplant

ADDED, REMOVED = "added", "removed"
"""Values of the column `change` of INTERVENTIONS."""
N_TRIED = 24
"""Images on which each intervention is run, to choose the examples from."""
RANKS = (0.75, 0.25)
"""Ranks of the examples by change of probability, from 0 (smallest) to 1 (largest). The largest
change is not shown, because it would promise more than most images show."""


@dataclass(frozen=True)
class Illustration:
    """One image before and after an intervention.

    Attributes:
        change: ADDED or REMOVED.
        index: position of the image in the plan.
        source: position of the image that the transplanted content comes from.
        before, after: (3, H, W) uint8 on the CPU.
        prob_before, prob_after: probability of the finding's class.
        pred_before, pred_after: predicted class indices.
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


def illustrate(
    runner: InterventionRunner,
    intervention: Intervention,
    own: ImageBatch,
    others: ImageBatch,
    sources: ImageBatch,
    fillers: ImageBatch,
) -> list[Illustration]:
    """Add a cue to images of other classes, and remove it from images of its own class.

    The images are drawn with a random generator of this function, so that the illustrations do not
    change any measured effect.

    Args:
        runner: the model.
        intervention: the intervention on the cue.
        own: images with the cue.
        others: images of other classes.
        sources: the images of `own`, in the form that content is transplanted from.
        fillers: the images of `others`, in the same form.

    Returns:
        At most len(RANKS) images with the cue added, then as many with the cue removed.
    """
    rng = np.random.default_rng(0)
    class_index = int(own.classes[0])
    n_added, n_removed = min(N_TRIED, len(others)), min(N_TRIED, len(own))
    recipients, with_cue = intervention_tests.draw_pairs(others, sources, n_added, rng)
    images, drawn_fillers = intervention_tests.draw_pairs(own, fillers, n_removed, rng)
    return [
        *_examples(runner, ADDED, intervention.transplant, recipients, with_cue, class_index),
        *_examples(runner, REMOVED, intervention.remove, images, drawn_fillers, class_index),
    ]


def _examples(
    runner: InterventionRunner,
    change: str,
    intervene: Transplant,
    images: ImageBatch,
    sources: ImageBatch,
    class_index: int,
) -> list[Illustration]:
    changed = intervene(images, sources)
    before, after = runner.probabilities(images.pixels), runner.probabilities(changed)
    index, source_index = to_numpy(images.index), to_numpy(sources.index)
    return [
        Illustration(
            change=change,
            index=int(index[row]),
            source=int(source_index[row]),
            before=images.pixels[row].cpu(),
            after=changed[row].cpu(),
            prob_before=float(before[row, class_index]),
            prob_after=float(after[row, class_index]),
            pred_before=int(before[row].argmax()),
            pred_after=int(after[row].argmax()),
        )
        for row in rows_at_ranks(np.abs(after[:, class_index] - before[:, class_index]))
    ]


def rows_at_ranks(changes: Floats) -> list[int]:
    """Find the rows whose values (n,) have the RANKS among all values; each row once."""
    order: Ints = np.argsort(changes, kind="stable")
    return list(dict.fromkeys(int(order[round(rank * (len(order) - 1))]) for rank in RANKS))


def select_with_cue(images: ImageBatch, with_cue: list[int]) -> ImageBatch:
    """Select the images whose positions in the plan are in `with_cue`; all if that is empty."""
    has_cue = torch.isin(images.index, images.index.new_tensor(with_cue))
    return images.select(has_cue) if with_cue else images
