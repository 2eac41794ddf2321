"""discover: per class, statistics and candidate shortcuts, from the tables alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
from numpy.typing import NDArray

from pipeline import store
from pipeline.config import Config
from pipeline.ops import Journal
from pipeline.schema import CANDIDATES, FOCUS, Setup, classes_schema
from pipeline.shortcuts import candidates, metadata, sample
from pipeline.shortcuts.sample import Sample
from pipeline.store import Rows, RunFolder

log = logging.getLogger(__name__)

OK = ds.field("status") == "ok"
MOST_OTHERS = 3000
"""Images of all classes that each is compared with; so the work grows with the classes alone."""


def run(config: Config, _journal: Journal) -> None:
    """Write classes.parquet and candidates.parquet.

    Raises:
        NotFinished: where parts are missing.
    """
    folder = RunFolder(config.folder)
    setup = store.read_plan(folder, []).setup
    rows = store.rows(folder, setup)
    store.write(class_table(rows, setup), folder.analysis("classes"))
    drawn = sample.draw(rows, setup, config.analysis.sample_per_class, config.seed)
    everyone = np.random.default_rng(config.seed).permutation(len(drawn.index))[:MOST_OTHERS]
    found = [
        candidate
        for class_index in np.unique(drawn.classes)
        for candidate in _candidates(config, setup, drawn, everyone, int(class_index))
    ]
    found += _of_metadata(config, setup, store.planned(folder), rows)
    log.info("%d candidates in %d classes", len(found), len(setup.class_names))
    store.write(pa.Table.from_pylist(found, CANDIDATES), folder.analysis("candidates"))


def class_table(rows: Rows, setup: Setup) -> pa.Table:
    """Counts and means of every class, in one pass over the rows (classes_schema)."""
    n_classes = len(setup.class_names)
    counts = {
        name: np.zeros(n_classes, np.int64)
        for name in ("n_label", "n_pred", "n_correct", "dead_maps")
    }
    means = {name: _Mean(n_classes) for name in ("confidence", *FOCUS)}
    maps = _Mean(n_classes, setup.grid[0] * setup.grid[1])
    columns = ["label_index", "pred_index", "heatmap_max", "heatmap", "confidence", *FOCUS]
    for batch in rows.to_batches(columns=columns, filter=OK):
        predicted = batch["pred_index"].to_numpy(zero_copy_only=False)
        label = batch["label_index"].fill_null(-1).to_numpy(zero_copy_only=False)
        dead = batch["heatmap_max"].to_numpy() == 0
        for name, classes in (
            ("n_label", label[label >= 0]),
            ("n_pred", predicted),
            ("n_correct", predicted[predicted == label]),
            ("dead_maps", predicted[dead]),
        ):
            counts[name] += np.bincount(classes, minlength=n_classes)
        for name, mean in means.items():
            mean.add(predicted, batch[name].to_numpy(zero_copy_only=False))
        flat = batch["heatmap"].flatten().to_numpy(zero_copy_only=False)
        maps.add(predicted, flat.astype(np.float64))
    return _as_table(setup, counts, means, maps)


class _Mean:
    """Running means of a column, or of rows of a matrix, per class; NaN does not count."""

    def __init__(self, n_classes: int, width: int = 1) -> None:
        self.total = np.zeros((n_classes, width))
        self.count = np.zeros((n_classes, width), np.int64)

    def add(self, classes: NDArray[Any], values: NDArray[Any]) -> None:
        values = values.reshape(-1, self.total.shape[1])
        np.add.at(self.total, classes, np.nan_to_num(values))
        np.add.at(self.count, classes, ~np.isnan(values))

    def values(self) -> NDArray[np.float64]:
        """(n_classes, width), NaN where nothing was counted."""
        return np.divide(
            self.total, self.count, where=self.count > 0, out=np.full_like(self.total, np.nan)
        )


def _as_table(
    setup: Setup, counts: dict[str, NDArray[np.int64]], means: dict[str, _Mean], maps: _Mean
) -> pa.Table:
    schema = classes_schema(setup.grid)
    columns: dict[str, Any] = {
        "class_index": range(len(setup.class_names)),
        "class_name": setup.class_names,
        **counts,
        **{name: mean.values()[:, 0] for name, mean in means.items()},
        "heatmap": [None if np.isnan(row).any() else row for row in maps.values()],
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        columns["accuracy"] = counts["n_correct"] / counts["n_label"]
        columns["precision"] = counts["n_correct"] / np.where(
            counts["n_label"].any(), counts["n_pred"], 0
        )
    arrays = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


def _candidates(
    config: Config,
    setup: Setup,
    drawn: Sample,
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
