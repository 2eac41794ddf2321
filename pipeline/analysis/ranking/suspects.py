"""Score suspects by kind, and describe the reasons of the strongest in words.

The score of a kind is its strength in [0, 1] times its weight. The score of an image is that of
its strongest kind; all its reasons are listed. The strengths are:

label_error: the evidence against the label (label_errors.Judgement), where it is at least
  MIN_EVIDENCE;
shortcut: the image's reliance on the cue of a finding (members.join_members);
atypical_focus: 1 - limit / |z| of the focus statistic with the largest |z| (focus_outliers);
no_evidence: 1 where the heatmap is dead;
ambiguous: 1 - margin of the two most probable classes, where the margin is below MAX_MARGIN.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.analysis.ranking import focus_outliers, label_errors
from pipeline.analysis.ranking.focus_outliers import ClassFocus
from pipeline.analysis.ranking.label_errors import LabelJudge
from pipeline.analysis.ranking.members import Members
from pipeline.storage import arrays
from pipeline.storage.schema import SUSPECTS, Row
from pipeline.storage.values import SuspectKind

Floats = NDArray[np.float64]

WEIGHTS = {
    SuspectKind.LABEL_ERROR: 1.0,
    SuspectKind.SHORTCUT: 0.8,
    SuspectKind.NO_EVIDENCE: 0.6,
    SuspectKind.ATYPICAL_FOCUS: 0.5,
    SuspectKind.AMBIGUOUS: 0.3,
}
"""Weight of each kind in the score; of two kinds with equal scores the first one counts."""
MAX_MARGIN = 0.1
MIN_EVIDENCE = 0.05
"""Smallest evidence against a label that is reported."""

COLUMNS = [*label_errors.COLUMNS, "pred_index", "margin", "heatmap_max", *focus_outliers.WORDS]
"""Columns from which scores are computed."""
TEXTS = ["image_id", "label", "pred", "confidence", "label_prob"]
"""Further columns for the reasons in words."""

Reason = tuple[float, str, str | None]
"""Score, words, finding_id."""


@dataclass(frozen=True)
class Evidence:
    """What was learnt from the whole run; single images are scored with it."""

    labels: LabelJudge
    class_focus: ClassFocus
    members: Members

    def scores(self, rows: pa.Table) -> Floats:
        """Scores (n, kinds), in the order of WEIGHTS, of rows with COLUMNS."""
        margin = arrays.numbers(rows, "margin")
        evidence = self.labels.judge(rows).evidence
        strengths = {
            SuspectKind.LABEL_ERROR: np.where(evidence >= MIN_EVIDENCE, evidence, 0),
            SuspectKind.SHORTCUT: self.members.strongest(arrays.classes(rows, "index")),
            SuspectKind.NO_EVIDENCE: arrays.numbers(rows, "heatmap_max") == 0,
            SuspectKind.ATYPICAL_FOCUS: self.class_focus.strength(*read_focus(rows)),
            SuspectKind.AMBIGUOUS: np.where(margin < MAX_MARGIN, 1 - margin, 0),
        }
        return np.stack([WEIGHTS[kind] * strengths[kind] for kind in WEIGHTS], axis=1)


def strongest_kinds(scores: Floats) -> list[str]:
    """The strongest kind of every image with a score above 0, of scores (n, kinds)."""
    names = [str(kind) for kind in WEIGHTS]
    return [names[place] for place in scores[scores.max(axis=1) > 0].argmax(axis=1)]


def read_focus(rows: pa.Table) -> tuple[Floats, NDArray[np.int64]]:
    """Focus statistics (n, d) in the order of focus_outliers.WORDS, and predicted classes (n,)."""
    values = [arrays.numbers(rows, name) for name in focus_outliers.WORDS]
    return np.stack(values, axis=1), arrays.classes(rows, "pred_index")


@dataclass
class TopSuspects:
    """The n images with the highest scores so far: position in the plan, score and loss (n,).

    Equal scores are ordered by loss, then by position, so the batch size has no influence.
    """

    n_wanted: int
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    score: Floats = field(default_factory=lambda: np.zeros(0))
    loss: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, index: NDArray[np.int64], score: Floats, loss: Floats) -> None:
        """Add rows (n,); a row with score 0 is no suspect."""
        is_suspect = score > 0
        index = np.concatenate([self.index, index[is_suspect]])
        score = np.concatenate([self.score, score[is_suspect]])
        loss = np.concatenate([self.loss, np.nan_to_num(loss[is_suspect])])
        kept = np.lexsort((index, -loss, -score))[: self.n_wanted]
        self.index, self.score, self.loss = index[kept], score[kept], loss[kept]


def suspects_table(top: TopSuspects, rows: pa.Table, evidence: Evidence) -> pa.Table:
    """Make the table of suspects (SUSPECTS), in descending order of the score.

    Args:
        top: the suspects of the whole run.
        rows: the rows of these images, in any order, with COLUMNS and TEXTS.
        evidence: the evidence with which they were scored.
    """
    place = np.argsort(rows["index"].to_numpy())[np.argsort(np.argsort(top.index))]
    rows = rows.take(place)
    texts = rows.select(["index", *TEXTS]).to_pylist()
    wording = _ReasonWording(rows, evidence)
    found = [
        _suspect(rank, score, wording.reasons(rank), texts[rank])
        for rank, score in enumerate(top.score.tolist())
    ]
    return pa.Table.from_pylist(found, SUSPECTS)


def _suspect(rank: int, score: float, reasons: dict[SuspectKind, list[Reason]], texts: Row) -> Row:
    kinds = sorted(reasons, key=lambda kind: -reasons[kind][0][0])
    ordered = [reason for kind in kinds for reason in reasons[kind]]
    return {
        "rank": rank + 1,
        **{name: texts[name] for name in SUSPECTS.names if name in texts},
        "score": score,
        "kind": str(kinds[0]),
        "finding_id": next((finding for _, _, finding in ordered if finding), None),
        "reasons": [words for _, words, _ in ordered],
    }


class _ReasonWording:
    """The reasons of some rows in words, with figures."""

    def __init__(self, rows: pa.Table, evidence: Evidence) -> None:
        self.rows = rows
        self.evidence = evidence
        self.texts = rows.select(["index", *TEXTS, "margin"]).to_pylist()
        self.scores = evidence.scores(rows)
        self.judged = evidence.labels.judge(rows)
        self.values, self.classes = read_focus(rows)
        self.distances = evidence.class_focus.distances(self.values, self.classes)

    def reasons(self, row: int) -> dict[SuspectKind, list[Reason]]:
        """The reasons of a row by kind; within a kind in descending order of the score."""
        wordings = {
            SuspectKind.LABEL_ERROR: self._label_error,
            SuspectKind.NO_EVIDENCE: lambda _: "the heatmap is empty: no evidence for the class",
            SuspectKind.ATYPICAL_FOCUS: self._atypical_focus,
            SuspectKind.AMBIGUOUS: self._ambiguous,
        }
        scores = dict(zip(WEIGHTS, self.scores[row].tolist(), strict=True))
        reasons: dict[SuspectKind, list[Reason]] = {
            kind: [(scores[kind], describe(row), None)]
            for kind, describe in wordings.items()
            if scores[kind] > 0
        }
        if scores[SuspectKind.SHORTCUT] > 0:
            shortcuts = sorted(self._shortcuts(row), key=lambda reason: -reason[0])
            reasons[SuspectKind.SHORTCUT] = shortcuts
        return reasons

    def _shortcuts(self, row: int) -> Iterator[Reason]:
        index = self.texts[row]["index"]
        for strength, words, finding in self.evidence.members.findings_of(index):
            yield WEIGHTS[SuspectKind.SHORTCUT] * strength, words, finding

    def _label_error(self, row: int) -> str:
        text, judged = self.texts[row], self.judged
        best = self.evidence.labels.class_names[judged.best[row]]
        words = f"the model gives the label {text['label']} a probability of "
        words += f"{text['label_prob']:.1%}"
        if text["pred"] != text["label"]:
            words += f" and {text['pred']} one of {text['confidence']:.1%}"
        words += f"; model and linear probe together give {text['label']} {judged.given[row]:.1%}"
        if best != text["label"]:
            words += f" and {best} the most"
        return f"{words}: the label is wrong with a probability of {judged.wrong[row]:.0%}"

    def _atypical_focus(self, row: int) -> str:
        farthest = int(np.abs(self.distances[row]).argmax())
        median = self.evidence.class_focus.median[self.classes[row], farthest]
        words = list(focus_outliers.WORDS.values())[farthest]
        return (
            f"{words} is unusual for {self.texts[row]['pred']}: {self.values[row, farthest]:.2f}, "
            f"the median is {median:.2f}"
        )

    def _ambiguous(self, row: int) -> str:
        text = self.texts[row]
        return f"{text['pred']} is only {text['margin']:.1%} more probable than the next class"
