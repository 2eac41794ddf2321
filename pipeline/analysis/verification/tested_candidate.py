"""A candidate under examination, and what other classes say a gain must exceed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.analysis.verification import effects, trial
from pipeline.analysis.verification.illustration import Illustration
from pipeline.analysis.verification.interventions import Intervention
from pipeline.analysis.verification.trial import Added, Removed

Row = dict[str, Any]


@dataclass(eq=False)
class TestedCandidate:
    """A candidate, and what was found out about it.

    screened is the gain on screening, pseudo what a half of the class, 0 or 1, does against the
    other, added and removed the trial; wearers are the plan positions of the images that carry the
    cue; same_as is the case that is the same cue, told more precisely; illustrations show a few of
    the interventions.
    """

    candidate: Row
    probe: Intervention
    screened: float
    pseudo: dict[int, Added]
    hurdle: float = 0.0
    added: Added | None = None
    removed: Removed = trial.NOT_REMOVED
    wearers: list[int] = field(default_factory=list)
    same_as: TestedCandidate | None = None
    illustrations: list[Illustration] = field(default_factory=list)

    @property
    def category(self) -> tuple[str, bool]:
        """Cases of one category are compared between classes."""
        return self.candidate["probe"], self.candidate["donor_index"] is not None

    @property
    def gain(self) -> float:
        """The gain on trial, 0 where there was none."""
        return self.added.effect.gain if self.added else 0.0

    def clears(self, least: float) -> bool:
        """Whether the trial's gain reaches `least` and the hurdle, and surely the share pasted.

        A cue is small against its effect: pictures of which a share comes from the class should
        turn into it no more often than that, if only objects counted.
        """
        if self.added is None or self.gain < max(least, self.hurdle):
            return False
        return self.added.effect.low >= self.pasted

    def is_wide(self, least: float) -> bool:
        """Whether the gain holds in the typical target class, too."""
        return self.added is not None and self.added.typical >= least / 2

    @property
    def pasted(self) -> float:
        """Share of a picture that comes from another, 0 where it varies or is statistics alone."""
        return self.area if self.area < 1 and self.probe.pixels else 0.0

    @property
    def area(self) -> float:
        """Share of the picture that the candidate names, 1 where it has no place."""
        cells = self.candidate["cells"]
        return 1.0 if cells is None else float(np.mean(cells))


def set_hurdles(cases: list[TestedCandidate], least: float) -> None:
    """What each case must exceed, from what its category did for other classes on screening."""
    by_category: dict[tuple[str, bool], list[TestedCandidate]] = {}
    for case in cases:
        by_category.setdefault(case.category, []).append(case)
    for alike in by_category.values():
        best: dict[int, float] = {}
        for case in alike:
            own = case.candidate["class_index"]
            best[own] = max(best.get(own, -1.0), case.screened)
        for case in alike:
            others = [gain for own, gain in best.items() if own != case.candidate["class_index"]]
            case.hurdle = effects.hurdle(np.array(others), least)
