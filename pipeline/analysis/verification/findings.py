"""From cases to the tables: verdicts, sentences, members, pictures of interventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy import stats

from pipeline.analysis.shortcuts.candidates import METADATA
from pipeline.analysis.verification import effects
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.config import AnalysisConfig
from pipeline.data.pictures import webp
from pipeline.storage.schema import FINDINGS

Row = dict[str, Any]
Names = Callable[[list[int]], dict[int, str]]

CONFIRMED, SUSPECTED = "confirmed", "suspected"
EXAMPLES = 8


def q_values(cases: list[TestedCandidate]) -> list[float]:
    """Benjamini-Hochberg q of every candidate; one that was not tried has shown nothing, p = 1."""
    p_values = [case.added.effect.p_value if case.added else 1.0 for case in cases]
    return [float(q) for q in stats.false_discovery_control(p_values)] if cases else []


def verdict(case: TestedCandidate, q_value: float, limits: AnalysisConfig) -> str | None:
    """confirmed, suspected, or None where there is no finding (see stages/verify.py)."""
    if not case.clears(limits.min_effect) or q_value >= limits.fdr:
        return None
    return CONFIRMED if case.is_wide(limits.min_effect) else SUSPECTED


def tables(
    limits: AnalysisConfig, cases: list[TestedCandidate], names: Names, class_names: list[str]
) -> dict[str, list[Row]]:
    """Rows of FINDINGS, confirmed and strong ones first, of MEMBERS and of INTERVENTIONS.

    Args:
        limits: the settings of the analysis.
        cases: all of the run, tried or not.
        names: from plan positions to image ids.
        class_names: of the model's outputs.
    """
    judged = [
        (case, q_value, verdict(case, q_value, limits))
        for case, q_value in zip(cases, q_values(cases), strict=True)
    ]
    standing = {id(case): said for case, _, said in judged if said}
    kept = [
        (case, q_value, said)
        for case, q_value, said in judged
        if said and standing.get(id(case.same_as)) not in (said, CONFIRMED)
    ]
    kept.sort(key=lambda each: (each[2] != CONFIRMED, -_score(each[0])))
    told: dict[str, list[Row]] = {"findings": [], "members": [], "interventions": []}
    ids = _ids([case for case, _, _ in kept])
    for finding_id, (case, q_value, said) in zip(ids, kept, strict=True):
        rows = _members(finding_id, case, names(case.wearers))
        told["findings"].append(_finding(finding_id, case, q_value, said, rows))
        told["members"] += rows
        told["interventions"] += _interventions(finding_id, case, names, class_names)
    return told


def _ids(cases: list[TestedCandidate]) -> list[str]:
    """An id for each; those of one kind at one rough place are numbered from the left."""
    ids = [str(case.candidate["candidate_id"]) for case in cases]
    boxes = [tuple((case.candidate["region"] or {}).values()) for case in cases]
    seen: Counter[str] = Counter()
    numbered = list(ids)
    for place in sorted(range(len(ids)), key=lambda place: boxes[place]):
        seen[ids[place]] += 1
        if seen[ids[place]] > 1:
            numbered[place] = f"{ids[place]}-{seen[ids[place]]}"
    return numbered


def _score(case: TestedCandidate) -> float:
    return max(0.0, (case.gain + max(0.0, case.removed.effect.gain)) / 2)


def _members(finding_id: str, case: TestedCandidate, names: dict[int, str]) -> list[Row]:
    """Images whose cue works on others, and how far each one's prediction falls without it."""
    return [
        {
            "finding_id": finding_id,
            "index": index,
            "image_id": names[index],
            "reliance": case.removed.reliance[index],
        }
        for index in case.wearers
    ]


def _interventions(
    finding_id: str, case: TestedCandidate, names: Names, class_names: list[str]
) -> Iterator[Row]:
    """What is shown of the interventions, pictures as WebP."""
    known = names([place for each in case.illustrations for place in (each.index, each.source)])
    for each in case.illustrations:
        before, after = (
            webp(np.asarray(picture.permute(1, 2, 0))) for picture in (each.before, each.after)
        )
        yield {
            "finding_id": finding_id,
            "index": each.index,
            "image_id": known[each.index],
            "source_id": known[each.source],
            "change": each.change,
            "class_name": case.candidate["class_name"],
            "prob_before": each.prob_before,
            "prob_after": each.prob_after,
            "pred_before": class_names[each.pred_before],
            "pred_after": class_names[each.pred_after],
            "before": before,
            "after": after,
        }


def _finding(
    finding_id: str, case: TestedCandidate, q_value: float, said: str, members: list[Row]
) -> Row:
    assert case.added is not None
    candidate, effect = case.candidate, case.added.effect
    ranked = sorted(members, key=lambda row: (-row["reliance"], row["index"]))
    return {
        "finding_id": finding_id,
        "class_name": candidate["class_name"],
        "kind": candidate["kind"],
        "verdict": said,
        "score": _score(case),
        "region": candidate["region"],
        "n_images": len(members),
        "effect": effect.hit,
        "control": effect.control,
        "ci_low": effect.low,
        "ci_high": effect.high,
        "p_value": effect.p_value,
        "q_value": q_value,
        "example_ids": [row["image_id"] for row in ranked[:EXAMPLES]],
        "summary": sentence(case, q_value, len(members)),
    }


WORDS = {
    "background": "the background",
    "moving": "something that moves from place to place",
    "colour": "the colours of the whole picture",
    "lighting": "the layout of light and dark",
    "texture": "the fine structure of the whole picture (noise, compression)",
    "sharpness": "the sharpness of the whole picture",
    "frame": "the border all around",
}
STRUCTURE = {
    "texture": "the fine structure (noise, compression)",
    "sharpness": "how sharp the picture is",
}
"""What a place may be told by, beside what is in it."""


def sentence(case: TestedCandidate, q_value: float, n_members: int) -> str:
    """What the class relies on, and the evidence, for a person to act on."""
    assert case.added is not None
    candidate, add, remove = case.candidate, case.added.effect, case.removed.effect
    name, kind = candidate["class_name"], candidate["kind"]
    what = WORDS.get(kind, f"a {kind}, {candidate['place']}")
    if kind == "edge":
        what = f"something along the {candidate['place']}"
    if kind in STRUCTURE and candidate["region"]:
        what = f"{STRUCTURE[kind]}, {candidate['place']}"
    q = "q < 0.001" if q_value < 0.001 else f"q = {q_value:.3f}"
    removing = (
        f"Removing it turns {remove.hit:.0%} of its images away from {name} "
        f"(control {remove.control:.0%}), adding"
    )
    return (
        f"{name}: {what}. {removing if case.removed.reliance else 'Adding'} it turns "
        f"{add.hit:.0%} of other images into {name} (control {add.control:.0%}), {q}, "
        f"{n_members} images."
    )


def false_alarms(cases: list[TestedCandidate], limits: AnalysisConfig) -> tuple[int, int]:
    """Pseudo-classes that would be confirmed, and how many there are.

    A pseudo-class is half of a class's sample, set against the other half: what tells them apart is
    chance. Each is put through all candidates of its class, and those that discover raises in the
    half by itself, without the hurdle of other classes.
    """
    alarms: dict[tuple[int, int], bool] = {}
    for half in (0, 1):
        halves = [replace(case, added=case.pseudo[half]) for case in cases if half in case.pseudo]
        for case, q_value in zip(halves, q_values(halves), strict=True):
            key = (case.candidate["class_index"], half)
            found = verdict(replace(case, hurdle=0.0), q_value, limits) == CONFIRMED
            alarms[key] = alarms.get(key, False) or found
    return sum(alarms.values()), len(alarms)


def expectation(found: int, tried: int) -> str:
    """The false-alarm rate of a run, in words."""
    if not tried:
        return "no pseudo-class could be formed: the rate of false findings is not known"
    most = effects.most_false(found, tried)
    return (
        f"at this setting, expect fewer than {100 * most:.0f} false findings per 100 classes "
        f"(measured on {tried} pseudo-classes, {found} of them confirmed; 95 % bound)"
    )


def of_metadata(candidates: list[Row]) -> list[Row]:
    """Rows of FINDINGS for columns that go with a prediction; no picture was changed for them."""
    return [
        {
            **dict.fromkeys(FINDINGS.names),
            "finding_id": row["candidate_id"],
            "class_name": row["class_name"],
            "kind": METADATA,
            "verdict": SUSPECTED,
            "score": row["statistic"] / 2,
            "p_value": row["p_value"],
            "q_value": row["p_value"],
            "example_ids": [],
            "summary": f"{row['class_name']}: goes with {row['place']}. {row['raised_by']}.",
        }
        for row in candidates
        if row["kind"] == METADATA
    ]
