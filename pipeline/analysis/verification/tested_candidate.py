"""A candidate with the results of its screening and its test, and its decision threshold."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.analysis.verification import effects, intervention_tests
from pipeline.analysis.verification.illustration import Illustration
from pipeline.analysis.verification.intervention_tests import AddingEffect, RemovalEffect
from pipeline.analysis.verification.interventions import Intervention
from pipeline.storage.schema import Row


@dataclass(eq=False)
class TestedCandidate:
    """A candidate and what the interventions on it showed.

    Attributes:
        candidate: row of CANDIDATES; localisation and shrinking replace the region in it.
        intervention: the intervention that tests the candidate.
        screening_gain: gain of adding the cue in the screening.
        null_effects: by half of the class's images (0 or 1), the effect of that half against the
            other half as control; a null distribution, as both halves are of the same class.
        decision_threshold: gain that the test must reach, from the other classes' screening gains.
        adding: effect of adding the cue in the test; None if the candidate was only screened.
        removing: effect of removing the cue, and the reliance of the images.
        with_cue: positions in the plan of the images with the cue, ascending.
        same_as: the candidate that describes the same cue better; None if there is none.
        illustrations: a few of the interventions, to be shown in the report.
    """

    candidate: Row
    intervention: Intervention
    screening_gain: float
    null_effects: dict[int, AddingEffect]
    decision_threshold: float = 0.0
    adding: AddingEffect | None = None
    removing: RemovalEffect = intervention_tests.NOT_REMOVED
    with_cue: list[int] = field(default_factory=list)
    same_as: TestedCandidate | None = None
    illustrations: list[Illustration] = field(default_factory=list)

    @property
    def category(self) -> tuple[str, bool]:
        """Name of the intervention, and whether the candidate names its sources.

        The screening gains of candidates of one category are compared between classes.
        """
        return self.candidate["probe"], self.candidate["donor_index"] is not None

    @property
    def gain(self) -> float:
        """Gain of adding the cue in the test, in [-1, 1]; 0 if the candidate was not tested."""
        return self.adding.effect.gain if self.adding else 0.0

    @property
    def area(self) -> float:
        """Share of the image that the candidate's region covers; 1 without a region."""
        cells = self.candidate["cells"]
        return 1.0 if cells is None else float(np.mean(cells))

    @property
    def transplanted_share(self) -> float:
        """Share of the image's pixels that is transplanted; 0 if it varies or if none is."""
        is_fixed = self.area < 1 and self.intervention.is_pixel_transplant
        return self.area if is_fixed else 0.0

    def passes(self, min_effect: float) -> bool:
        """Whether the gain reaches `min_effect` and the decision threshold.

        The lower bound of the gain's confidence interval must also reach the transplanted share of
        the image: if only objects counted, a transplant of a share of the image would flip no
        larger share of the images, and a cue is small compared with its effect.
        """
        if self.adding is None or self.gain < max(min_effect, self.decision_threshold):
            return False
        return self.adding.effect.ci_low >= self.transplanted_share

    def is_general(self, min_effect: float) -> bool:
        """Whether the median gain over the recipients' classes reaches half of `min_effect`."""
        return self.adding is not None and self.adding.median_gain >= min_effect / 2


def set_decision_thresholds(tested: list[TestedCandidate], min_effect: float) -> None:
    """Set the decision threshold of every candidate.

    The threshold comes from the largest screening gain, in the same category, of each other class
    (`effects.decision_threshold`).

    Args:
        tested: all screened candidates of a run.
        min_effect: smallest gain of interest (analysis.min_effect).
    """
    by_category: dict[tuple[str, bool], list[TestedCandidate]] = {}
    for each in tested:
        by_category.setdefault(each.category, []).append(each)
    for alike in by_category.values():
        best: dict[int, float] = {}
        for each in alike:
            own = each.candidate["class_index"]
            best[own] = max(best.get(own, -1.0), each.screening_gain)
        for each in alike:
            own = each.candidate["class_index"]
            others = np.array([gain for label, gain in best.items() if label != own])
            each.decision_threshold = effects.decision_threshold(others, min_effect)
