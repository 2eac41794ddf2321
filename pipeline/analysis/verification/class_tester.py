"""Tests of one class's promising candidates: test, merge duplicates, localise, measure reliance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import image_pool, intervention_tests, interventions
from pipeline.analysis.verification.image_batch import ImageBatch
from pipeline.analysis.verification.image_pool import ImagePool
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.intervention_tests import AddingEffect
from pipeline.analysis.verification.interventions import Intervention
from pipeline.analysis.verification.localise import KEPT_GAINS, localise_cue, shrink_box
from pipeline.analysis.verification.reliance import RelianceMeter
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.config import AnalysisConfig

MIN_GAIN_RATIO = 0.7
"""Share of a larger region's gain from which a smaller region is the better description."""
SAME_CUE = 0.5
"""Share of a candidate's gain, or area, above which its loss without another candidate, or its
overlap with the other, shows that both are the same cue."""
MAX_LOCALISED_AREA = 0.5
"""Largest share of the image that counts as a localised cue."""


@dataclass
class ClassTester:
    """Tests candidates of one class.

    One half of the class's images and pool.screening serve to choose and to localise; the other
    half and pool.test decide.

    Attributes:
        runner: the model.
        limits: the analysis settings.
        class_index: the class.
        own: sampled images of the class.
        pool: confidently predicted images of all classes.
        rng: random generator of all draws.
    """

    runner: InterventionRunner
    limits: AnalysisConfig
    class_index: int
    own: ImageBatch
    pool: ImagePool
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.screening = image_pool.of_other_classes(self.pool.screening, self.class_index)
        self.recipients = image_pool.of_other_classes(self.pool.test, self.class_index)
        self.reliance = RelianceMeter(
            self.runner, self.own, self.recipients, self.class_index, self.rng
        )

    def run(self, promising: list[TestedCandidate]) -> list[TestedCandidate]:
        """Test candidates, and return them with those that were found by localisation."""
        for tested in promising:
            self._test(tested)
        everything = [*promising, *self._localise(promising)]
        significant = [each for each in everything if self._is_significant(each)]
        for tested in self._merge_duplicates(significant):
            self._shrink(tested)
            self._attribute_to_window(tested, everything)
            self.reliance.measure(tested)
        return everything

    def _test(self, tested: TestedCandidate) -> None:
        sources = self._sources(tested, 1)
        tested.adding = self._add(tested.intervention, sources, self.limits.trials)

    def _add(self, intervention: Intervention, sources: ImageBatch, n: int) -> AddingEffect:
        return intervention_tests.test_adding(
            self.runner, intervention, sources, self.recipients, self.class_index, n, self.rng
        )

    def _sources(self, tested: TestedCandidate, half: int) -> ImageBatch:
        sources = image_pool.select_sources(self.own, tested.candidate)
        return image_pool.select_half(sources, half)

    def _is_significant(self, tested: TestedCandidate) -> bool:
        return (
            tested.adding is not None
            and tested.passes(self.limits.min_effect)
            and tested.adding.effect.p_value < self.limits.fdr
        )

    def _localise(self, promising: list[TestedCandidate]) -> Iterator[TestedCandidate]:
        """Localise a cue of the background, if no tested region has most of its gain."""
        significant = [each for each in promising if self._is_significant(each)]
        background = [c for c in significant if c.candidate["probe"] == candidates.BACKGROUND]
        regional = [c.gain for c in significant if c.candidate["cells"] is not None]
        highest = max((each.gain for each in background), default=0.0)
        if not background or max(regional, default=0.0) >= MIN_GAIN_RATIO * highest:
            return
        best = max(background, key=lambda each: each.gain)
        n = 4 * self.limits.trials
        sources = self._sources(best, 0)
        cells = localise_cue(self.runner, sources, self.screening, self.class_index, n, self.rng)
        if cells is None or cells.mean() > MAX_LOCALISED_AREA:
            return
        place = candidates.place_columns(cells, candidates.BACKGROUND)
        row = {**best.candidate, **place, "raised_by": "windows that flip predictions"}
        row["candidate_id"] = candidates.candidate_id(row)
        intervention = interventions.intervention_of(row)
        tested = TestedCandidate(
            row, intervention, best.screening_gain, {}, best.decision_threshold
        )
        self._test(tested)
        yield tested

    def _shrink(self, tested: TestedCandidate) -> None:
        """Shrink a box to what the effect needs, if the smaller box passes its own test.

        While the box is shrunk, the cells outside it come from images of other classes. Otherwise
        the part of the recipient's own object that the box covers would count for the cue.
        """
        if tested.candidate["kind"] not in candidates.BOXED_KINDS:
            return
        start = np.asarray(tested.candidate["cells"], bool)
        gain = self._gain_inside(start, self._sources(tested, 0))
        whole = gain(start)
        for kept in KEPT_GAINS:
            cells = shrink_box(gain, start, kept * whole)
            place = candidates.place_columns(cells, tested.candidate["probe"])
            row = {**tested.candidate, **place}
            smaller = replace(
                tested, candidate=row, intervention=interventions.intervention_of(row)
            )
            self._test(smaller)
            is_sufficient = smaller.gain >= MIN_GAIN_RATIO * tested.gain
            if self._is_as_strong(smaller, tested) and is_sufficient:
                tested.candidate, tested.adding = row, smaller.adding
                tested.intervention = smaller.intervention
                return

    def _gain_inside(self, start: Cells, sources: ImageBatch) -> Callable[[Cells], float]:
        """Function from a part of the region `start` to the flip rate of its transplant."""
        n = max(1, self.limits.trials // 2)
        targets, with_cue = intervention_tests.draw_pairs(self.screening, sources, n, self.rng)
        others = intervention_tests.draw_of_other_class(targets, self.screening, self.rng)
        covered = interventions.region_transplant("region", start).transplant(targets, others)
        recipients = replace(targets, pixels=covered)

        def gain(cells: Cells) -> float:
            part = interventions.region_transplant("patch", cells)
            predicted = self.runner.predict_transplant(part, recipients, with_cue)
            return float((predicted == self.class_index).mean())

        return gain

    def _is_as_strong(self, one: TestedCandidate, other: TestedCandidate) -> bool:
        """Whether one candidate is significant, and general if the other candidate is."""
        least = self.limits.min_effect
        return self._is_significant(one) and one.is_general(least) >= other.is_general(least)

    def _attribute_to_window(
        self, tested: TestedCandidate, everything: list[TestedCandidate]
    ) -> None:
        """Describe a background by the moving window in it, if it has little effect without it."""
        if tested.candidate["probe"] != candidates.BACKGROUND or tested.area < 1:
            return
        for other in everything:
            has_effect = other.gain >= self.limits.min_effect
            is_window = has_effect and other.intervention.kind == "moving"
            if is_window and self._has_little_effect_without(other, tested):
                tested.candidate = {**tested.candidate, "kind": "moving"}
                tested.intervention = replace(
                    other.intervention, transplant=tested.intervention.transplant
                )
                return

    def _merge_duplicates(self, significant: list[TestedCandidate]) -> list[TestedCandidate]:
        """Return one candidate for each cue; `same_as` of the others is set to that candidate."""
        explains = {
            (id(cause), id(tested)): self._explains(cause, tested)
            for cause, tested in itertools.permutations(significant, 2)
        }
        kept, remaining = [], list(significant)
        while remaining:
            best = min(remaining, key=_preference(remaining, explains))
            kept.append(best)
            remaining.remove(best)
            for tested in [each for each in remaining if explains[id(best), id(each)]]:
                tested.same_as = best
                remaining.remove(tested)
        return kept

    def _explains(self, cause: TestedCandidate, tested: TestedCandidate) -> bool:
        """Whether a candidate shares its place with the cause, or has little effect without it."""
        if not self._is_as_strong(cause, tested):
            return False
        without_region = tested.candidate["cells"] is None and cause.candidate["cells"] is None
        if without_region and tested.intervention.kind == cause.intervention.kind:
            return True  # two groups of images, or two sizes of the window
        if cause.gain < SAME_CUE * tested.gain:
            return False  # the cause may be a part of the cue, but does not describe it
        sources = self._sources(tested, 1)
        if _shared_area(tested.intervention, cause.intervention, sources) > SAME_CUE:
            return True
        return self._has_little_effect_without(cause, tested)

    def _has_little_effect_without(self, cause: TestedCandidate, tested: TestedCandidate) -> bool:
        sources = self._sources(tested, 1)
        erased = intervention_tests.erase_cue(
            cause.intervention, sources, self.recipients, self.rng
        )
        remaining = self._add(tested.intervention, erased, max(1, self.limits.trials // 2))
        return remaining.effect.gain < (1 - SAME_CUE) * tested.gain


Preference = tuple[int, bool, float, bool, float]


def _preference(
    remaining: list[TestedCandidate], explains: dict[tuple[int, int], bool]
) -> Callable[[TestedCandidate], Preference]:
    """Sort key: the candidate that explains most others, then the smallest region, then the gain.

    A whole background that explains no more than another candidate comes last, because it
    describes the cue least.
    """
    most = max((each.gain for each in remaining), default=0.0)

    def key(tested: TestedCandidate) -> Preference:
        n_explained = sum(
            explains[id(tested), id(other)] for other in remaining if other is not tested
        )
        is_precise = tested.area < 1 and tested.gain >= MIN_GAIN_RATIO * most
        is_vague = tested.intervention.kind == "background" and tested.area == 1
        area = tested.area if is_precise else 0.0
        return -n_explained, not is_precise, area, is_vague, -tested.gain

    return key


def _shared_area(one: Intervention, other: Intervention, sources: ImageBatch) -> float:
    """Overlap of the masks of two interventions over the smaller mask, mean over the sources."""
    if one.removed_mask is None or other.removed_mask is None:
        return 0.0
    masks = [
        removed_mask(sources).expand(len(sources), 1, *sources.size)
        for removed_mask in (one.removed_mask, other.removed_mask)
    ]
    areas = torch.stack([mask.sum(dim=(1, 2, 3)) for mask in masks]).amin(dim=0)
    shared = (masks[0] & masks[1]).sum(dim=(1, 2, 3)) / areas.clamp_min(1)
    return float(shared.mean())
