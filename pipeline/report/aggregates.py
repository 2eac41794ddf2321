"""Totals over all rows of a run, and a sample of focus statistics, in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.report import words
from pipeline.storage import arrays
from pipeline.storage.arrays import NO_CLASS
from pipeline.storage.run_setup import Setup
from pipeline.storage.sample import EXPLAINED, draw_per_class
from pipeline.storage.scan import Rows

BINS = 20
"""Number of bins of the confidence, over [0, 1]."""
MAX_ERRORS = 5000
"""Largest number of error rows whose image ids are kept."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
STATISTICS = tuple(words.FOCUS)

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FocusSample:
    """Focus statistics of m sampled images, sorted by predicted class.

    Attributes:
        starts: (K + 1,) position of the first image of each class, and m.
        index: (m,) positions in the plan.
        values: (m, len(STATISTICS)), NaN where an image has no value.
    """

    starts: Counts
    index: Counts
    values: Floats

    def of_class(self, class_index: int) -> Floats:
        """The values of one class."""
        return self.values[self.starts[class_index] : self.starts[class_index + 1]]

    def examples(self, class_index: int, n: int) -> list[int]:
        """Positions in the plan of up to n images of a class, spread evenly over its sample."""
        own = self.index[self.starts[class_index] : self.starts[class_index + 1]]
        places = np.linspace(0, len(own) - 1, min(n, len(own))).round().astype(np.int64)
        return [int(index) for index in own[places]]

    def quantiles(self, class_index: int | None = None) -> Floats:
        """QUANTILES (statistics, 5) of a class, or of all classes; NaN without any value."""
        values = self.values if class_index is None else self.of_class(class_index)
        result = np.full((len(STATISTICS), len(QUANTILES)), np.nan)
        for column, known in enumerate(values.T):
            known = known[~np.isnan(known)]  # noqa: PLW2901
            if len(known):
                result[column] = np.quantile(known, QUANTILES)
        return result


@dataclass
class Totals:
    """Totals over all rows.

    Attributes:
        reasons: number of error rows for each error text.
        errors: the first MAX_ERRORS error rows: image id and error text.
        right: (BINS,) number of right predictions by confidence.
        wrong: (BINS,) number of wrong predictions by confidence.
        pairs: number of labelled images for each (label, prediction), both as class index.
        confidence: sum of the confidences of all labelled images.
        n_images: number of explained images.
    """

    reasons: Counter[str] = field(default_factory=Counter)
    errors: list[tuple[str, str]] = field(default_factory=list)
    right: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    wrong: Counts = field(default_factory=lambda: np.zeros(BINS, np.int64))
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    confidence: float = 0.0
    n_images: int = 0


def count_rows(rows: Rows) -> Totals:
    """Compute the totals of all rows, in one pass."""
    found = Totals()
    wanted = ["image_id", "status", "error", "label_index", "pred_index", "confidence"]
    for batch in rows.to_batches(columns=wanted):
        _count(found, pa.Table.from_batches([batch]))
    return found


def _count(found: Totals, rows: pa.Table) -> None:
    failed = rows.filter(pc.equal(rows["status"], "error"))
    texts = failed["error"].to_pylist()
    found.reasons.update(texts)
    missing = MAX_ERRORS - len(found.errors)
    found.errors += list(zip(failed["image_id"].to_pylist(), texts, strict=True))[:missing]

    good = rows.filter(pc.equal(rows["status"], "ok"))
    label, predicted = (arrays.classes(good, name) for name in ("label_index", "pred_index"))
    confidence = arrays.numbers(good, "confidence")
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    labelled = label != NO_CLASS
    correct = label == predicted
    found.right += np.bincount(place[labelled & correct], minlength=BINS)
    found.wrong += np.bincount(place[labelled & ~correct], minlength=BINS)
    found.confidence += float(confidence[labelled].sum())
    found.n_images += good.num_rows
    pairs = np.stack([label[labelled], predicted[labelled]], axis=1)
    for pair, number in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
        found.pairs[int(pair[0]), int(pair[1])] += int(number)


def sample_focus(rows: Rows, setup: Setup, per_class: int, seed: int) -> FocusSample:
    """Read the focus statistics of up to `per_class` images of each predicted class."""
    wanted = np.zeros(setup.n_images, bool)
    wanted[draw_per_class(rows, per_class, seed).index] = True
    parts: list[tuple[Counts, Counts, Floats]] = []
    for batch in rows.to_batches(columns=["index", "pred_index", *STATISTICS], filter=EXPLAINED):
        sample = pa.Table.from_batches([batch])
        sample = sample.filter(pa.array(wanted[arrays.classes(sample, "index")]))
        values = np.stack([arrays.numbers(sample, name) for name in STATISTICS], axis=1)
        classes, index = (arrays.classes(sample, name) for name in ("pred_index", "index"))
        parts.append((classes, index, values))
    if not parts:
        empty = np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, len(STATISTICS)))
        parts.append(empty)
    classes, index, values = (np.concatenate(each) for each in zip(*parts, strict=True))
    order = np.argsort(classes, kind="stable")
    starts = np.searchsorted(classes[order], np.arange(len(setup.class_names) + 1))
    return FocusSample(starts, index[order], values[order])
