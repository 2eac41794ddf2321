"""Tests of a class's candidates: every intervention is screened, and tested where it had an effect.

Screening and test use different source images and different recipients, so that a test does not
repeat the chance that selected its intervention.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.interventions.catalogue import (
    INTERVENTIONS,
    SAME_PLACE,
    STATISTICS,
    Intervention,
)
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.verification import trials
from pipeline.analysis.verification.effects import Effect
from pipeline.analysis.verification.image_pool import SCREENING, TEST, ImagePool, Sources
from pipeline.config import AnalysisConfig
from pipeline.storage.schema import Row

N_SCREENING = 16
"""Recipients of each intervention in the screening."""
MIN_SCREENED_GAIN = 0.1
"""Gain in flips, or in probability, from which an intervention is tested."""
FUTILE_GAIN = 0.03
"""The same after half of the recipients, below which the screening ends."""
FIRST_SHARE = 1 / 3
"""Share of the trials after which a test ends if its gain is below half of min_effect."""


@dataclass(eq=False)
class TestedCandidate:
    """A candidate and what the interventions showed.

    Attributes:
        candidate: row of CANDIDATES.
        key: seeds of its random generators: the class, the position among the class's candidates,
            and the number of a random division.
        screened: gain in flips of each intervention in the screening.
        effects: effect of each tested intervention.
        reason: why the candidate is not claimed; empty where that is decided by the effects.
    """

    candidate: Row
    key: tuple[int, ...]
    screened: dict[str, float] = field(default_factory=dict)
    effects: dict[str, Effect] = field(default_factory=dict)
    reason: str = ""

    @property
    def class_index(self) -> int:
        """The class."""
        return int(self.candidate["class_index"])


@dataclass
class CandidateTester:
    """Tests candidates.

    Attributes:
        model: the audited model.
        pool: recipients of all classes.
        limits: the analysis settings.
        seed: seed of all draws.
    """

    model: AuditedModel
    pool: ImagePool
    limits: AnalysisConfig
    seed: int

    def test(
        self, tested: TestedCandidate, load: Callable[[int], Sources | None], names: Iterable[str]
    ) -> TestedCandidate:
        """Screen interventions on a candidate, and test the promising ones.

        Args:
            tested: the candidate, which is completed in place.
            load: loads its source images of the half SCREENING or TEST; None if they are too few.
            names: of the interventions.
        """
        rng = np.random.default_rng((self.seed, *tested.key))
        sources = load(SCREENING)
        if sources is None:
            tested.reason = "too few images with or without the cue"
            return tested
        promising = self._screen(tested, sources, names, rng)
        if not promising:
            tested.reason = "no intervention had an effect in the screening"
            return tested
        sources = load(TEST) or sources
        for name in promising:
            tested.effects[name] = self.measure(tested, sources, INTERVENTIONS[name], rng)
        return tested

    def measure(
        self,
        tested: TestedCandidate,
        sources: Sources,
        intervention: Intervention,
        rng: np.random.Generator,
        recipients: Scenes | None = None,
    ) -> Effect:
        """Measure the effect of an intervention on the test half of the images.

        A statistic of the whole picture is also taken from images of other classes: a statistic of
        mere backgrounds may hide the recipient's object. Of the two effects the smaller one counts.

        Args:
            tested: the candidate.
            sources: its source images.
            intervention: the intervention.
            rng: random generator of the draws.
            recipients: by default the test recipients of all other classes.
        """
        if recipients is None:
            recipients = self.pool.of_other_classes(tested.class_index, TEST)
        effect = self._compare(tested, sources, intervention, rng, recipients)
        if intervention.name not in STATISTICS or effect.gain < self.limits.min_effect:
            return effect
        elsewhere = Sources(sources.with_cue, recipients)
        other = self._compare(tested, elsewhere, intervention, rng, recipients)
        return min(effect, other, key=lambda each: each.gain)

    def _compare(
        self,
        tested: TestedCandidate,
        sources: Sources,
        intervention: Intervention,
        rng: np.random.Generator,
        recipients: Scenes,
    ) -> Effect:
        """Compare the sources; stop early if a first share of the recipients shows no effect."""
        n = self.limits.trials
        first = max(1, round(FIRST_SHARE * n))
        arguments = (self.model, intervention, recipients, sources, tested.class_index)
        begun = trials.run_trial(*arguments, first, rng)
        if begun.gain < self.limits.min_effect / 2:
            return begun.effect(rng)
        rest = trials.run_trial(*arguments, max(1, n - first), rng)
        return trials.join(begun, rest).effect(rng)

    def _screen(
        self,
        tested: TestedCandidate,
        sources: Sources,
        names: Iterable[str],
        rng: np.random.Generator,
    ) -> list[str]:
        """The interventions with an effect on a few recipients."""
        recipients = self.pool.of_other_classes(tested.class_index, SCREENING)
        if not len(recipients):
            return []
        promising = []
        for name in names:
            arguments = (self.model, INTERVENTIONS[name], recipients, sources, tested.class_index)
            trial = trials.run_trial(*arguments, N_SCREENING // 2, rng)
            if trial.promise >= FUTILE_GAIN:
                trial = trials.join(trial, trials.run_trial(*arguments, N_SCREENING // 2, rng))
            tested.screened[name] = trial.gain
            if trial.promise >= MIN_SCREENED_GAIN:
                promising.append(name)
        if "region" in promising:  # the background corroborates it, the part tells if it is local
            promising += [n for n in SAME_PLACE if n in tested.screened and n not in promising]
        return promising
