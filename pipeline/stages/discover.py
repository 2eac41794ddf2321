"""discover: per class, statistics and candidate shortcuts, from the tables alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray
from scipy import sparse

from pipeline.analysis.shortcuts import candidates, class_sample, metadata
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import arrays, parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import CANDIDATES, FOCUS, classes_schema

log = logging.getLogger(__name__)

OK = ds.field("status") == "ok"
MEANS = ("confidence", *FOCUS)
MANY = 1 << 14
"""Rows to add up at once."""
MOST_OTHERS = 3000
"""Images of all classes that each is compared with; so the work grows with the classes alone."""


def run(config: Config, _journal: Journal) -> None:
    """Write classes.parquet and candidates.parquet.

    Raises:
        NotFinished: where parts are missing.
    """
    folder = RunFolder(config.folder)
    setup = run_folder.read_plan(folder, []).setup
    rows = run_folder.rows(folder, setup)
    parquet.write(class_table(rows, setup), folder.analysis("classes"))
    drawn = class_sample.draw(rows, setup, config.analysis.sample_per_class, config.seed)
    everyone = np.random.default_rng(config.seed).permutation(len(drawn.index))[:MOST_OTHERS]
    found = [
        candidate
        for class_index in np.unique(drawn.classes)
        for candidate in _candidates(config, setup, drawn, everyone, int(class_index))
    ]
    found += _of_metadata(config, setup, run_folder.planned(folder), rows)
    log.info("%d candidates in %d classes", len(found), len(setup.class_names))
    parquet.write(pa.Table.from_pylist(found, CANDIDATES), folder.analysis("candidates"))


def class_table(rows: Rows, setup: Setup) -> pa.Table:
    """Counts and means of every class, in one pass over the rows (classes_schema)."""
    n_classes = len(setup.class_names)
    counts = {
        name: np.zeros(n_classes, np.int64)
        for name in ("n_label", "n_pred", "n_correct", "dead_maps")
    }
    cells = setup.grid[0] * setup.grid[1]
    means = _Means(n_classes, len(MEANS) + cells)
    read = ["label_index", "pred_index", "heatmap_max", "heatmap", *MEANS]
    for batch in _many(rows.to_batches(columns=read, filter=OK)):
        predicted, label = (arrays.classes(batch, name) for name in ("pred_index", "label_index"))
        dead = batch["heatmap_max"].to_numpy() == 0
        for name, classes in (
            ("n_label", label[label >= 0]),
            ("n_pred", predicted),
            ("n_correct", predicted[predicted == label]),
            ("dead_maps", predicted[dead]),
        ):
            counts[name] += np.bincount(classes, minlength=n_classes)
        maps = batch["heatmap"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        numbers = [arrays.numbers(batch, name) for name in MEANS]
        means.add(predicted, np.column_stack([*numbers, maps.reshape(len(predicted), cells)]))
    return _as_table(setup, counts, means.values())


def _many(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Batches in tables of MANY rows and more, but for the last; of small parts each is small."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        if sum(map(len, held)) >= MANY:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


class _Means:
    """Running means of columns per class; NaN does not count."""

    def __init__(self, n_classes: int, width: int) -> None:
        self.total = np.zeros((n_classes, width))
        self.count = np.zeros((n_classes, width))

    def add(self, classes: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Take values (n, width) of images of classes (n,).

        The totals so far are the first term of each sum, so that the size of a batch does not
        show in a sum.
        """
        n_classes = len(self.total)
        of = np.concatenate([np.arange(n_classes), classes])
        shape = (n_classes, len(of))
        members = sparse.csr_array((np.ones(len(of)), (of, np.arange(len(of)))), shape)
        self.total = members @ np.concatenate([self.total, np.nan_to_num(values)])
        self.count = members @ np.concatenate([self.count, ~np.isnan(values)])

    def values(self) -> NDArray[np.float64]:
        """(n_classes, width), NaN where nothing was counted."""
        return np.divide(
            self.total, self.count, where=self.count > 0, out=np.full_like(self.total, np.nan)
        )


def _as_table(
    setup: Setup, counts: dict[str, NDArray[np.int64]], means: NDArray[np.float64]
) -> pa.Table:
    schema = classes_schema(setup.grid)
    cells: dict[str, Any] = {
        "class_index": range(len(setup.class_names)),
        "class_name": setup.class_names,
        **counts,
        **dict(zip(MEANS, means.T, strict=False)),
        "heatmap": [None if np.isnan(row).any() else row for row in means[:, len(MEANS) :]],
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        cells["accuracy"] = counts["n_correct"] / counts["n_label"]
        cells["precision"] = counts["n_correct"] / np.where(
            counts["n_label"].any(), counts["n_pred"], 0
        )
    arrays = [pa.array(cells[field.name], field.type, from_pandas=True) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _candidates(
    config: Config,
    setup: Setup,
    drawn: ClassSample,
    everyone: NDArray[np.int64],
    class_index: int,
) -> Iterable[dict[str, Any]]:
    """Rows of CANDIDATES for one class, whose images are compared with those of everyone else."""
    own = np.flatnonzero(drawn.classes == class_index)
    others = everyone[drawn.classes[everyone] != class_index]
    if min(len(own), len(others)) < candidates.LEAST:
        return []
    compared = drawn.at(np.concatenate([own, others]))
    rng = np.random.default_rng((config.seed, class_index))
    name, permutations = setup.class_names[class_index], config.analysis.permutations
    return candidates.of_class(name, class_index, compared, permutations, rng)


def _of_metadata(config: Config, setup: Setup, plan: Rows, rows: Rows) -> list[dict[str, Any]]:
    """Rows of CANDIDATES for the manifest's further columns, where it has any.

    They are read one after another, as there may be many.
    """
    if "metadata" not in plan.schema.names:
        return []
    said = rows.to_table(columns=["index", "pred_index", "label_index"], filter=OK)
    classes = [
        said[name].fill_null(-1).to_numpy().astype(np.int64)
        for name in ("pred_index", "label_index")
    ]
    tests: list[metadata.Association] = []
    for further in plan.schema.field("metadata").type:
        column = plan.to_table(columns={further.name: ds.field("metadata", further.name)})
        tests += metadata.associations(column.take(said["index"]), *classes)
    limits, names = config.analysis, setup.class_names
    found = [candidates.of_metadata(test, len(tests), names[test.class_index]) for test in tests]
    return [
        row
        for row in found
        if row["statistic"] >= limits.min_effect and row["p_value"] < limits.fdr
    ]
