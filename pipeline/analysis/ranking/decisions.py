"""What a person decided about suspects: decisions.csv, as the report saves it, read back.

A decision was taken on what the row of the image said then, which stands beside it in the file. It
holds while the row still says so: the same label, prediction, kind and finding, the confidence to
within CONFIDENCE, the picture of the same size and brightness. What was judged fine and holds is no
suspect any more; what does not hold is open again, and says what has changed.
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

MARKS = ("fix_label", "exclude", "fine", "shortcut")
FINE = "fine"
CONFIDENCE, BRIGHTNESS = 0.01, 1 / 255
"""How far these may move without the row having changed: other hardware and precision do so much.
Brightness is in [0, 1], a step of 8 bits."""
TOLERANCES = {"confidence": CONFIDENCE, "image_brightness": BRIGHTNESS}
TEXTS = ("label", "pred", "kind", "finding_id")
PICTURE = ("image_width", "image_height", "image_brightness")
NUMBERS = ("confidence", *PICTURE)
WORDS = {
    "label": "its label",
    "pred": "the prediction",
    "kind": "what is suspect about it",
    "finding_id": "the shortcut it belongs to",
    "confidence": "the confidence",
    "image_width": "the picture",
    "image_height": "the picture",
    "image_brightness": "the picture",
}
LEFT_OUT, WAITING, CHANGED, SETTLED, GONE = "left_out", "waiting", "changed", "settled", "gone"
STATES = {
    LEFT_OUT: "fine and left out",
    WAITING: "to be carried out in the data",
    CHANGED: "open again, as the row has changed",
    SETTLED: "settled, as the image is no suspect any more",
    GONE: "about images that are not in this run",
}
"""What became of a decision, in words."""


@dataclass(frozen=True)
class Reviewed:
    """Suspects without those judged fine, with what was decided on the others, and what became of
    every decision (DECISIONS).
    """

    suspects: pa.Table
    decisions: pa.Table


def read(path: str | None) -> dict[str, Row]:
    """The last decision on each image, by its id; cells that are empty are None.

    Raises:
        ConfigError: a file that cannot be read or is no list of decisions, naming the line.
    """
    if path is None:
        return {}
    try:
        with fetched(to_path(path)) as copy, copy.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.DictReader(file, strict=True)
            lacking = {"image_id", "mark"} - set(lines.fieldnames or ())
            if lacking:
                raise ValueError(f"it has no column {' and no column '.join(sorted(lacking))}")
            return {row["image_id"]: _decision(row, lines.line_num) for row in lines}
    except (OSError, ValueError, csv.Error) as error:
        told = getattr(error, "strerror", None) or error
        raise ConfigError(f"rank.decisions: {path} cannot be used: {told}") from error


def _decision(row: dict[str, str], line: int) -> Row:
    """A row of DECISIONS, its state still open.

    Raises:
        ValueError: naming the line.
    """
    if None in row or None in row.values():
        raise ValueError(f"line {line} has not as many cells as the first")
    if row["mark"] not in MARKS:
        raise ValueError(f"line {line}: mark {row['mark']!r} is none of {', '.join(MARKS)}")
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
    """What of an image's row is not as it was decided upon, in words.

    A decision without a kind was written by hand, and nothing that it leaves empty is compared.

    Args:
        decision: a row of DECISIONS.
        now: TEXTS and NUMBERS of the image as they are.
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


def apply(
    suspects: pa.Table,
    pictures: pa.Table,
    decisions: dict[str, Row],
    ids: pa.ChunkedArray,
    most: int,
) -> Reviewed:
    """Bring decisions to the suspects.

    Args:
        suspects: SUSPECTS, the best first, as many more than wanted as were judged fine.
        pictures: index and PICTURE of the same images, in any order.
        decisions: as `read`.
        ids: image ids of the plan, at least of those decided on.
        most: suspects to keep.
    """
    about = {row.pop("index"): row for row in pictures.to_pylist()}
    states: dict[str, str] = {}
    kept: list[Row] = []
    for suspect in suspects.to_pylist():
        marked = _marked(suspect, decisions.get(suspect["image_id"]), about[suspect["index"]])
        states[suspect["image_id"]] = marked.pop("state", WAITING)
        if states[suspect["image_id"]] != LEFT_OUT:
            kept.append({**marked, "rank": len(kept) + 1})
    there = pc.is_in(pa.array(decisions, pa.string()), ids.combine_chunks()).to_pylist()
    told = [
        {**decision, "state": states.get(image_id, SETTLED if known else GONE)}
        for (image_id, decision), known in zip(decisions.items(), there, strict=True)
    ]
    return Reviewed(
        pa.Table.from_pylist(kept[:most], SUSPECTS), pa.Table.from_pylist(told, DECISIONS)
    )


def left_out(suspects: pa.Table, decisions: pa.Table) -> list[str]:
    """Kinds of those SUSPECTS that were judged fine and are not shown, by DECISIONS as applied."""
    fine = decisions.filter(pc.equal(decisions["state"], LEFT_OUT))["image_id"]
    kinds: list[str] = suspects.filter(pc.is_in(suspects["image_id"], fine.combine_chunks()))[
        "kind"
    ].to_pylist()
    return kinds


def _marked(suspect: Row, decision: Row | None, picture: Row) -> Row:
    """A suspect with what was decided on it, or why that does not hold any more, and its state."""
    if decision is None:
        return suspect
    moved = changes(decision, suspect | picture)
    if not moved:
        state = LEFT_OUT if decision["mark"] == FINE else WAITING
        decided = {"decision": decision["mark"], "note": decision["note"]}
        return {**suspect, **decided, "state": state}
    mark = decision["mark"].replace("_", " ")
    reason = f"was marked “{mark}” before; since then {' and '.join(moved)} changed"
    noted = {"reasons": [*suspect["reasons"], reason], "note": decision["note"]}
    return {**suspect, **noted, "state": CHANGED}
