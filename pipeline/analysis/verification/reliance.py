"""How far the predictions of images with a cue rely on it: what is lost when the cue is removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.catalogue import Intervention
from pipeline.analysis.interventions.scenes import Scenes

RELIES = 0.2
"""Lost share of the probability from which an image relies on a statistic of the whole picture."""
MUCH = 20.0
"""Logits beyond the largest margin without which nothing of a prediction is left."""
N_FILLERS = 2
"""Images without the cue whose content replaces the cue of each image, in turn."""


@dataclass(frozen=True)
class Removal:
    """What n images of a class lose without their cue.

    Attributes:
        index: (n,) positions in the plan.
        reliance: (n,) in [0, 1], share of the probability of the class that is lost.
        flipped: share of the removals that flip the prediction to another class; None for a cue
            that cannot be removed from an image.
    """

    index: NDArray[np.int64]
    reliance: NDArray[np.float64]
    flipped: float | None

    def select(self, rows: NDArray[np.bool_]) -> Removal:
        """The removals from some of the images, by a mask (n,); `flipped` stays that of all."""
        return Removal(self.index[rows], self.reliance[rows], self.flipped)


def remove_cue(
    model: AuditedModel,
    intervention: Intervention,
    with_cue: Scenes,
    without_cue: Scenes,
    class_index: int,
    rng: np.random.Generator,
) -> Removal:
    """Remove the cue from images.

    Args:
        model: the audited model; it predicts every image 1 + N_FILLERS times.
        intervention: removes the cue.
        with_cue: images of the class that have the cue.
        without_cue: images of the class that lack it; their content replaces the cue.
        class_index: the class.
        rng: random generator of the draw of fillers.
    """
    before = model.probabilities(with_cue.pixels.byte())[:, class_index]
    after = []
    for _ in range(N_FILLERS):
        drawn = scenes.draw_rows(len(without_cue), len(with_cue), rng)
        fillers = without_cue.select(scenes.to_tensor(drawn, without_cue.pixels))
        after.append(model.probabilities(intervention.remove(with_cue, fillers)))
    probabilities = np.stack(after)
    own = probabilities[..., class_index].mean(axis=0)
    lost = 1 - own / np.maximum(before, np.finfo(np.float32).tiny)
    return Removal(
        with_cue.index.cpu().numpy(),
        np.clip(lost, 0, 1).astype(np.float64),
        float((probabilities.argmax(axis=2) != class_index).mean()),
    )


def estimate_reliance(rows: pa.Table, gain: float) -> Removal:
    """Estimate what images lose without a cue that cannot be removed from them.

    Without the contribution of the cue's concepts, the logit of the class is smaller by it, to
    first order; the other logits stay. Where no concept is known, the contribution is taken to be
    the same in all images, and so large that the images lose on average what others gain.

    Args:
        rows: of concepts_schema; the images of the class with the cue, at least one.
        gain: of adding the cue to images of other classes, in (0, 1].
    """
    margin, contribution = (
        rows[name].to_numpy().astype(np.float64) for name in ("margin", "contribution")
    )
    if not contribution.any():
        contribution = np.full_like(margin, _contribution_of_loss(margin, gain))
    return Removal(rows["index"].to_numpy(), _lost(margin, contribution), flipped=None)


def _lost(margin: NDArray[np.float64], contribution: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share (n,) in [0, 1] of the probability that is lost with a part of the margin."""
    before = np.maximum(expit(margin), np.finfo(np.float64).tiny)
    return np.asarray(np.clip(1 - expit(margin - contribution) / before, 0, 1))


def _contribution_of_loss(margin: NDArray[np.float64], loss: float) -> float:
    """The contribution whose removal from all images costs a mean share of their probability."""

    def excess(contribution: float) -> float:
        return float(_lost(margin, np.full_like(margin, contribution)).mean()) - loss

    most = float(margin.max()) + MUCH
    return float(brentq(excess, 0.0, most)) if excess(0.0) < 0 < excess(most) else most


def join(removals: list[Removal]) -> Removal:
    """Join the removals from several batches of images, of at least one."""
    sizes = [len(each.index) for each in removals]
    flipped = [0.0 if each.flipped is None else each.flipped for each in removals]
    return Removal(
        np.concatenate([each.index for each in removals]),
        np.concatenate([each.reliance for each in removals]),
        float(np.average(flipped, weights=sizes)),
    )
