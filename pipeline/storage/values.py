"""Texts that the columns verdict, kind and mark of the tables may hold."""

from __future__ import annotations

from enum import Enum


class _Value(str, Enum):
    """A text that a column holds; str() gives the text on every Python version."""

    __str__ = str.__str__


class Verdict(_Value):
    """What verification concluded about a finding.

    CONFIRMED: an intervention that leaves the object out flips predictions. PROPERTY: the model
    relies on a property of the object itself. SUSPECTED: no changed image proves the finding.
    """

    CONFIRMED = "confirmed"
    PROPERTY = "property"
    SUSPECTED = "suspected"


class SuspectKind(_Value):
    """Why an image is a suspect, in the order in which kinds are listed."""

    LABEL_ERROR = "label_error"
    SHORTCUT = "shortcut"
    NO_EVIDENCE = "no_evidence"
    ATYPICAL_FOCUS = "atypical_focus"
    AMBIGUOUS = "ambiguous"


class Mark(_Value):
    """What a person decided about a suspect."""

    FIX_LABEL = "fix_label"
    EXCLUDE = "exclude"
    FINE = "fine"
    SHORTCUT = "shortcut"
