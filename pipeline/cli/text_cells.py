"""Convert the values of a row to styled texts that are safe to print."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.text import Text

from pipeline.cli.parser import escaped
from pipeline.storage.schema import Row
from pipeline.storage.values import Verdict

NONE = "-"
Cell = Callable[[Row], Text]

STYLES = {
    "complete": "bold green",
    "running": "bold yellow",
    "failed": "bold red",
    "aborted": "bold red",
    Verdict.CONFIRMED: "bold red",
    Verdict.SUSPECTED: "yellow",
}
"""Styles of the states of a run and of verdicts."""


def share(value: float | None) -> str:
    """A share in [0, 1] with one decimal, or a dash."""
    return NONE if value is None else f"{value:.1%}"


def _text(name: str) -> Cell:
    return lambda row: Text(NONE if row[name] is None else escaped(row[name]))


def _percent(name: str) -> Cell:
    return lambda row: Text(share(row[name]))


def _verdict(row: Row) -> Text:
    return Text(escaped(row["verdict"]), STYLES.get(row["verdict"], ""))


def _interval(row: Row) -> Text:
    if row["ci_low"] is None or row["ci_high"] is None:
        return Text(NONE)
    return Text(f"{share(row['ci_low'])} to {share(row['ci_high'])}")


def _q(row: Row) -> Text:
    value = row["q_value"]
    if value is None:
        return Text(NONE)
    return Text("< 0.001" if value < 0.001 else f"{value:.3f}")


def _count(row: Row) -> Text:
    return Text(NONE if row["n_images"] is None else f"{row['n_images']:,}")


def _score(row: Row) -> Text:
    return Text(NONE if row["score"] is None else f"{row['score']:.3f}")


def _prediction(row: Row) -> Text:
    return Text(f"{escaped(row['pred'])} {share(row['confidence'])}")


def _reason(row: Row) -> Text:
    reasons = row["reasons"] or [NONE]
    more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
    return Text(escaped(reasons[0]) + more)


def _decision(row: Row) -> Text:
    return Text(escaped(row["decision"] or NONE))


def _stacked(columns: dict[str, Cell], unnamed: Sequence[str]) -> Cell:
    """A cell with a line for each of several values, with the name unless it is in `unnamed`."""

    def cell(row: Row) -> Text:
        lines = [
            value(row) if name in unnamed else Text.assemble((f"{name} ", "dim"), value(row))
            for name, value in columns.items()
            if name != "decision" or row["decision"]
        ]
        return Text("\n").join(lines)

    return cell


def _some(columns: dict[str, Cell], *names: str) -> dict[str, Cell]:
    return {name: columns[name] for name in names}


NUMBERS = ("effect", "control", "interval", "q", "images", "rank", "score")
FINDING: dict[str, Cell] = {
    "verdict": _verdict,
    "class": _text("class_name"),
    "kind": _text("kind"),
    "effect": _percent("effect"),
    "control": _percent("control"),
    "interval": _interval,
    "q": _q,
    "images": _count,
    "sentence": _text("summary"),
}
SUSPECT: dict[str, Cell] = {
    "rank": _text("rank"),
    "score": _score,
    "kind": _text("kind"),
    "decision": _decision,
    "prediction": _prediction,
    "label": _text("label"),
    "image": _text("image_id"),
    "reason": _reason,
}
NARROW_FINDING: dict[str, Cell] = {
    "finding": _stacked(_some(FINDING, "verdict", "class", "kind"), ("verdict", "class", "kind")),
    "measured": _stacked(_some(FINDING, "effect", "control", "interval", "q", "images"), ()),
    "sentence": FINDING["sentence"],
}
NARROW_SUSPECT: dict[str, Cell] = {
    "rank": SUSPECT["rank"],
    "suspect": _stacked(
        _some(SUSPECT, "image", "kind", "score", "prediction", "label", "decision"),
        ("image", "kind"),
    ),
    "reason": SUSPECT["reason"],
}
