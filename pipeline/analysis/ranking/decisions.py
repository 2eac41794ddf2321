"""Apply a person's decisions about suspects, which the report saves as decisions.csv.

The file holds each decision with the row of the image at that time. A decision is valid while the
row is the same: label, prediction, kind and finding, image size, the confidence within
MAX_CONFIDENCE_CHANGE and the brightness within MAX_BRIGHTNESS_CHANGE. A suspect that was marked
fine is left out while the decision is valid. A decision that is no longer valid is shown with the
values that have changed.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.storage.files import fetched
from pipeline.storage.paths import to_path
from pipeline.storage.schema import DECISIONS, SUSPECTS, Row
from pipeline.storage.values import Mark

MAX_CONFIDENCE_CHANGE, MAX_BRIGHTNESS_CHANGE = 0.01, 1 / 255
"""Changes up to which a value counts as the same: hardware and precision cause small changes.
Brightness is in [0, 1]."""
TOLERANCES = {
    "confidence": MAX_CONFIDENCE_CHANGE,
    "image_brightness": MAX_BRIGHTNESS_CHANGE,
}
TEXTS = ("label", "pred", "kind", "finding_id")
IMAGE_COLUMNS = ("image_width", "image_height", "image_brightness")
NUMBERS = ("confidence", *IMAGE_COLUMNS)
WORDS = {
    "label": "the label",
    "pred": "the prediction",
    "kind": "the kind of suspicion",
    "finding_id": "the finding",
    "confidence": "the confidence",
    "image_width": "the image",
    "image_height": "the image",
    "image_brightness": "the image",
}
LEFT_OUT, WAITING, CHANGED, SETTLED, GONE = "left_out", "waiting", "changed", "settled", "gone"
STATES = {
    LEFT_OUT: "fine and left out",
    WAITING: "not yet carried out in the dataset",
    CHANGED: "open again because the row has changed",
    SETTLED: "settled: the image is no suspect any more",
    GONE: "about images that are not in this run",
}
"""The states of a decision (column state of DECISIONS) in words."""


@dataclass(frozen=True)
class Reviewed:
    """The suspects that are not left out (SUSPECTS), and all decisions with states (DECISIONS)."""

    suspects: pa.Table
    decisions: pa.Table


def read_decisions(path: str | None) -> dict[str, Row]:
    """Read the last decision on each image, by image id; an empty cell is None.

    Raises:
        ConfigError: the file cannot be read or is no list of decisions; the message names the line.
    """
    if path is None:
        return {}
    try:
        with fetched(to_path(path)) as copy, copy.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, strict=True)
            missing = {"image_id", "mark"} - set(lines.fieldnames or ())
            if missing:
                raise ValueError(f"it has no column {' and no column '.join(sorted(missing))}")
            return {row["image_id"]: _decision(row, lines.line_num) for row in lines}
    except (OSError, ValueError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"rank.decisions: {path} cannot be used: {reason}") from error


def _decision(row: dict[str, str], line: int) -> Row:
    """A row of DECISIONS without its state.

    Raises:
        ValueError: the line cannot be used; the message names it.
    """
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not as many cells as the first")
    if row["mark"] not in set(Mark):
        raise ValueError(f"line {line}: mark {row['mark']!r} is none of {', '.join(Mark)}")
    decision: Row = {name: row.get(name) or None for name in DECISIONS.names}
    for name in NUMBERS:
        decision[name] = _number(decision[name], name, line)
    return decision


def _number(text: str | None, name: str, line: int) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"line {line}: {name} {text!r} is no number") from None


def changes(decision: Row, now: Row) -> list[str]:
    """List in words the values of an image's row that have changed since the decision.

    A decision without a kind was written by hand; only its filled cells are compared.

    Args:
        decision: a row of DECISIONS.
        now: the current TEXTS and NUMBERS of the image.
    """
    by_hand = decision["kind"] is None
    texts = [
        name
        for name in TEXTS
        if decision[name] != now[name] and not (by_hand and decision[name] is None)
    ]
    numbers = [
        name
        for name in NUMBERS
        if decision[name] is not None
        and not abs(decision[name] - _known(now[name])) <= TOLERANCES.get(name, 0)
    ]
    return list(dict.fromkeys(WORDS[name] for name in (*texts, *numbers)))


def _known(value: float | None) -> float:
    return math.nan if value is None else value


def apply_decisions(
    suspects: pa.Table,
    images: pa.Table,
    decisions: dict[str, Row],
    ids: pa.ChunkedArray,
    n_wanted: int,
) -> Reviewed:
    """Apply decisions to the suspects.

    Args:
        suspects: SUSPECTS in descending order, n_wanted plus the number of images marked fine.
        images: index and IMAGE_COLUMNS of the same images, in any order.
        decisions: the result of `read_decisions`.
        ids: image ids of the plan, at least those with a decision.
        n_wanted: number of suspects to keep.
    """
    values = {row.pop("index"): row for row in images.to_pylist()}
    states: dict[str, str] = {}
    kept: list[Row] = []
    for suspect in suspects.to_pylist():
        marked = _mark(suspect, decisions.get(suspect["image_id"]), values[suspect["index"]])
        states[suspect["image_id"]] = marked.pop("state", WAITING)
        if states[suspect["image_id"]] != LEFT_OUT:
            kept.append({**marked, "rank": len(kept) + 1})
    is_planned = pc.is_in(pa.array(decisions, pa.string()), ids.combine_chunks()).to_pylist()
    applied = [
        {**decision, "state": states.get(image_id, SETTLED if planned else GONE)}
        for (image_id, decision), planned in zip(decisions.items(), is_planned, strict=True)
    ]
    return Reviewed(
        pa.Table.from_pylist(kept[:n_wanted], SUSPECTS), pa.Table.from_pylist(applied, DECISIONS)
    )


def left_out_kinds(suspects: pa.Table, decisions: pa.Table) -> list[str]:
    """The kinds of the SUSPECTS that applied DECISIONS leave out."""
    fine = decisions.filter(pc.equal(decisions["state"], LEFT_OUT))["image_id"]
    kinds: list[str] = suspects.filter(pc.is_in(suspects["image_id"], fine.combine_chunks()))[
        "kind"
    ].to_pylist()
    return kinds


def _mark(suspect: Row, decision: Row | None, image: Row) -> Row:
    """A suspect with its decision and state, or with the reason why the decision is not valid."""
    if decision is None:
        return suspect
    changed = changes(decision, suspect | image)
    if not changed:
        state = LEFT_OUT if decision["mark"] == Mark.FINE else WAITING
        decided = {"decision": decision["mark"], "note": decision["note"]}
        return {**suspect, **decided, "state": state}
    mark = decision["mark"].replace("_", " ")
    reason = f"was marked “{mark}” before; since then {' and '.join(changed)} changed"
    noted = {"reasons": [*suspect["reasons"], reason], "note": decision["note"]}
    return {**suspect, **noted, "state": CHANGED}
