"""Verdicts and tables: from tested candidates to rows of FINDINGS, MEMBERS and INTERVENTIONS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from pipeline.analysis.shortcuts.candidates import METADATA
from pipeline.analysis.verification import effects, wording
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.config import AnalysisConfig
from pipeline.data.pictures import encode_webp
from pipeline.storage.schema import FINDINGS, Row
from pipeline.storage.values import Verdict

ImageIds = Callable[[list[int]], dict[int, str]]
"""A function from positions in the plan to the image ids at these positions."""

MAX_EXAMPLES = 8
"""Most image ids in the column `example_ids`."""


@dataclass(frozen=True)
class Decision:
    """A tested candidate with its Benjamini-Hochberg q-value and its verdict, None for none."""

    tested: TestedCandidate
    q_value: float
    verdict: Verdict | None


def q_values(tested: list[TestedCandidate]) -> list[float]:
    """Compute the q-value of every candidate by the procedure of Benjamini and Hochberg.

    Benjamini and Hochberg, "Controlling the False Discovery Rate", JRSS B 1995. A candidate that
    was screened but not tested counts with p = 1.
    """
    p_values = [each.adding.effect.p_value if each.adding else 1.0 for each in tested]
    return [float(q) for q in stats.false_discovery_control(p_values)] if tested else []


def decide(tested: TestedCandidate, q_value: float, limits: AnalysisConfig) -> Verdict | None:
    """Decide the verdict by the rules of stages/verify.py; None if there is no finding."""
    if not tested.passes(limits.min_effect) or q_value >= limits.fdr:
        return None
    return Verdict.CONFIRMED if tested.is_general(limits.min_effect) else Verdict.SUSPECTED


def build_tables(
    limits: AnalysisConfig,
    tested: list[TestedCandidate],
    image_ids: ImageIds,
    class_names: list[str],
) -> dict[str, list[Row]]:
    """Build the rows of "findings", "members" and "interventions".

    A candidate that describes the same cue as a finding of an equal or a better verdict is left
    out.

    Args:
        limits: the analysis settings.
        tested: all candidates of the run, tested or only screened.
        image_ids: from positions in the plan to image ids.
        class_names: names of the model's outputs.

    Returns:
        Rows by the name of the table; findings are ordered by verdict, then by falling score.
    """
    decisions = [
        Decision(each, q_value, decide(each, q_value, limits))
        for each, q_value in zip(tested, q_values(tested), strict=True)
    ]
    verdicts = {id(each.tested): each.verdict for each in decisions if each.verdict}
    kept = [
        each
        for each in decisions
        if each.verdict
        and verdicts.get(id(each.tested.same_as)) not in (each.verdict, Verdict.CONFIRMED)
    ]
    kept.sort(key=lambda each: (each.verdict != Verdict.CONFIRMED, -_score(each.tested)))
    tables: dict[str, list[Row]] = {"findings": [], "members": [], "interventions": []}
    for finding_id, each in zip(_number_ids([e.tested for e in kept]), kept, strict=True):
        members = list(_member_rows(finding_id, each.tested, image_ids))
        tables["findings"].append(_finding_row(finding_id, each, members))
        tables["members"] += members
        tables["interventions"] += _intervention_rows(
            finding_id, each.tested, image_ids, class_names
        )
    return tables


def _number_ids(tested: list[TestedCandidate]) -> list[str]:
    """Make a unique id for each finding; equal candidate ids are numbered from left to right."""
    ids = [str(each.candidate["candidate_id"]) for each in tested]
    boxes = [tuple((each.candidate["region"] or {}).values()) for each in tested]
    seen: Counter[str] = Counter()
    numbered = list(ids)
    for position in sorted(range(len(ids)), key=lambda position: boxes[position]):
        seen[ids[position]] += 1
        if seen[ids[position]] > 1:
            numbered[position] = f"{ids[position]}-{seen[ids[position]]}"
    return numbered


def _score(tested: TestedCandidate) -> float:
    """Mean of the gains of adding and of removing the cue, at least 0."""
    return max(0.0, (tested.gain + max(0.0, tested.removing.effect.gain)) / 2)


def _member_rows(finding_id: str, tested: TestedCandidate, image_ids: ImageIds) -> Iterator[Row]:
    ids = image_ids(tested.with_cue)
    for index in tested.with_cue:
        yield {
            "finding_id": finding_id,
            "index": index,
            "image_id": ids[index],
            "reliance": tested.removing.reliance[index],
        }


def _intervention_rows(
    finding_id: str, tested: TestedCandidate, image_ids: ImageIds, class_names: list[str]
) -> Iterator[Row]:
    shown = tested.illustrations
    ids = image_ids([position for each in shown for position in (each.index, each.source)])
    for each in shown:
        before, after = (
            encode_webp(np.asarray(pixels.permute(1, 2, 0))) for pixels in (each.before, each.after)
        )
        yield {
            "finding_id": finding_id,
            "index": each.index,
            "image_id": ids[each.index],
            "source_id": ids[each.source],
            "change": each.change,
            "class_name": tested.candidate["class_name"],
            "prob_before": each.prob_before,
            "prob_after": each.prob_after,
            "pred_before": class_names[each.pred_before],
            "pred_after": class_names[each.pred_after],
            "before": before,
            "after": after,
        }


def _finding_row(finding_id: str, decision: Decision, members: list[Row]) -> Row:
    tested = decision.tested
    assert tested.adding is not None
    assert decision.verdict is not None
    candidate, effect = tested.candidate, tested.adding.effect
    ranked = sorted(members, key=lambda row: (-row["reliance"], row["index"]))
    return {
        "finding_id": finding_id,
        "class_name": candidate["class_name"],
        "kind": candidate["kind"],
        "verdict": decision.verdict,
        "score": _score(tested),
        "region": candidate["region"],
        "n_images": len(members),
        "effect": effect.flip_rate,
        "control": effect.control_rate,
        "ci_low": effect.ci_low,
        "ci_high": effect.ci_high,
        "p_value": effect.p_value,
        "q_value": decision.q_value,
        "example_ids": [row["image_id"] for row in ranked[:MAX_EXAMPLES]],
        "summary": wording.summarise(tested, decision.verdict, decision.q_value, len(members)),
    }


def count_false_alarms(tested: list[TestedCandidate], limits: AnalysisConfig) -> tuple[int, int]:
    """Count the half-classes with a confirmed finding, which is false, and all half-classes.

    A half-class is one half of a class's sample with the other half as control; differences
    between the halves are chance. Every half-class is tested with all candidates of its class and
    with those that discover finds in the half alone, without the threshold from other classes.

    Args:
        tested: all candidates of the run, and CandidateTester.null_candidates.
        limits: the analysis settings.

    Returns:
        Number of half-classes with a confirmed finding, and number of half-classes.
    """
    alarms: dict[tuple[int, int], bool] = {}
    for half in (0, 1):
        null = [
            replace(each, adding=each.null_effects[half], decision_threshold=0.0)
            for each in tested
            if half in each.null_effects
        ]
        for each, q_value in zip(null, q_values(null), strict=True):
            key = (each.candidate["class_index"], half)
            is_confirmed = decide(each, q_value, limits) == Verdict.CONFIRMED
            alarms[key] = alarms.get(key, False) or is_confirmed
    return sum(alarms.values()), len(alarms)


def describe_false_alarms(found: int, tested: int) -> str:
    """Word the bound on false findings that follows from `count_false_alarms`."""
    if not tested:
        return (
            "the rate of false findings is unknown: no class has enough images to compare one "
            "half of the class with the other"
        )
    bound = 100 * effects.false_finding_bound(found, tested)
    return (
        f"at these settings, expect fewer than {bound:.0f} false findings per 100 classes "
        f"(95% bound; halves of classes compared with their other halves gave {found} false "
        f"findings in {tested} comparisons)"
    )


def findings_of_metadata(candidates: list[Row]) -> list[Row]:
    """Make rows of FINDINGS from metadata candidates; no intervention tests them.

    Args:
        candidates: rows of CANDIDATES of any kind.
    """
    return [
        {
            **dict.fromkeys(FINDINGS.names),
            "finding_id": row["candidate_id"],
            "class_name": row["class_name"],
            "kind": METADATA,
            "verdict": Verdict.SUSPECTED,
            "score": row["statistic"] / 2,
            "p_value": row["p_value"],
            "q_value": row["p_value"],
            "example_ids": [],
            "summary": (
                f"Predictions of {row['class_name']} are associated with {row['place']}: "
                f"{row['raised_by']}."
            ),
        }
        for row in candidates
        if row["kind"] == METADATA
    ]
