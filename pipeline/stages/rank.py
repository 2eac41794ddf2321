"""rank: which images a person should look at first, one row each, with reasons in words.

Every suspicion is a strength in [0, 1] times the weight of its kind; an image takes its highest
score, and all its reasons:

label_error: 1 - (self-confidence + normalised margin) / 2 of the given label, where the model
  names another class (the label quality scores of Northcutt, Jiang and Chuang, "Confident
  Learning", JAIR 2021; normalised margin: (p(label) - highest other p + 1) / 2);
shortcut: the image's reliance on the cue of a finding (how far its probability falls without the
  cue), or the finding's score where this image was not tried; half where only suspected;
atypical_focus: 1 - limit / |z| of the focus statistic that is farthest from its class's median, in
  robust standard deviations, beyond the limit that no image would pass by chance;
no_evidence: the heatmap is empty;
ambiguous: 1 - margin of the two most probable classes, where it is below AMBIGUOUS.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray
from scipy import stats

from pipeline import store
from pipeline.config import Config
from pipeline.ops import Journal
from pipeline.schema import SUSPECTS
from pipeline.store import RunFolder

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
LEAST = 20
"""Images a class needs before one of them can be called atypical."""
CHANCE = 0.05
"""Chance that any image of a run passes the limit of atypical_focus, were its statistics normal."""

TEXT = ["index", "image_id", "label", "pred"]
NUMBERS = ["pred_index", "confidence", "label_prob", "margin", "loss", "heatmap_max"]
FOCUS_WORDS = {
    "focus_area90": "the area it looks at",
    "focus_spread": "how far its focus is spread",
    "focus_border": "the share of its focus on the border",
    "focus_corner": "the share of its focus in the corners",
    "focus_entropy": "how diffuse its focus is",
    "focus_object_mass": "the share of its focus on the object",
}


@dataclass
class Suspicion:
    """One reason to look at an image: its row in the scan, the kind, strength in [0, 1], words."""

    row: int
    kind: str
    strength: float
    reason: str
    finding_id: str | None = None

    @property
    def score(self) -> float:
        """Strength times the weight of the kind."""
        return self.strength * WEIGHTS[self.kind]


@dataclass
class Suspect:
    """All that speaks against an image."""

    suspicions: list[Suspicion] = field(default_factory=list)

    @property
    def main(self) -> Suspicion:
        """The strongest suspicion."""
        return max(self.suspicions, key=lambda suspicion: suspicion.score)


def run(config: Config, _journal: Journal) -> None:
    """Write suspects.parquet.

    Raises:
        NotFinished: where parts, findings or members are missing.
    """
    folder = RunFolder(config.folder)
    setup = store.read_plan(folder).setup
    table = store.rows(folder, setup).to_table(
        columns=[*TEXT, *NUMBERS, *FOCUS_WORDS], filter=ds.field("status") == "ok"
    )
    numbers = {name: table[name].to_numpy().astype(np.float64) for name in (*NUMBERS, *FOCUS_WORDS)}
    suspects: dict[int, Suspect] = {}
    for suspicion in (
        *_label_errors(table, numbers),
        *_shortcuts(folder, table),
        *_no_evidence(numbers),
        *_atypical(table, numbers),
        *_ambiguous(table, numbers),
    ):
        suspects.setdefault(suspicion.row, Suspect()).suspicions.append(suspicion)
    loss = np.nan_to_num(numbers["loss"])
    best = sorted(suspects, key=lambda row: (-suspects[row].main.score, -loss[row], row))
    kept = best[: config.analysis.max_suspects]
    rows = [_row(rank, table, row, suspects[row]) for rank, row in enumerate(kept, start=1)]
    store.write(pa.Table.from_pylist(rows, SUSPECTS), folder.analysis("suspects"))


def _label_errors(table: pa.Table, numbers: dict[str, Floats]) -> Iterator[Suspicion]:
    probability, confidence = numbers["label_prob"], numbers["confidence"]
    quality = (probability + (probability - confidence + 1) / 2) / 2
    labels, predictions = table["label"], table["pred"]
    for row in np.flatnonzero(confidence > probability):
        yield Suspicion(
            int(row),
            "label_error",
            float(1 - quality[row]),
            f"labelled {labels[row]}, which the model gives {probability[row]:.1%}; "
            f"it says {predictions[row]} with {confidence[row]:.1%}",
        )


def _shortcuts(folder: RunFolder, table: pa.Table) -> Iterator[Suspicion]:
    findings = {
        row["finding_id"]: row for row in store.read(folder.analysis("findings")).to_pylist()
    }
    place = {index: row for row, index in enumerate(table["index"].to_pylist())}
    for member in store.read(folder.analysis("members")).to_pylist():
        finding, reliance = findings[member["finding_id"]], member["reliance"]
        strength = finding["score"] if reliance is None else reliance
        if finding["verdict"] != "confirmed":
            strength /= 2
        name = f"{finding['verdict']} shortcut of {finding['class_name']} ({finding['kind']})"
        reason = f"looks at the {name}"
        if reliance is not None:
            reason += f"; without it the prediction loses {reliance:.0%} of probability"
        yield Suspicion(
            place[member["index"]], "shortcut", float(strength), reason, finding["finding_id"]
        )


def _no_evidence(numbers: dict[str, Floats]) -> Iterator[Suspicion]:
    for row in np.flatnonzero(numbers["heatmap_max"] == 0):
        yield Suspicion(
            int(row), "no_evidence", 1.0, "the heatmap is empty: nothing in it speaks for the class"
        )


def _atypical(table: pa.Table, numbers: dict[str, Floats]) -> Iterator[Suspicion]:
    classes = numbers["pred_index"].astype(np.int64)
    tests = max(1, len(classes) * len(FOCUS_WORDS))
    limit = float(stats.norm.isf(CHANCE / 2 / tests))
    predictions = table["pred"]
    for rows in _by_class(classes):
        values = np.stack([numbers[name][rows] for name in FOCUS_WORDS], axis=1)
        z, median = _robust_z(values)
        for row in np.flatnonzero(np.nanmax(np.abs(z), axis=1, initial=0) > limit):
            worst = int(np.nanargmax(np.abs(z[row])))
            words = list(FOCUS_WORDS.values())[worst]
            yield Suspicion(
                int(rows[row]),
                "atypical_focus",
                float(1 - limit / abs(z[row, worst])),
                f"{words} is unusual for {predictions[int(rows[row])]}: "
                f"{values[row, worst]:.2f} against a median of {median[worst]:.2f}",
            )


def _ambiguous(table: pa.Table, numbers: dict[str, Floats]) -> Iterator[Suspicion]:
    for row in np.flatnonzero(numbers["margin"] < AMBIGUOUS):
        margin = float(numbers["margin"][row])
        yield Suspicion(
            int(row),
            "ambiguous",
            1 - margin,
            f"{table['pred'][row]} is only {margin:.1%} ahead of the next class",
        )


def _by_class(classes: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Rows of each class that has enough images to speak of what is usual."""
    order = np.argsort(classes, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        if len(rows) >= LEAST:
            yield rows


def _robust_z(values: Floats) -> tuple[Floats, Floats]:
    """Distances (n, d) from the median in robust standard deviations, and the medians (d,).

    A statistic that does not vary, or that no image has, tells nothing: its distance is 0.
    """
    known = ~np.isnan(values).all(axis=0)
    median = np.zeros(values.shape[1])
    deviation = np.zeros(values.shape[1])
    median[known] = np.nanmedian(values[:, known], axis=0)
    deviation[known] = np.nanmedian(np.abs(values[:, known] - median[known]), axis=0)
    scale = stats.norm.ppf(0.75)  # the median absolute deviation of a standard normal variable
    z = np.divide(
        scale * (values - median), deviation, where=deviation > 0, out=np.zeros_like(values)
    )
    return np.nan_to_num(z), median


def _row(rank: int, table: pa.Table, row: int, suspect: Suspect) -> dict[str, Any]:
    main = suspect.main
    ordered = sorted(suspect.suspicions, key=lambda suspicion: -suspicion.score)
    found = {name: table[name][row].as_py() for name in (*TEXT, "confidence")}
    return {
        "rank": rank,
        **found,
        "score": main.score,
        "kind": main.kind,
        "finding_id": next((s.finding_id for s in ordered if s.finding_id), None),
        "reasons": [suspicion.reason for suspicion in ordered],
    }
