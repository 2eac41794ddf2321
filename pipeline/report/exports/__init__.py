"""Exports of the suspects of a run for tools in which people review images."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pipeline.report.exports.csv import write_csv
from pipeline.report.exports.fiftyone import write_fiftyone
from pipeline.report.exports.label_studio import write_label_studio
from pipeline.report.exports.review import Review, open_review
from pipeline.report.exports.spotlight import write_spotlight

__all__ = ["FORMATS", "Format", "Review", "open_review"]


class Format(NamedTuple):
    """An export format.

    write(review, path) writes it; further arguments have defaults. file is the usual name of its
    file, None if it needs no file; about describes it.
    """

    write: Callable[..., None]
    file: str | None
    about: str


FORMATS = {
    "csv": Format(write_csv, "suspects.csv", "a table for spreadsheets"),
    "label-studio": Format(
        write_label_studio, "label-studio.json", "tasks, beside a labelling configuration (.xml)"
    ),
    "spotlight": Format(
        write_spotlight, "spotlight.parquet", "a Parquet file for Renumics Spotlight"
    ),
    "fiftyone": Format(write_fiftyone, None, "a dataset in FiftyOne's own database"),
}
