"""Trials of an intervention: how often it flips recipients to a class, with and without the cue."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.analysis.audited_model import AuditedModel, Ints
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.catalogue import Intervention
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.verification import effects
from pipeline.analysis.verification.effects import Effect
from pipeline.analysis.verification.image_pool import Sources

MIN_SHARED_GAIN = 0.1
"""Gain from which another class is said to share a cue."""
BATCH = 32
"""Pairs that are changed at once, to bound the memory of an intervention."""


@dataclass(frozen=True)
class Trial:
    """n recipients changed with content of an image with the cue, and of one without it.

    Attributes:
        class_index: the class.
        predicted: (n,) predicted classes with the cue's content.
        predicted_control: (n,) the same with content of the image without the cue.
        added: (n,) probability of the class with the cue's content minus that of the control.
        with_cue, without_cue: (n,) numbers of the source images.
        classes: (n,) classes of the recipients.
    """

    class_index: int
    predicted: Ints
    predicted_control: Ints
    added: NDArray[np.float64]
    with_cue: Ints
    without_cue: Ints
    classes: Ints

    @property
    def gain(self) -> float:
        """Flip rate to the class minus that of the control, in [-1, 1]."""
        return self._gain_of(self.class_index)

    @property
    def promise(self) -> float:
        """The gain in flips or, where it is larger, in the mean probability of the class."""
        return max(self.gain, float(self.added.mean()))

    @property
    def sharing(self) -> Ints:
        """The class and, if it has a gain itself, other classes with a gain of MIN_SHARED_GAIN.

        A cue of several classes flips recipients to all of them.
        """
        others = np.unique(self.predicted)
        others = others[others != self.class_index]
        if self.gain < MIN_SHARED_GAIN:
            others = others[:0]
        gains = np.array([self._gain_of(int(other)) for other in others])
        return np.concatenate([[self.class_index], others[gains >= MIN_SHARED_GAIN]]).astype(int)

    def _gain_of(self, class_index: int) -> float:
        """Flip rate to a class minus that of the control; recipients of that class count as 0."""
        free = self.classes != class_index
        with_cue, control = (
            (predicted == class_index) & free
            for predicted in (self.predicted, self.predicted_control)
        )
        return float(with_cue.mean() - control.mean())

    def effect(self, rng: np.random.Generator) -> Effect:
        """Statistics of the flips to the class, or to any of the classes that share the cue."""
        sharing = self.sharing
        flipped, control = (
            np.isin(predicted, sharing) & (predicted != self.classes)
            for predicted in (self.predicted, self.predicted_control)
        )
        effect = effects.compare_flips(
            flipped,
            control,
            self.with_cue,
            self.without_cue,
            self.classes,
            rng,
            tuple(sharing[1:].tolist()),
        )
        changed = self.predicted_control != self.classes
        return replace(effect, disturbed=float(changed.mean()))


def run_trial(
    model: AuditedModel,
    intervention: Intervention,
    recipients: Scenes,
    sources: Sources,
    class_index: int,
    n: int,
    rng: np.random.Generator,
) -> Trial:
    """Apply an intervention to n recipients, drawn in turn, from sources with and without a cue.

    Args:
        model: the model; every pair takes two of its predictions.
        intervention: the intervention.
        recipients: images of other classes.
        sources: images of the class with the cue, and without it.
        class_index: the class.
        n: number of recipients; one may be drawn several times.
        rng: random generator of the draws.
    """
    groups = (recipients, sources.with_cue, sources.without_cue)
    drawn = [scenes.draw_rows(len(images), n, rng) for images in groups]
    pairs = []
    for start in range(0, n, BATCH):
        batch = [
            images.select(scenes.to_tensor(rows[start : start + BATCH], images.pixels))
            for images, rows in zip(groups, drawn, strict=True)
        ]
        pairs.append(intervention.apply(*batch))
    changed, control_changed = (torch.cat(blocks) for blocks in zip(*pairs, strict=True))
    with_cue = model.probabilities(changed)
    is_same = torch.equal(changed, control_changed)
    control = with_cue if is_same else model.probabilities(control_changed)
    classes = np.asarray(recipients.classes.cpu().numpy()[drawn[0]], np.int64)
    return Trial(
        class_index,
        with_cue.argmax(axis=1),
        control.argmax(axis=1),
        (with_cue - control)[:, class_index].astype(np.float64),
        drawn[1],
        drawn[2],
        classes,
    )


def join(one: Trial, other: Trial) -> Trial:
    """Join two trials of the same intervention and class."""
    names = [each.name for each in fields(Trial) if each.name != "class_index"]
    joined = [np.concatenate([getattr(one, name), getattr(other, name)]) for name in names]
    return Trial(one.class_index, *joined)
