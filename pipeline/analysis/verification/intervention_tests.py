"""Tests of one candidate: its cue added to images of other classes, and removed from its own.

Adding: what the intervention takes from images of the class is transplanted into confidently
predicted images of every other class. Control: the same transplant into the same recipients, from
source images of other classes.

Removing: in images of the class, the cue is replaced by the content of images of other classes.
Control: an equally large region elsewhere in the image is replaced in the same way; where the
intervention changes all pixels or a statistic, the content comes from images of the same class.

A verdict rests on adding. Removing is weaker evidence, because it also removes parts of objects and
because the cue need not be the only evidence; it measures how far each image relies on the cue.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.verification import effects, masks, transfers
from pipeline.analysis.verification.effects import Bools, Effect
from pipeline.analysis.verification.image_batch import ImageBatch, to_numpy
from pipeline.analysis.verification.intervention_runner import Floats, InterventionRunner, Ints
from pipeline.analysis.verification.interventions import Intervention

Rng = np.random.Generator

N_FILLERS = 8
"""Images of other classes that replace the cue of an image in turn, to measure its reliance."""


@dataclass(frozen=True)
class AddingEffect:
    """Result of adding a cue to images of other classes.

    Attributes:
        effect: flip rates to the candidate's class, with the cue and with the control.
        median_gain: median of the gain over the recipients' classes, in [-1, 1].
    """

    effect: Effect
    median_gain: float


@dataclass(frozen=True)
class RemovalEffect:
    """Result of removing a cue from images of its class.

    Attributes:
        effect: flip rates away from the class, without the cue and with the control.
        reliance: by position in the plan, the share of the probability of the class that the image
            loses without the cue, in [0, 1]; empty where removing was not tested.
    """

    effect: Effect
    reliance: dict[int, float] = field(default_factory=dict)


NOT_REMOVED = RemovalEffect(effects.NO_EFFECT)
"""Value of a candidate whose cue was not removed."""


def test_adding(
    runner: InterventionRunner,
    intervention: Intervention,
    sources: ImageBatch,
    others: ImageBatch,
    class_index: int,
    n: int,
    rng: Rng,
) -> AddingEffect:
    """Measure how often a cue flips other images to its class, more than the control does.

    Args:
        runner: the model.
        intervention: transplants the cue.
        sources: images of the class.
        others: confidently predicted images of other classes; recipients, and sources of the
            control.
        class_index: the class of the cue.
        n: number of transplants.
        rng: random generator of the pairs of images and of the bootstrap.
    """
    recipients, with_cue = draw_pairs(others, sources, n, rng)
    without_cue = draw_of_other_class(recipients, others, rng)
    flipped = runner.predict_transplant(intervention, recipients, with_cue) == class_index
    control = runner.predict_transplant(intervention, recipients, without_cue) == class_index
    return compare_adding(flipped, control, recipients, rng)


def compare_adding(
    flipped: Bools, control: Bools, recipients: ImageBatch, rng: Rng
) -> AddingEffect:
    """Compare which recipients (n,) flipped to the class with the cue and with the control."""
    median_gain = effects.median_class_gain(flipped, control, to_numpy(recipients.classes))
    return AddingEffect(effects.compare_flips(flipped, control, rng), median_gain)


def test_removing(
    runner: InterventionRunner,
    intervention: Intervention,
    images: ImageBatch,
    others: ImageBatch,
    class_index: int,
    rng: Rng,
) -> RemovalEffect:
    """Measure how often images of a class flip to another one without the cue, and their reliance.

    Args:
        runner: the model.
        intervention: removes the cue.
        images: images of the class.
        others: images of other classes, from which the replacing content is drawn.
        class_index: the class of the cue.
        rng: random generator of the fillers, the control and the bootstrap.
    """
    fillers = draw_images(others, len(images), rng)
    flipped = runner.predict(intervention.remove(images, fillers)) != class_index
    control = _predict_control(runner, intervention, images, fillers, rng) != class_index
    draws = [draw_images(others, len(images), rng) for _ in range(N_FILLERS)]
    before = probability_of_own_class(runner, images, images.pixels)
    lost = np.clip(lost_probability(runner, intervention, images, draws, before), 0, 1)
    reliance = dict(zip(to_numpy(images.index).tolist(), lost.tolist(), strict=True))
    return RemovalEffect(effects.compare_flips(flipped, control, rng), reliance)


def lost_probability(
    runner: InterventionRunner,
    intervention: Intervention,
    images: ImageBatch,
    fillers: list[ImageBatch],
    before: Floats,
) -> Floats:
    """Share of the probability of its class that each image loses without the cue (n,).

    The probability without the cue is the mean over the fillers. For a cue without a fixed place,
    it is averaged with the probability after inpainting: the content at the same place of other
    images often holds parts of objects.

    Args:
        runner: the model.
        intervention: removes the cue.
        images: n images of a class.
        fillers: batches of n images each, which replace the cue in turn.
        before: (n,) probability of the class in the unchanged images.
    """
    after = np.mean(
        [
            probability_of_own_class(runner, images, intervention.remove(images, each))
            for each in fillers
        ],
        axis=0,
    )
    if intervention.kind == "moving" and intervention.removed_mask is not None:
        inpainted = transfers.inpaint(images.pixels, intervention.removed_mask(images))
        after = (after + probability_of_own_class(runner, images, inpainted)) / 2
    return np.asarray(1 - after / np.maximum(before, np.finfo(np.float32).tiny))


def probability_of_own_class(
    runner: InterventionRunner, images: ImageBatch, changed: Tensor
) -> Floats:
    """Probability (n,) of each image's predicted class in its changed pixels (n, 3, H, W)."""
    return runner.probabilities(changed)[np.arange(len(images)), to_numpy(images.classes)]


def _predict_control(
    runner: InterventionRunner,
    intervention: Intervention,
    images: ImageBatch,
    fillers: ImageBatch,
    rng: Rng,
) -> Ints:
    if intervention.removed_mask is None or not intervention.is_pixel_transplant:
        of_same_class = draw_images(images, len(images), rng)
        return runner.predict(intervention.remove(images, of_same_class))
    moved = masks.move_masks(intervention.removed_mask(images).cpu(), len(images), rng)
    return runner.predict(transfers.paste(images.pixels, fillers.pixels, moved))


def erase_cue(
    intervention: Intervention, sources: ImageBatch, others: ImageBatch, rng: Rng
) -> ImageBatch:
    """Replace all that an intervention could transplant from the sources; their heat stays.

    The replacing content is drawn from `others`, images of other classes.
    """
    fillers = draw_images(others, len(sources), rng)
    return replace(sources, pixels=(intervention.erase or intervention.remove)(sources, fillers))


def draw_pairs(
    recipients: ImageBatch, sources: ImageBatch, n: int, rng: Rng
) -> tuple[ImageBatch, ImageBatch]:
    """Draw n pairs of a recipient and a source; every image is used about equally often."""
    return draw_images(recipients, n, rng), draw_images(sources, n, rng)


def draw_images(images: ImageBatch, n: int, rng: Rng) -> ImageBatch:
    """Draw n images in random order; none is drawn again before all were drawn."""
    return images.select(draw_rows(len(images), n, rng))


def draw_rows(size: int, n: int, rng: Rng) -> Tensor:
    """Draw n of `size` positions, (n,) int64; none is drawn again before all were drawn."""
    rounds = [rng.permutation(size) for _ in range(-(-n // size))]
    return torch.from_numpy(np.concatenate(rounds)[:n])


def draw_of_other_class(recipients: ImageBatch, sources: ImageBatch, rng: Rng) -> ImageBatch:
    """Draw for each recipient a source image of another class than its own, if there is one."""
    allowed = np.not_equal.outer(to_numpy(recipients.classes), to_numpy(sources.classes))
    allowed |= ~allowed.any(axis=1, keepdims=True)
    draws: NDArray[np.float64] = rng.random(allowed.shape) * allowed
    return sources.select(torch.from_numpy(draws.argmax(axis=1)))
