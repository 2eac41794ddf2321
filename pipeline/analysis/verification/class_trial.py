"""The trial of a class: what screening speaks for, tried, told apart, and told precisely."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import image_pool, interventions, trial
from pipeline.analysis.verification.image_pool import ImagePool
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.interventions import ImageBatch, Intervention
from pipeline.analysis.verification.localise import KEPT, localise, shrunk
from pipeline.analysis.verification.reliance import Reliance
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.analysis.verification.trial import Added
from pipeline.config import AnalysisConfig

PRECISE = 0.7
"""Share of the largest gain of a class at which a smaller region is the better description."""
SAME = 0.5
"""A candidate that loses more than this share of its gain without another is the same cue."""
MOST_AREA = 0.5
"""Share of the picture that a place may take to be one."""


@dataclass
class ClassTrial:
    """Everything the trial of a class needs: its images, and those of other classes.

    own are its sampled images; one half of them, and pool.screening, choose; the other half, and
    pool.trial, decide.
    """

    bench: InterventionRunner
    limits: AnalysisConfig
    class_index: int
    own: ImageBatch
    pool: ImagePool
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.screening = image_pool.others(self.pool.screening, self.class_index)
        self.hosts = image_pool.others(self.pool.trial, self.class_index)
        about = (self.own, self.hosts, self.class_index, self.rng)
        self.reliance = Reliance(self.bench, *about)

    def run(self, cases: list[TestedCandidate]) -> list[TestedCandidate]:
        """The cases with what their trial showed, and those found on the way."""
        for case in cases:
            self._try(case)
        cases = [*cases, *self._localised(cases)]
        for case in self._distinct([case for case in cases if self._stands(case)]):
            self._shrink(case)
            self._trace(case, cases)
            self.reliance.examine(case)
        return cases

    def _try(self, case: TestedCandidate) -> None:
        donors = self._donors(case, 1)
        case.added = self._added(case.probe, donors, self.limits.trials)

    def _added(self, probe: Intervention, donors: ImageBatch, n: int) -> Added:
        return trial.add(self.bench, probe, donors, self.hosts, self.class_index, n, self.rng)

    def _donors(self, case: TestedCandidate, which: int) -> ImageBatch:
        return image_pool.half(image_pool.donors(self.own, case.candidate), which)

    def _stands(self, case: TestedCandidate) -> bool:
        return (
            case.added is not None
            and case.clears(self.limits.min_effect)
            and case.added.effect.p_value < self.limits.fdr
        )

    def _localised(self, cases: list[TestedCandidate]) -> Iterator[TestedCandidate]:
        """The place of a cue in the background, where no region that was tried holds it."""
        standing = [case for case in cases if self._stands(case)]
        behind = [c for c in standing if c.candidate["probe"] == candidates.BACKGROUND]
        held = max((c.gain for c in standing if c.candidate["cells"] is not None), default=0.0)
        if not behind or held >= PRECISE * max(case.gain for case in behind):
            return
        best = max(behind, key=lambda case: case.gain)
        n = 4 * self.limits.trials
        donors = self._donors(best, 0)
        cells = localise(self.bench, donors, self.screening, self.class_index, n, self.rng)
        if cells is None or cells.mean() > MOST_AREA:
            return
        place = candidates.in_place(cells, candidates.BACKGROUND)
        row = {**best.candidate, **place, "raised_by": "windows that turn pictures"}
        row["candidate_id"] = candidates.identity(row)
        case = TestedCandidate(row, candidates.probe_of(row), best.screened, {}, best.hurdle)
        self._try(case)
        yield case

    def _shrink(self, case: TestedCandidate) -> None:
        """Cut a place back to what the effect needs, and try that; else it stays as it is.

        While a place is cut, what is cut off comes from other classes' images: what it covers of
        the picture's own object must not count for the cue.
        """
        if case.candidate["kind"] not in candidates.PLACES:
            return
        start = np.asarray(case.candidate["cells"], bool)
        n = max(1, self.limits.trials // 2)
        targets, carriers = trial.pairs(self.screening, self._donors(case, 0), n, self.rng)
        plain = trial.other_class(targets, self.screening, self.rng)
        covered = interventions.fixed("region", start).transplant(targets, plain)
        targets = replace(targets, pictures=covered)

        def gain(cells: Cells) -> float:
            said = self.bench.transplant(interventions.fixed("patch", cells), targets, carriers)
            return float((said == self.class_index).mean())

        whole = gain(start)
        for kept in KEPT:
            cells = shrunk(gain, start, kept * whole)
            row = {**case.candidate, **candidates.in_place(cells, case.candidate["probe"])}
            smaller = replace(case, candidate=row, probe=candidates.probe_of(row))
            self._try(smaller)
            if self._stands_for(smaller, case) and smaller.gain >= PRECISE * case.gain:
                case.candidate, case.probe, case.added = row, smaller.probe, smaller.added
                return

    def _stands_for(self, one: TestedCandidate, other: TestedCandidate) -> bool:
        """Whether one case is as much of a finding as another."""
        least = self.limits.min_effect
        return self._stands(one) and one.is_wide(least) >= other.is_wide(least)

    def _trace(self, case: TestedCandidate, cases: list[TestedCandidate]) -> None:
        """Tell a background by what moves in it, where it does little without that."""
        if case.candidate["probe"] != candidates.BACKGROUND or case.area < 1:
            return
        for other in cases:
            works = other.gain >= self.limits.min_effect and other.probe.kind == "moving"
            if works and self._does_little_without(other, case):
                case.candidate = {**case.candidate, "kind": "moving"}
                case.probe = replace(other.probe, transplant=case.probe.transplant)
                return

    def _distinct(self, cases: list[TestedCandidate]) -> list[TestedCandidate]:
        """Those that are cues of their own; the others are told which they are the same as."""
        explains = {
            (id(cause), id(case)): self._explains(cause, case)
            for cause, case in itertools.permutations(cases, 2)
        }
        kept, left = [], list(cases)
        while left:
            best = min(left, key=_preference(left, explains))
            kept.append(best)
            left.remove(best)
            for case in [case for case in left if explains[id(best), id(case)]]:
                case.same_as = best
                left.remove(case)
        return kept

    def _explains(self, cause: TestedCandidate, case: TestedCandidate) -> bool:
        """Whether a case does little once its donors are rid of the cause, or shares its place."""
        if not self._stands_for(cause, case):
            return False
        scattered = case.candidate["cells"] is None and cause.candidate["cells"] is None
        if scattered and case.probe.kind == cause.probe.kind:
            return True  # two groups, or two sizes of the window
        if cause.gain < SAME * case.gain:
            return False  # it may be a part of the cue, but does not tell it
        donors = self._donors(case, 1)
        if _shared_place(case.probe, cause.probe, donors) > SAME:
            return True
        return self._does_little_without(cause, case)

    def _does_little_without(self, cause: TestedCandidate, case: TestedCandidate) -> bool:
        donors = self._donors(case, 1)
        cleaned = trial.without(cause.probe, donors, self.hosts, self.rng)
        left = self._added(case.probe, cleaned, max(1, self.limits.trials // 2))
        return left.effect.gain < (1 - SAME) * case.gain


def _preference(cases: list[TestedCandidate], explains: dict[tuple[int, int], bool]) -> Any:
    """Sorts the case that explains most others first; then the smallest place, then by gain.

    A background that is no more than one of the others says least about what to look for.
    """
    most = max((case.gain for case in cases), default=0.0)

    def key(case: TestedCandidate) -> tuple[int, bool, float, bool, float]:
        explained = sum(explains[id(case), id(other)] for other in cases if other is not case)
        precise = case.area < 1 and case.gain >= PRECISE * most
        vague = case.probe.kind == "background" and case.area == 1
        return -explained, not precise, case.area if precise else 0.0, vague, -case.gain

    return key


def _shared_place(one: Intervention, other: Intervention, donors: ImageBatch) -> float:
    """How far a place and what moves are the same in the donors: overlap over the smaller area."""
    if one.where is None or other.where is None:
        return 0.0
    masks = [
        where(donors).expand(len(donors), 1, *donors.size) for where in (one.where, other.where)
    ]
    areas = torch.stack([mask.sum(dim=(1, 2, 3)) for mask in masks]).amin(dim=0)
    shared = (masks[0] & masks[1]).sum(dim=(1, 2, 3)) / areas.clamp_min(1)
    return float(shared.mean())
