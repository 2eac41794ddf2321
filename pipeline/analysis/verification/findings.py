"""Rows of FINDINGS, MEMBERS, INTERVENTIONS and TRIALS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.analysis.shortcuts.candidate_rows import METADATA, candidate_id
from pipeline.analysis.verification import effects, wording
from pipeline.analysis.verification.description import Description
from pipeline.analysis.verification.illustration import Illustration
from pipeline.analysis.verification.reliance import Removal
from pipeline.analysis.verification.verdicts import Decision
from pipeline.data.pictures import encode_webp
from pipeline.storage.schema import FINDINGS, Row
from pipeline.storage.values import Verdict

MAX_EXAMPLES = 8
"""Most image ids in the column `example_ids`."""
VERDICT_ORDER = list(Verdict)


@dataclass
class Finding:
    """A claimed cue.

    Attributes:
        decision: the verdict and the effects.
        verdict: of the decision.
        cue: its kind and place.
        removal: what removing the cue showed; None where it was not removed.
        illustrations: a few of the interventions.
    """

    decision: Decision
    verdict: Verdict
    cue: Description
    removal: Removal | None = None
    illustrations: list[Illustration] = field(default_factory=list)

    @property
    def candidate(self) -> Row:
        """Row of CANDIDATES."""
        return self.decision.tested.candidate


def build_tables(
    found: Sequence[Finding], image_ids: dict[int, str], class_names: list[str]
) -> dict[str, list[Row]]:
    """Build the rows of "findings", "members" and "interventions".

    Findings are ordered by verdict, then by falling gain.

    Args:
        found: the findings.
        image_ids: image ids by position in the plan, of all images that findings name.
        class_names: names of the model's outputs.
    """
    ordered = sorted(
        found, key=lambda each: (VERDICT_ORDER.index(each.verdict), -each.decision.gain)
    )
    tables: dict[str, list[Row]] = {"findings": [], "members": [], "interventions": []}
    for finding_id, each in zip(_number_ids(ordered), ordered, strict=True):
        members = list(_member_rows(finding_id, each, image_ids))
        tables["findings"].append(_finding_row(finding_id, each, members, class_names))
        tables["members"] += members
        tables["interventions"] += _intervention_rows(finding_id, each, image_ids, class_names)
    return tables


def named_images(found: Sequence[Finding]) -> list[int]:
    """Positions in the plan of all images that the tables of findings name."""
    index: set[int] = set()
    for each in found:
        index.update(each.removal.index.tolist() if each.removal else [])
        index.update(i for shown in each.illustrations for i in (shown.index, shown.source))
    return sorted(index)


def trial_rows(decisions: Sequence[Decision]) -> Iterator[Row]:
    """Rows of TRIALS: every intervention on every candidate, and why it is not claimed."""
    for decision in decisions:
        tested = decision.tested
        shared = {
            "candidate_id": tested.candidate["candidate_id"],
            "class_name": tested.candidate["class_name"],
            "verdict": decision.verdict,
            "reason": decision.reason or None,
        }
        if not tested.screened:
            yield shared
        for name, gain in tested.screened.items():
            effect = tested.effects.get(name)
            row = {**shared, "intervention": name, "screening_gain": gain}
            if effect is not None:
                row |= {
                    "n": effect.n,
                    "effect": effect.flip_rate,
                    "control": effect.control_rate,
                    "ci_low": effect.ci_low,
                    "ci_high": effect.ci_high,
                    "p_value": effect.p_value,
                }
            yield row


def _number_ids(found: Sequence[Finding]) -> list[str]:
    """Make a unique id for each finding; equal ids are numbered in the given order."""
    seen: Counter[str] = Counter()
    numbered = []
    for each in found:
        columns = {**each.candidate, "kind": each.cue.kind, "place": each.cue.place}
        identifier = candidate_id(columns)
        seen[identifier] += 1
        number = seen[identifier]
        numbered.append(identifier if number == 1 else f"{identifier}-{number}")
    return numbered


def _member_rows(finding_id: str, found: Finding, image_ids: dict[int, str]) -> Iterator[Row]:
    if found.removal is None:
        return
    order = np.argsort(found.removal.index)
    for index, reliance in zip(
        found.removal.index[order].tolist(), found.removal.reliance[order].tolist(), strict=True
    ):
        yield {
            "finding_id": finding_id,
            "index": index,
            "image_id": image_ids[index],
            "reliance": reliance,
        }


def _intervention_rows(
    finding_id: str, found: Finding, image_ids: dict[int, str], class_names: list[str]
) -> Iterator[Row]:
    for each in found.illustrations:
        before, after = (
            encode_webp(np.asarray(pixels.permute(1, 2, 0))) for pixels in (each.before, each.after)
        )
        yield {
            "finding_id": finding_id,
            "index": each.index,
            "image_id": image_ids[each.index],
            "source_id": image_ids[each.source],
            "change": each.change,
            "class_name": found.candidate["class_name"],
            "prob_before": each.prob_before,
            "prob_after": each.prob_after,
            "pred_before": class_names[each.pred_before],
            "pred_after": class_names[each.pred_after],
            "before": before,
            "after": after,
        }


def _finding_row(
    finding_id: str, found: Finding, members: list[Row], class_names: list[str]
) -> Row:
    effect = found.decision.effect
    assert effect is not None
    ranked = sorted(members, key=lambda row: (-row["reliance"], row["index"]))
    name = found.candidate["class_name"]
    removed = found.removal.flipped if found.removal else None
    return {
        "finding_id": finding_id,
        "class_name": name,
        "kind": found.cue.kind,
        "verdict": found.verdict,
        "score": max(0.0, effect.gain),
        "region": found.cue.region,
        "n_images": len(members),
        "effect": effect.flip_rate,
        "control": effect.control_rate,
        "ci_low": effect.ci_low,
        "ci_high": effect.ci_high,
        "p_value": effect.p_value,
        "q_value": found.decision.q_value,
        "example_ids": [row["image_id"] for row in ranked[:MAX_EXAMPLES]],
        "summary": wording.summarise(
            name,
            found.cue,
            found.verdict,
            effect,
            found.decision.q_value,
            len(members),
            removed,
            [class_names[index] for index in effect.sharing],
        ),
        "groups": found.candidate["groups"],
    }


def describe_false_alarms(found: int, tested: int) -> str:
    """Word the bound on false findings from divisions of classes at random.

    Args:
        found: random divisions with a confirmed finding, which is false.
        tested: all random divisions that were tested.
    """
    if not tested:
        return "the rate of false findings is unknown: no class could be divided at random"
    bound = 100 * effects.false_finding_bound(found, tested)
    return (
        f"at these settings, chance alone gives fewer than {bound:.0f} false findings per 100 "
        f"classes (95% bound; {tested} divisions of classes at random gave {found} false findings)"
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
