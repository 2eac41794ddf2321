"""Format numbers and names for the report, and explain the terms of the tables."""

from __future__ import annotations

from pipeline.storage.values import Mark, SuspectKind, Verdict

NONE = "–"

KINDS = {
    SuspectKind.LABEL_ERROR: "The label is probably wrong: the image looks like another class.",
    SuspectKind.SHORTCUT: "The prediction relies on the cue of a finding.",
    SuspectKind.ATYPICAL_FOCUS: "The focus is unusual for this class.",
    SuspectKind.NO_EVIDENCE: "The heatmap is empty: the image has no evidence for the prediction.",
    SuspectKind.AMBIGUOUS: "Two classes have nearly the same probability.",
}
"""The kinds of suspects, explained in a sentence each."""

VERDICTS = tuple(Verdict)
VERDICT_TITLES = {
    Verdict.CONFIRMED: "confirmed shortcut",
    Verdict.PROPERTY: "reliance on a property of the object",
    Verdict.SUSPECTED: "suspected shortcut",
}
"""Verdicts that have a colour of their own."""

MARKS = {
    Mark.FIX_LABEL: "the label is wrong and has to be changed",
    Mark.EXCLUDE: "the image has to be removed from the dataset",
    Mark.FINE: "label and image are right; the next run leaves it out while its row is the same",
    Mark.SHORTCUT: "the model relies on a shortcut, whether its prediction is right or wrong",
}
"""The decisions on a suspect, explained."""

FOCUS = {
    "focus_area50": ("focus area", "smallest share of the image with half of the evidence"),
    "focus_area90": ("area of 90%", "smallest share of the image with 90% of the evidence"),
    "focus_spread": ("spread", "root mean square distance of the evidence from its centre"),
    "focus_border": ("border", "share of the evidence in the outermost ring of cells"),
    "focus_corner": ("corners", "share of the evidence in the four corners"),
    "focus_entropy": ("entropy", "entropy of the evidence over the cells, 1 if all are equal"),
    "focus_gini": ("Gini coefficient", "inequality of the cells, 0 if all are equal"),
    "focus_object_mass": ("on the object", "share of the evidence on the marked object"),
    "focus_label_similarity": ("similarity", "cosine of the heatmaps of prediction and label"),
}
"""The focus statistics that are shown: name and explanation. All lie between 0 and 1; cam/focus.py
defines them.
"""


def plural(number: int, noun: str) -> str:
    """A number and its noun: 1 image, 2,000 images, 3 classes."""
    many = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


def percent(share: float | None) -> str:
    """A share in [0, 1] with one decimal, or a dash."""
    return NONE if share is None else f"{share:.1%}"


def count(value: int | None) -> str:
    """A whole number with thousands separators, or a dash."""
    return NONE if value is None else f"{value:,}"


def number(value: float | None) -> str:
    """A number with three significant digits, "< 0.001" for a smaller one, or a dash."""
    if value is None:
        return NONE
    return "< 0.001" if 0 <= value < 0.001 else f"{value:.3g}"


def place(value: float) -> str:
    """A position between 0 and 1 as an SVG attribute."""
    return f"{value:.4g}"


def words(name: str) -> str:
    """A name with spaces instead of underscores."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """A duration as 4.2 s, 3 min 20 s or 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
