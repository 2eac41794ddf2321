"""How far the predictions of images with a cue rely on it: what is lost when the cue is removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.catalogue import Intervention
from pipeline.analysis.interventions.scenes import Scenes

RELIES = 0.2
"""Lost share of the probability from which an image relies on a statistic of the whole picture."""
N_FILLERS = 2
"""Images without the cue whose content replaces the cue of each image, in turn."""


@dataclass(frozen=True)
class Removal:
    """n images of a class whose cue was removed.

    Attributes:
        index: (n,) positions in the plan.
        reliance: (n,) in [0, 1], share of the probability of the class that is lost, mean over the
            fillers.
        flipped: share of the removals that flip the prediction to another class.
    """

    index: NDArray[np.int64]
    reliance: NDArray[np.float64]
    flipped: float

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


def join(removals: list[Removal]) -> Removal:
    """Join the removals from several batches of images, of at least one."""
    sizes = [len(each.index) for each in removals]
    return Removal(
        np.concatenate([each.index for each in removals]),
        np.concatenate([each.reliance for each in removals]),
        float(np.average([each.flipped for each in removals], weights=sizes)),
    )
