"""The images with a confirmed cue, and how far the prediction of each image relies on the cue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import (
    effects,
    illustration,
    intervention_tests,
    interventions,
)
from pipeline.analysis.verification.image_batch import ImageBatch, to_numpy
from pipeline.analysis.verification.intervention_runner import Floats, InterventionRunner
from pipeline.analysis.verification.intervention_tests import Rng
from pipeline.analysis.verification.interventions import Intervention
from pipeline.analysis.verification.localise import grow_box
from pipeline.analysis.verification.tested_candidate import TestedCandidate

N_RECIPIENTS = 8
"""Images that the cue of each image is added to, to decide whether the image has the cue."""
MAX_GROWING_IMAGES = 60
"""Most images on which the loss is measured while a removed box grows."""
MIN_STEP_RATIO = 1.05
"""Smallest ratio of the losses after and before a step by which a removed box grows."""
N_GROWING_FILLERS = 2
"""Fillers of each image while a removed box grows."""


@dataclass
class RelianceMeter:
    """Measures the reliance of a class's images on its cues.

    Attributes:
        runner: the model.
        own: sampled images of the class.
        others: confidently predicted images of other classes.
        class_index: the class.
        rng: random generator of all draws.
    """

    runner: InterventionRunner
    own: ImageBatch
    others: ImageBatch
    class_index: int
    rng: Rng

    def measure(self, tested: TestedCandidate) -> None:
        """Set a candidate's images with the cue, effect of removing it, and illustrations."""
        own, others = self.own, self.others
        sources, fillers = own, others
        if tested.intervention.kind == candidates.BACKGROUND and tested.area == 1:
            # The effect on a single image depends on the exact outline of its object.
            tested.intervention = interventions.outlined_background_transplant()
            (own, sources), (others, fillers) = self._outlined
        rest = (self.class_index, self.rng)
        tested.with_cue = find_images_with_cue(
            self.runner, tested.intervention, sources, fillers, others, *rest
        )
        self._grow_removed_box(tested)
        tested.removing = intervention_tests.test_removing(
            self.runner, tested.intervention, own, fillers, *rest
        )
        shown, shown_sources = (
            illustration.select_with_cue(images, tested.with_cue) for images in (own, sources)
        )
        tested.illustrations = illustration.illustrate(
            self.runner, tested.intervention, shown, others, shown_sources, fillers
        )

    @cached_property
    def _outlined(self) -> list[tuple[ImageBatch, ImageBatch]]:
        """Own and other images with object masks, each with a copy whose objects are erased."""
        outlined = [interventions.add_object_masks(images) for images in (self.own, self.others)]
        return [(images, interventions.erase_objects(images)) for images in outlined]

    def _grow_removed_box(self, tested: TestedCandidate) -> None:
        """Grow the removed box until the images with the cue lose no more probability.

        A cue that varies in position reaches beyond the cells that all images have in common. The
        loss of other classes' images is subtracted, because a larger box also removes parts of
        objects.
        """
        if tested.candidate["kind"] not in candidates.BOXED_KINDS or not tested.with_cue:
            return
        has_cue = torch.isin(self.own.index, self.own.index.new_tensor(tested.with_cue))
        both = [
            _first(images, MAX_GROWING_IMAGES) for images in (self.own.select(has_cue), self.others)
        ]
        fillers = [
            [
                intervention_tests.draw_images(self.others, len(images), self.rng)
                for _ in range(N_GROWING_FILLERS)
            ]
            for images in both
        ]
        before = [
            intervention_tests.probability_of_own_class(self.runner, images, images.pixels)
            for images in both
        ]

        def gain(cells: Cells) -> float:
            removal = interventions.region_transplant("patch", cells, cells)
            lost, control = (
                intervention_tests.lost_probability(self.runner, removal, *arguments).mean()
                for arguments in zip(both, fillers, before, strict=True)
            )
            return float(lost - control)

        extent = grow_box(gain, np.asarray(tested.candidate["cells"], bool), MIN_STEP_RATIO)
        grown = interventions.region_transplant(tested.intervention.kind, extent, extent)
        tested.intervention = replace(
            tested.intervention, remove=grown.remove, removed_mask=grown.removed_mask
        )


def find_images_with_cue(
    runner: InterventionRunner,
    intervention: Intervention,
    sources: ImageBatch,
    others: ImageBatch,
    recipients: ImageBatch,
    class_index: int,
    rng: Rng,
) -> list[int]:
    """Find the images whose transplanted content raises the probability of the class.

    An image has the cue if its content adds more probability than that of images of other classes,
    by the threshold of `effects.separating_threshold`.

    Args:
        runner: the model.
        intervention: transplants the cue.
        sources: images of the class.
        others: images of other classes, sources of the null distribution.
        recipients: images of other classes.
        class_index: the class.
        rng: random generator of the pairs of images.

    Returns:
        Positions in the plan of the sources with the cue, ascending.
    """
    rest = (runner, intervention, recipients, class_index, rng)
    added, null = _added_probability(sources, *rest), _added_probability(others, *rest)
    has_cue = added > effects.separating_threshold(added, null)
    return sorted(to_numpy(sources.index)[has_cue].tolist())


def _added_probability(
    sources: ImageBatch,
    runner: InterventionRunner,
    intervention: Intervention,
    recipients: ImageBatch,
    class_index: int,
    rng: Rng,
) -> Floats:
    """Mean probability (n,) of the class that each source adds to N_RECIPIENTS recipients."""
    before = runner.probabilities(recipients.pixels)[:, class_index]
    added = np.zeros(len(sources), np.float32)
    for _ in range(N_RECIPIENTS):
        rows = intervention_tests.draw_rows(len(recipients), len(sources), rng)
        changed = intervention.transplant(recipients.select(rows), sources)
        after = runner.probabilities(changed)[:, class_index]
        added += (after - before[rows.numpy()]) / N_RECIPIENTS
    return added


def _first(images: ImageBatch, n: int) -> ImageBatch:
    return images.select(torch.arange(min(n, len(images))))
