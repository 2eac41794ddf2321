"""The page: what it shows as plain values, and the template that writes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

NONE = "–"
ASSETS = ("style.css", "script.js")


@dataclass(frozen=True)
class Image:
    """A picture file: its address relative to the page, and its size in pixels."""

    src: str
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """An image as the page shows it.

    picture is what the model saw; pred and label are the same under the heatmaps of the predicted
    and the given class, None where there is no such map; pred_place and label_place say in words
    where they are hottest. problem says why there is no picture.
    """

    image_id: str
    problem: str | None = None
    picture: Image | None = None
    pred: Image | None = None
    pred_place: str = ""
    label: Image | None = None
    label_place: str = ""


@dataclass(frozen=True)
class Report:
    """All that the page shows.

    findings, suspects and classes are rows of their tables, with `views` (a list of (View,
    reliance or None)), `view` (a View) and `picture` (an Image or None) added. reasons are
    (error text, number of images), errors the first of (image id, error text). tried says in words
    what was searched; facts and seconds are shown as they are.
    """

    run_id: str
    date: str
    counts: dict[str, int]
    accuracy: float | None
    warnings: Sequence[str]
    tried: str
    findings: Sequence[dict[str, Any]]
    suspects: Sequence[dict[str, Any]]
    n_suspects: int
    classes: Sequence[dict[str, Any]]
    reasons: Sequence[tuple[str, int]]
    errors: Sequence[tuple[str, str]]
    facts: dict[str, Any]
    seconds: dict[str, float]
    versions: dict[str, str]
    legend: Image


KINDS = {
    "label_error": "The image speaks for another class than the given one: check the label.",
    "shortcut": "The prediction rests on a cue that a finding has exposed.",
    "atypical_focus": "The model looked elsewhere than it usually does for this class.",
    "no_evidence": "The heatmap is empty: nothing in the picture speaks for the prediction.",
    "ambiguous": "Two classes are nearly as likely.",
}
"""What the kinds of suspects mean."""

VERDICTS = ("confirmed", "suspected")
"""Verdicts that have a colour of their own."""


def write(folder: Path, report: Report) -> None:
    """Write index.html with its style and script into a folder; pictures are there already.

    Raises:
        OSError: disk full, folder gone.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "count": count, "number": number, "words": words}
    environment.globals |= {"plural": plural, "kinds": KINDS, "known_verdicts": VERDICTS}
    html = environment.get_template("index.html.j2").render(
        report=report, verdict=verdict(report), NONE=NONE
    )
    (folder / "index.html").write_text(html, encoding="utf-8")
    for name in ASSETS:
        (folder / name).write_bytes(resources.files("pipeline.report").joinpath(name).read_bytes())


def verdict(report: Report) -> str:
    """The outcome in one line: shortcuts, suspects, images without a result."""
    if report.counts["planned"] == report.counts["error"]:
        return "No image could be audited"
    found = Counter(finding["verdict"] for finding in report.findings)
    parts = [plural(number, f"{name} shortcut") for name, number in sorted(found.items())]
    parts = parts or ["No shortcut found"]
    parts.append(plural(report.n_suspects, "suspect") if report.n_suspects else "no suspects")
    if report.counts["error"]:
        parts.append(f"{plural(report.counts['error'], 'image')} could not be audited")
    return ", ".join(parts)


def plural(number: int, noun: str) -> str:
    """1 image, 2,000 images."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def percent(share: float | None) -> str:
    """A share in [0, 1] with one decimal, or a dash."""
    return NONE if share is None else f"{share:.1%}"


def count(value: int | None) -> str:
    """A whole number with its thousands parted, or a dash."""
    return NONE if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """Three significant digits, small ones as a bound, or a dash."""
    if value is None:
        return NONE
    return "< 0.001" if 0 <= value < 0.001 else f"{value:.3g}"


def words(name: str) -> str:
    """label_error as label error."""
    return name.replace("_", " ")
