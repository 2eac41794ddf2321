"""What the section of findings shows beside the findings themselves."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.report import findings, overview
from pipeline.report.findings import FindingView
from pipeline.report.overview import RunFacts


def trial(candidate: str, gain: float | None, verdict: str | None = None) -> dict[str, Any]:
    """A row of TRIALS."""
    effect = None if gain is None else 0.1 + gain
    control = None if gain is None else 0.1
    return {"candidate_id": candidate, "verdict": verdict, "effect": effect, "control": control}


def test_each_rejected_candidate_is_listed_once_with_its_strongest_intervention() -> None:
    rows = [
        trial("weak", None), trial("weak", 0.02), trial("strong", 0.15), trial("strong", 0.05),
        trial("claimed", 0.9, "confirmed"), trial("untested", None),
    ]  # fmt: skip
    listed = findings.list_rejected(rows)
    assert [row["candidate_id"] for row in listed] == ["strong", "weak", "untested"]
    assert listed[0]["effect"] == pytest.approx(0.25)
    many = [trial(str(number), number / 100) for number in range(2 * findings.MAX_REJECTED)]
    assert len(findings.list_rejected(many)) == findings.MAX_REJECTED


def test_the_worst_group_is_the_one_with_the_lowest_known_accuracy() -> None:
    def groups(*accuracies: float | None) -> FindingView:
        rows = [
            {"group": str(number), "n_images": 1, "accuracy": accuracy}
            for number, accuracy in enumerate(accuracies)
        ]
        return FindingView({"groups": rows}, "", [], [])

    assert groups(1.0, 0.1, None, 0.9).worst_group == "1"
    assert groups(None, None).worst_group is None
    assert FindingView({}, "", [], []).worst_group is None  # a run of an earlier version


@pytest.mark.parametrize(
    ("tested", "confirmed", "state"),
    [
        (20, 0, overview.NOTE),
        (59, 0, overview.GOOD),
        (200, 1, overview.LOOK),
        (0, 0, overview.NOTE),
    ],
)
def test_the_rate_of_false_findings_is_good_only_where_it_can_be_told(
    tested: int, confirmed: int, state: str
) -> None:
    verification = {"pseudo_classes": tested, "pseudo_classes_confirmed": confirmed}
    run = RunFacts("run", "", [], {}, None, verification, {}, {}, 0)
    assert overview._rate_of_false_findings(run) == state
