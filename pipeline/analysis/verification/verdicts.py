"""The verdict on a tested candidate: what its interventions prove."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from pipeline.analysis.interventions.catalogue import INTERVENTIONS, PLACE, STATISTICS
from pipeline.analysis.shortcuts.candidate_rows import COMMON, CONTEXT, STYLE
from pipeline.analysis.verification.candidate_tests import TestedCandidate
from pipeline.analysis.verification.effects import Effect
from pipeline.config import AnalysisConfig
from pipeline.storage.values import Verdict

PROPERTY_FACTOR = 1.5
"""How much larger than min_effect the gain of an intervention on the object must be."""
SURELY = 0.75
"""Share of the least gain that the lower bound of its confidence interval must reach. With few
images without the cue, the interval is wide: these may be odd images, rather than normal ones that
lack the cue."""
MUCH_STRONGER = 2.0
"""Ratio of the gains from which the part on the object describes the cue, not what is beside it."""
ENOUGH, ENOUGH_LIGHTING = 0.8, 0.6
"""Share of the largest gain from which a statistic of the whole picture describes the cue; and for
the layout of light, a polynomial that carries no other content of a background."""
MUCH = 0.4
"""Share of the gain of the part from which the object's colour describes the cue: the part brings
the object's pattern and outline, too."""
CORROBORATED = 0.4
"""Share of the gain of a region that the background, which contains it, must have."""
WHOLE_PICTURE = {*STATISTICS, "background", "object colour"}
"""Interventions that name one cue of a class at most."""
LOCAL = 0.7
"""Share of the gain of what contains it from which a region, or a place, describes the cue."""
MAX_DISTURBED = 0.2
"""Share of the recipients whose prediction the content of images without the cue may change at a
place. Where it changes more, objects stand at that place."""


@dataclass(frozen=True)
class Decision:
    """A tested candidate with its verdict.

    Attributes:
        tested: the candidate.
        verdict: None if nothing is claimed.
        intervention: name of the intervention that describes the cue best; "" without a test.
        q_values: Benjamini-Hochberg q-values of all interventions by name.
        reason: why nothing is claimed; empty with a verdict.
        in_place: name of the best intervention on a region or the background that passed, too; ""
            if none did.
        is_local: whether a small part has most of the effect, so that the cue has a place.
    """

    tested: TestedCandidate
    verdict: Verdict | None = None
    intervention: str = ""
    q_values: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    in_place: str = ""
    is_local: bool = False

    @property
    def effect(self) -> Effect | None:
        """Effect of the best intervention; None where none was tested."""
        return self.tested.effects.get(self.intervention)

    @property
    def q_value(self) -> float:
        """q-value of the best intervention; 1 where none was tested."""
        return self.q_values.get(self.intervention, 1.0)

    @property
    def gain(self) -> float:
        """Gain of the best intervention; 0 where none was tested."""
        return self.effect.gain if self.effect else 0.0


def decide_all(tested: list[TestedCandidate], limits: AnalysisConfig) -> list[Decision]:
    """Decide on all candidates of a run.

    The q-values are those of Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B
    1995, over all interventions on all candidates; one that was screened only counts with p = 1.
    """
    keys = [(each, name) for each in tested for name in each.screened]
    p_values = [each.effects[name].p_value if name in each.effects else 1.0 for each, name in keys]
    q_values = stats.false_discovery_control(p_values) if keys else np.array([])
    by_candidate: dict[int, dict[str, float]] = {}
    for (each, name), q_value in zip(keys, q_values, strict=True):
        by_candidate.setdefault(id(each), {})[name] = float(q_value)
    return [decide(each, by_candidate.get(id(each), {}), limits) for each in tested]


def merge_same(decisions: list[Decision]) -> list[Decision]:
    """Claim only the first of a class's decisions that name the same cue.

    Groups of images divide a statistic of the whole picture, or a background, differently. What all
    images of a class have contains every other cue of the class, and a mark changes the statistics
    of the whole picture, too.
    """
    claimed: dict[int, set[str]] = {}
    kept = []
    for each in decisions:
        names = claimed.setdefault(each.tested.class_index, set())
        is_whole_class = each.tested.candidate["kind"] in (STYLE, COMMON, CONTEXT)
        is_same = is_whole_class or each.intervention in WHOLE_PICTURE & names
        decision = each
        if each.verdict and names and is_same:
            reason = "another finding of the class names the same cue"
            decision = replace(each, verdict=None, reason=reason)
        elif each.verdict:
            names.add(each.intervention)
        kept.append(decision)
    return kept


def decide(tested: TestedCandidate, q_values: dict[str, float], limits: AnalysisConfig) -> Decision:
    """Decide on a candidate.

    Args:
        tested: the candidate.
        q_values: of its interventions.
        limits: the analysis settings. A shortcut is confirmed by an intervention that leaves the
            object out, whose gain reaches min_effect with a q-value below fdr, and in the median
            over the recipients' classes half of it. A property of the object needs PROPERTY_FACTOR
            times min_effect.
    """
    best = max(tested.effects, key=lambda name: tested.effects[name].gain, default="")
    if not best:
        return Decision(tested, reason=tested.reason)
    passed = [
        name
        for name, effect in tested.effects.items()
        if _passes(name, effect, q_values[name], limits)
    ]
    why = _why_not(best, tested.effects[best], limits)
    if "region" in passed and not _is_corroborated(tested, passed):
        passed.remove("region")
        why = "only the region has a sure effect, not the background that contains it"
    if not passed:
        return Decision(tested, intervention=best, q_values=q_values, reason=why)
    chosen = _describe_best(tested, passed, limits.min_effect)
    effect = tested.effects[chosen]
    general = effect.median_gain >= limits.min_effect / 2
    proven = INTERVENTIONS[chosen].leaves_object_out
    verdict = Verdict.CONFIRMED if proven else Verdict.PROPERTY
    in_place = _best_in_place({name: tested.effects[name].gain for name in passed})
    return Decision(
        tested,
        verdict if general else Verdict.SUSPECTED,
        chosen,
        q_values,
        in_place=in_place,
        is_local=_is_local(tested, in_place),
    )


def _passes(name: str, effect: Effect, q_value: float, limits: AnalysisConfig) -> bool:
    least = _least_gain(name, limits)
    if name == PLACE and effect.disturbed > MAX_DISTURBED:
        return False
    return effect.gain >= least and effect.ci_low >= SURELY * least and q_value < limits.fdr


def _least_gain(name: str, limits: AnalysisConfig) -> float:
    factor = 1.0 if INTERVENTIONS[name].leaves_object_out else PROPERTY_FACTOR
    return factor * limits.min_effect


def _is_corroborated(tested: TestedCandidate, passed: list[str]) -> bool:
    """Whether the whole background passed, too, with part of the effect of the region.

    Where the object is outlined wrongly, what is left of it in the region flips predictions. In a
    new background it does not, beside the object of the recipient.
    """
    gains = [tested.effects[name].gain for name in ("region", "background") if name in passed]
    return len(gains) == 2 and gains[1] >= CORROBORATED * gains[0]


def _why_not(name: str, effect: Effect, limits: AnalysisConfig) -> str:
    least = _least_gain(name, limits)
    if effect.gain < least:
        return f"the largest gain, of {name}, is {effect.gain:.0%}, less than {least:.0%}"
    if name == PLACE and effect.disturbed > MAX_DISTURBED:
        return "what images without the cue hold at its place changes predictions, too"
    return "the effect may be chance: its interval is wide, or its q-value is large"


def _describe_best(tested: TestedCandidate, passed: list[str], least: float) -> str:
    """The intervention that describes the cue best, of those that passed."""
    gains = {name: tested.effects[name].gain for name in passed}
    outside = [name for name in passed if INTERVENTIONS[name].leaves_object_out]
    on_object = [name for name in passed if name not in outside]
    best_outside = max((gains[name] for name in outside), default=0.0)
    if on_object and max(gains[name] for name in on_object) >= MUCH_STRONGER * best_outside:
        colour = tested.effects.get("object colour")
        strongest = max(gains[name] for name in on_object)
        if colour and colour.gain >= max(least, MUCH * strongest) and colour.ci_low > 0:
            return "object colour"
        return "part" if "part" in gains else on_object[0]
    for name in STATISTICS:
        enough = ENOUGH_LIGHTING if name == "lighting" else ENOUGH
        if gains.get(name, 0.0) >= enough * best_outside:
            return name
    return _best_in_place(gains)


def _is_local(tested: TestedCandidate, in_place: str) -> bool:
    """Whether a region, or the part with the strongest evidence, has most of the effect."""
    part = tested.effects["part"].gain if "part" in tested.effects else 0.0
    return in_place in ("region", PLACE) or (
        bool(in_place) and part >= LOCAL * tested.effects[in_place].gain
    )


def _best_in_place(gains: dict[str, float]) -> str:
    """The most precise of the interventions on pixels that has most of the gain; "" for none."""
    found = [(name, gains[name]) for name in (PLACE, "region", "background") if gains.get(name)]
    largest = max((gain for _, gain in found), default=0.0)
    return next((name for name, gain in found if gain >= LOCAL * largest), "")
