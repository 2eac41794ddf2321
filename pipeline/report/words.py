"""How numbers, names and the terms of the tables are told to a person."""

from __future__ import annotations

NONE = "–"

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

MARKS = {
    "fix_label": "the label is wrong and is to be changed",
    "exclude": "the image is to be taken out of the dataset",
    "fine": "label and image are right; it will not come back while its row stays the same",
    "shortcut": "the prediction is right, or wrong, for the wrong reason",
}
"""What a person may decide on a suspect."""

FOCUS = {
    "focus_area50": ("half of the evidence", "smallest share of the picture that holds half of it"),
    "focus_area90": ("most of the evidence", "smallest share that holds nine tenths of it"),
    "focus_spread": ("spread", "distance of the evidence from its centre, in picture sides"),
    "focus_border": ("on the border", "share of the evidence in the outermost ring of cells"),
    "focus_corner": ("in the corners", "share of the evidence in the four corners"),
    "focus_entropy": ("evenness", "entropy of the evidence over the cells, 1 where all are equal"),
    "focus_gini": ("unevenness", "Gini coefficient of the cells, 0 where all are equal"),
    "focus_object_mass": ("on the object", "share of the evidence on the marked object"),
    "focus_label_similarity": ("likeness to the label’s map", "cosine of the two heatmaps"),
}
"""The focus statistics that are shown, in short and at length; all lie between 0 and 1, and are
defined in pipeline/focus.py.
"""


def plural(number: int, noun: str) -> str:
    """1 image, 2,000 images, 3 classes."""
    many = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else many}"


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


def place(value: float) -> str:
    """A position between 0 and 1 in a drawing."""
    return f"{value:.4g}"


def words(name: str) -> str:
    """label_error as label error."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
