"""Candidates of all classes: screened with one half of a class's images, tried with the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification import image_pool, trial
from pipeline.analysis.verification.class_trial import ClassTrial
from pipeline.analysis.verification.effects import Bools
from pipeline.analysis.verification.image_pool import ImagePool
from pipeline.analysis.verification.intervention_runner import InterventionRunner, Ints, numbers
from pipeline.analysis.verification.interventions import ImageBatch, Intervention
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.analysis.verification.trial import Added
from pipeline.config import AnalysisConfig

Row = dict[str, Any]
Plain = tuple[Ints, Ints, Ints]

OTHER_HALF = -1
"""The class, in a sample, of the half that another is set against."""
MOST_TRIED = 6
"""Candidates of a class that are tried, those with the largest gain on screening."""


class CandidateTester:
    """Puts candidates to the test, class by class; memory holds the pool and one class."""

    def __init__(
        self, bench: InterventionRunner, drawn: ClassSample, limits: AnalysisConfig, seed: int
    ) -> None:
        self.bench, self.drawn, self.limits, self.seed = bench, drawn, limits, seed
        self.pool = ImagePool.draw(bench, drawn, limits.trials, np.random.default_rng(seed))
        self.chance: list[TestedCandidate] = []
        """What discover raised in halves of classes, each set against the other."""
        self._plain: dict[str, Plain] = {}

    def screen(self, class_index: int, rows: list[Row]) -> list[TestedCandidate]:
        """Every candidate of a class, on half as many pictures as a trial takes."""
        rng, own = self._rng(class_index, 0), self._scenes(class_index)
        hosts = image_pool.others(self.pool.screening, class_index)
        if not (len(hosts) and len(own)):
            return []
        self.chance += self._of_halves(rows, own, hosts, class_index)
        return [self._screened(row, own, hosts, class_index, rng) for row in rows]

    def _of_halves(
        self, rows: list[Row], own: ImageBatch, hosts: ImageBatch, class_index: int
    ) -> Iterator[TestedCandidate]:
        """Halves of a class through discover and screening, as if they were two classes."""
        rng = self._rng(class_index, 2)
        drawn = self.drawn.at(np.isin(self.drawn.index, numbers(own.index)))
        for number in (0, 1):
            half, other = image_pool.half(own, number), image_pool.half(own, 1 - number)
            if min(len(half), len(other)) < candidates.LEAST:
                continue
            inside = np.isin(drawn.index, numbers(half.index))
            parted = replace(drawn, classes=np.where(inside, class_index, OTHER_HALF))
            about = (class_index, parted, self.limits.permutations, rng)
            for row in candidates.raised(rows[0]["class_name"], *about):
                pseudo = self._against(row, half, other, hosts, class_index, rng)
                yield TestedCandidate(row, candidates.probe_of(row), 0.0, {number: pseudo})

    def _against(
        self,
        row: Row,
        half: ImageBatch,
        other: ImageBatch,
        hosts: ImageBatch,
        class_index: int,
        rng: np.random.Generator,
    ) -> Added:
        targets, carriers = trial.pairs(hosts, image_pool.donors(half, row), self._few, rng)
        plain = trial.drawn(other, self._few, rng)
        probe = candidates.probe_of(row)
        hit, control = (
            self.bench.transplant(probe, targets, donors) == class_index
            for donors in (carriers, plain)
        )
        return trial.compared(hit, control, targets, rng)

    @property
    def _few(self) -> int:
        """Pictures of a screening."""
        return max(1, self.limits.trials // 2)

    def _screened(
        self,
        row: Row,
        own: ImageBatch,
        hosts: ImageBatch,
        class_index: int,
        rng: np.random.Generator,
    ) -> TestedCandidate:
        probe = candidates.probe_of(row)
        targets = trial.drawn(hosts, self._few, rng)
        turned: list[Bools] = []
        for half in (0, 1):
            donors = image_pool.half(image_pool.donors(own, row), half)
            _, carriers = trial.pairs(targets, donors, len(targets), rng)
            turned.append(self.bench.transplant(probe, targets, carriers) == class_index)
        pseudo = {
            half: trial.compared(turned[half], turned[1 - half], targets, rng) for half in (0, 1)
        }
        gain = float(turned[0].mean()) - self._control(row, probe, class_index)
        return TestedCandidate(row, probe, gain, pseudo)

    def _control(self, row: Row, probe: Intervention, class_index: int) -> float:
        """Share of pictures that turn into the class by what other classes' images have there."""
        if row["probe"] == candidates.REGION or row["probe"] in candidates.IN_PLACE:
            return 0.0  # a place of this class alone; the trial has a control of its own
        if row["probe"] not in self._plain:
            rng = np.random.default_rng(self.seed)
            everyone = self.pool.screening
            hosts, _ = trial.pairs(everyone, everyone, self.limits.trials, rng)
            donors = trial.other_class(hosts, everyone, rng)
            said = self.bench.transplant(probe, hosts, donors)
            self._plain[row["probe"]] = numbers(hosts.classes), numbers(donors.classes), said
        hosts_are, donors_are, said = self._plain[row["probe"]]
        others = (hosts_are != class_index) & (donors_are != class_index)
        return float((said[others] == class_index).mean()) if others.any() else 0.0

    def try_class(self, class_index: int, cases: list[TestedCandidate]) -> list[TestedCandidate]:
        """Trials of those cases of a class that screening speaks for; new ones where it is told
        more precisely where they lie.
        """
        promising = [case for case in cases if case.screened >= self.limits.min_effect / 2]
        promising = sorted(promising, key=lambda case: -case.screened)[:MOST_TRIED]
        if not promising:
            return []
        own, rng = self._scenes(class_index), self._rng(class_index, 1)
        return ClassTrial(self.bench, self.limits, class_index, own, self.pool, rng).run(promising)

    def _scenes(self, class_index: int) -> ImageBatch:
        """The sampled images of a class, as far as they are still predicted so."""
        scenes = self.bench.scenes(self.drawn.index[self.drawn.classes == class_index])
        return scenes.at(scenes.classes == class_index)

    def _rng(self, class_index: int, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, class_index, part))
