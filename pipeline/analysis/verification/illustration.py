"""Examples of the intervention on a cue, for the report: images before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pipeline.analysis.audited_model import AuditedModel, Floats, Ints
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.catalogue import Intervention
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.verification.image_pool import Sources

ADDED, REMOVED = "added", "removed"
"""Values of the column `change` of INTERVENTIONS."""
N_TRIED = 24
"""Images on which each intervention is run, to choose the examples from."""
RANKS = (0.75, 0.25)
"""Ranks of the examples by change of probability, from 0 (smallest) to 1 (largest), among the
images whose probability changes as the finding says. The largest change is not shown, because it
would promise more than most images show."""


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
    model: AuditedModel,
    intervention: Intervention,
    recipients: Scenes,
    sources: Sources,
    class_index: int,
) -> list[Illustration]:
    """Add a cue to images of other classes, and remove it from images that have it.

    The images are drawn with a random generator of this function, so that the illustrations do not
    change any measured effect.

    Args:
        model: the audited model.
        intervention: the intervention on the cue.
        recipients: images of other classes.
        sources: images of the class with the cue, and without it.
        class_index: the class.

    Returns:
        At most len(RANKS) images with the cue added, then as many with the cue removed if it can
        be.
    """
    rng = np.random.default_rng(0)
    others, with_cue, without_cue = (
        images.select(scenes.to_tensor(scenes.draw_rows(len(images), N_TRIED, rng), images.pixels))
        for images in (recipients, sources.with_cue, sources.without_cue)
    )
    added, _ = intervention.apply(others, with_cue, without_cue)
    examples = _examples(model, ADDED, others, added, with_cue, class_index)
    if intervention.trace is None:
        removed = intervention.remove(with_cue, without_cue)
        examples += _examples(model, REMOVED, with_cue, removed, without_cue, class_index)
    return examples


def _examples(
    model: AuditedModel,
    change: str,
    images: Scenes,
    changed: Tensor,
    sources: Scenes,
    class_index: int,
) -> list[Illustration]:
    pixels = images.pixels.byte()
    before, after = model.probabilities(pixels), model.probabilities(changed)
    sign = 1 if change == ADDED else -1
    index, source_index = images.index.cpu().numpy(), sources.index.cpu().numpy()
    return [
        Illustration(
            change=change,
            index=int(index[row]),
            source=int(source_index[row]),
            before=pixels[row].cpu(),
            after=changed[row].cpu(),
            prob_before=float(before[row, class_index]),
            prob_after=float(after[row, class_index]),
            pred_before=int(before[row].argmax()),
            pred_after=int(after[row].argmax()),
        )
        for row in rows_at_ranks(sign * (after[:, class_index] - before[:, class_index]))
    ]


def rows_at_ranks(changes: Floats) -> list[int]:
    """Find the rows whose values (n,) have the RANKS among the positive values; each row once."""
    order: Ints = np.argsort(changes, kind="stable")
    order = order[changes[order] > 0]
    if not len(order):
        return []
    return list(dict.fromkeys(int(order[round(rank * (len(order) - 1))]) for rank in RANKS))
