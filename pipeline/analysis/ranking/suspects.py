"""The kinds of suspicion: how strong each is for many rows at once, and in words for a few.

Every suspicion is a strength in [0, 1] times the weight of its kind; an image takes its highest
score, and all its reasons:

label_error: the evidence of the image against its label (label_errors.Judged), where it reaches
  DOUBT;
shortcut: the image's reliance on the cue of a finding (how far its probability falls without the
  cue), or the finding's score where this image was not tried; half where only suspected;
atypical_focus: 1 - limit / |z| of the focus statistic that is farthest from its class's median
  (focus_outliers);
no_evidence: the heatmap is empty;
ambiguous: 1 - margin of the two most probable classes, where it is below AMBIGUOUS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.analysis.ranking import focus_outliers, label_errors
from pipeline.analysis.ranking.focus_outliers import Usual
from pipeline.analysis.ranking.label_errors import Labels
from pipeline.analysis.ranking.members import Members
from pipeline.storage import arrays
from pipeline.storage.schema import SUSPECTS, Row

Floats = NDArray[np.float64]

WEIGHTS = {
    "label_error": 1.0,
    "shortcut": 0.8,
    "no_evidence": 0.6,
    "atypical_focus": 0.5,
    "ambiguous": 0.3,
}
"""How much of a person's first look a kind deserves."""
AMBIGUOUS = 0.1
DOUBT = 0.05
"""Evidence against a label below which it is not worth a line."""

COLUMNS = [*label_errors.COLUMNS, "pred_index", "margin", "heatmap_max", *focus_outliers.WORDS]
"""What strengths are told from."""
TEXTS = ["image_id", "label", "pred", "confidence", "label_prob"]
"""What words need besides."""

Reason = tuple[float, str, str | None]
"""Score, words, finding_id."""


@dataclass(frozen=True)
class Evidence:
    """What the whole run says, by which one image is judged."""

    labels: Labels
    usual: Usual
    members: Members

    def scores(self, rows: pa.Table) -> Floats:
        """Scores (n, kinds), in the order of WEIGHTS, of rows with COLUMNS."""
        margin = arrays.numbers(rows, "margin")
        against = self.labels.judge(rows).evidence
        strengths = {
            "label_error": np.where(against >= DOUBT, against, 0),
            "shortcut": self.members.strongest(arrays.classes(rows, "index")),
            "no_evidence": arrays.numbers(rows, "heatmap_max") == 0,
            "atypical_focus": self.usual.strength(*focus(rows)),
            "ambiguous": np.where(margin < AMBIGUOUS, 1 - margin, 0),
        }
        return np.stack([WEIGHTS[kind] * strengths[kind] for kind in WEIGHTS], axis=1)


def kinds(scores: Floats) -> list[str]:
    """The kind of the strongest suspicion of every image that has one, of scores (n, kinds)."""
    names = list(WEIGHTS)
    return [names[place] for place in scores[scores.max(axis=1) > 0].argmax(axis=1)]


def focus(rows: pa.Table) -> tuple[Floats, NDArray[np.int64]]:
    """Focus statistics (n, d) in the order of WORDS, and predicted classes (n,)."""
    values = [arrays.numbers(rows, name) for name in focus_outliers.WORDS]
    return np.stack(values, axis=1), arrays.classes(rows, "pred_index")


@dataclass
class Leaders:
    """The best of all rows seen so far: plan position, score and loss (n,), the best first.

    Equal scores are ordered by loss, then by position, so batches of any size give the same.
    """

    most: int
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    score: Floats = field(default_factory=lambda: np.zeros(0))
    loss: Floats = field(default_factory=lambda: np.zeros(0))

    def add(self, index: NDArray[np.int64], score: Floats, loss: Floats) -> None:
        """Take rows (n,); those with a score of 0 are no suspects."""
        some = score > 0
        index = np.concatenate([self.index, index[some]])
        score = np.concatenate([self.score, score[some]])
        loss = np.concatenate([self.loss, np.nan_to_num(loss[some])])
        kept = np.lexsort((index, -loss, -score))[: self.most]
        self.index, self.score, self.loss = index[kept], score[kept], loss[kept]


def table(leaders: Leaders, rows: pa.Table, evidence: Evidence) -> pa.Table:
    """The suspects, the best first (SUSPECTS).

    Args:
        leaders: of the whole run.
        rows: the same images, in any order, with COLUMNS and TEXTS.
        evidence: by which they were scored.
    """
    place = np.argsort(rows["index"].to_numpy())[np.argsort(np.argsort(leaders.index))]
    rows = rows.take(place)
    texts = rows.select(["index", *TEXTS]).to_pylist()
    told = _Words(rows, evidence)
    found = [
        _suspect(rank, score, told.reasons(rank), texts[rank])
        for rank, score in enumerate(leaders.score.tolist())
    ]
    return pa.Table.from_pylist(found, SUSPECTS)


def _suspect(rank: int, score: float, reasons: dict[str, list[Reason]], texts: Row) -> Row:
    kinds = sorted(reasons, key=lambda kind: -reasons[kind][0][0])
    ordered = [reason for kind in kinds for reason in reasons[kind]]
    return {
        "rank": rank + 1,
        **{name: texts[name] for name in SUSPECTS.names if name in texts},
        "score": score,
        "kind": kinds[0],
        "finding_id": next((finding for _, _, finding in ordered if finding), None),
        "reasons": [words for _, words, _ in ordered],
    }


class _Words:
    """Reasons in words and figures of some rows."""

    def __init__(self, rows: pa.Table, evidence: Evidence) -> None:
        self.rows = rows
        self.evidence = evidence
        self.texts = rows.select(["index", *TEXTS, "margin"]).to_pylist()
        self.scores = evidence.scores(rows)
        self.judged = evidence.labels.judge(rows)
        self.values, self.classes = focus(rows)
        self.distances = evidence.usual.distances(self.values, self.classes)

    def reasons(self, row: int) -> dict[str, list[Reason]]:
        """By kind, the strongest first within it."""
        tellers = {
            "label_error": self._label_error,
            "no_evidence": lambda _: "the heatmap is empty: nothing in it speaks for the class",
            "atypical_focus": self._atypical_focus,
            "ambiguous": self._ambiguous,
        }
        scores = dict(zip(WEIGHTS, self.scores[row].tolist(), strict=True))
        reasons: dict[str, list[Reason]] = {
            kind: [(scores[kind], tell(row), None)]
            for kind, tell in tellers.items()
            if scores[kind] > 0
        }
        if scores["shortcut"] > 0:
            reasons["shortcut"] = sorted(self._shortcuts(row), key=lambda reason: -reason[0])
        return reasons

    def _shortcuts(self, row: int) -> Iterator[Reason]:
        for strength, words, finding in self.evidence.members.of(self.texts[row]["index"]):
            yield WEIGHTS["shortcut"] * strength, words, finding

    def _label_error(self, row: int) -> str:
        text, judged = self.texts[row], self.judged
        likeliest = self.evidence.labels.class_names[judged.best[row]]
        words = f"labelled {text['label']}, which the model gives {text['label_prob']:.1%}"
        if text["pred"] != text["label"]:
            words += f"; it says {text['pred']} with {text['confidence']:.1%}"
        words += f"; counting images that look alike to it, {text['label']} has "
        words += f"{judged.given[row]:.1%}"
        if likeliest != text["label"]:
            words += f" and {likeliest} the most"
        return f"{words}: wrong with a probability of {judged.wrong[row]:.0%}"

    def _atypical_focus(self, row: int) -> str:
        worst = int(np.abs(self.distances[row]).argmax())
        median = self.evidence.usual.median[self.classes[row], worst]
        words = list(focus_outliers.WORDS.values())[worst]
        return (
            f"{words} is unusual for {self.texts[row]['pred']}: {self.values[row, worst]:.2f} "
            f"against a median of {median:.2f}"
        )

    def _ambiguous(self, row: int) -> str:
        text = self.texts[row]
        return f"{text['pred']} is only {text['margin']:.1%} ahead of the next class"
