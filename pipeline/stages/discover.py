"""The discover stage: statistics of every class, and candidate shortcuts from its concepts."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

from pipeline.analysis import local_features
from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.shortcuts import (
    candidate_rows,
    candidates,
    class_sample,
    metadata,
    metadata_candidates,
)
from pipeline.analysis.shortcuts.candidate_rows import ClassImages, OtherImages
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import arrays, parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.sample import EXPLAINED
from pipeline.storage.scan import Rows
from pipeline.storage.schema import CANDIDATES, FOCUS, Row, classes_schema, concepts_schema

log = logging.getLogger(__name__)

MEANS = ("confidence", *FOCUS)
"""Columns whose means over each class are written."""
MIN_BATCH_ROWS = 1 << 14
"""Fewest rows whose statistics are added up at once."""
MAX_OTHERS = 300
"""Most images of all classes in which the cue of a class is sought, for the group table."""


def run(config: Config, _journal: Journal) -> None:
    """Write classes.parquet, candidates.parquet and concepts.parquet.

    Raises:
        NotFinished: if parts are missing.
    """
    folder = RunFolder(config.folder)
    setup = run_folder.read_plan(folder, []).setup
    rows = run_folder.rows(folder, setup)
    parquet.write(class_table(rows, setup), folder.analysis("classes"))
    found: list[Row] = []

    def concepts() -> Iterator[pa.Table]:  # large, so that each is written before the next is made
        for row, table in _find_candidates(config, setup, rows):
            found.append(row)
            yield table

    parquet.write_groups(concepts(), concepts_schema(setup.grid), folder.analysis("concepts"))
    found += _metadata_candidates(config, setup, run_folder.planned(folder), rows)
    log.info("%d candidates in %d classes", len(found), len(setup.class_names))
    parquet.write(pa.Table.from_pylist(found, CANDIDATES), folder.analysis("candidates"))


def class_table(rows: Rows, setup: Setup) -> pa.Table:
    """Compute the counts and means of every class in one pass over the rows (classes_schema)."""
    n_classes = len(setup.class_names)
    counts = {
        name: np.zeros(n_classes, np.int64)
        for name in ("n_label", "n_pred", "n_correct", "dead_maps")
    }
    cells = setup.grid[0] * setup.grid[1]
    means = _ClassMeans(n_classes, len(MEANS) + cells)
    read = ["label_index", "pred_index", "heatmap_max", "heatmap", *MEANS]
    for batch in _merge_batches(rows.to_batches(columns=read, filter=EXPLAINED)):
        predicted, label = (arrays.classes(batch, name) for name in ("pred_index", "label_index"))
        dead = batch["heatmap_max"].to_numpy() == 0
        for name, counted in (
            ("n_label", label[label >= 0]),
            ("n_pred", predicted),
            ("n_correct", predicted[predicted == label]),
            ("dead_maps", predicted[dead]),
        ):
            counts[name] += np.bincount(counted, minlength=n_classes)
        maps = batch["heatmap"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        numbers = [arrays.numbers(batch, name) for name in MEANS]
        means.add(predicted, np.column_stack([*numbers, maps.reshape(len(predicted), cells)]))
    return _as_table(setup, counts, means.values())


def _merge_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Merge batches, which are small in small parts, to tables of at least MIN_BATCH_ROWS rows.

    The last table may be smaller.
    """
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(map(len, pending)) >= MIN_BATCH_ROWS:
            yield pa.Table.from_batches(pending)
            pending = []
    if pending:
        yield pa.Table.from_batches(pending)


class _ClassMeans:
    """Running means of columns per class; NaN values are left out."""

    def __init__(self, n_classes: int, width: int) -> None:
        self.total = np.zeros((n_classes, width))
        self.count = np.zeros((n_classes, width))

    def add(self, classes: NDArray[np.int64], values: NDArray[np.float64]) -> None:
        """Add values (n, width) of images with class indices (n,).

        The totals so far are the first term of each sum, so that the size of a batch does not
        change the rounding of a sum.
        """
        n_classes = len(self.total)
        labels = np.concatenate([np.arange(n_classes), classes])
        n = len(labels)
        one_hot = sparse.csr_array((np.ones(n), (labels, np.arange(n))), (n_classes, n))
        self.total = one_hot @ np.concatenate([self.total, np.nan_to_num(values)])
        self.count = one_hot @ np.concatenate([self.count, ~np.isnan(values)])

    def values(self) -> NDArray[np.float64]:
        """Compute the means (n_classes, width); NaN for a class without values."""
        return np.divide(
            self.total, self.count, where=self.count > 0, out=np.full_like(self.total, np.nan)
        )


def _as_table(
    setup: Setup, counts: dict[str, NDArray[np.int64]], means: NDArray[np.float64]
) -> pa.Table:
    schema = classes_schema(setup.grid)
    columns: dict[str, object] = {
        "class_index": range(len(setup.class_names)),
        "class_name": setup.class_names,
        **counts,
        **dict(zip(MEANS, means.T, strict=False)),
        "heatmap": [None if np.isnan(row).any() else row for row in means[:, len(MEANS) :]],
    }
    with np.errstate(invalid="ignore", divide="ignore"):
        columns["accuracy"] = counts["n_correct"] / counts["n_label"]
        columns["precision"] = counts["n_correct"] / np.where(
            counts["n_label"].any(), counts["n_pred"], 0
        )
    filled = [pa.array(columns[field.name], field.type, from_pandas=True) for field in schema]
    return pa.Table.from_arrays(filled, schema=schema)


def _find_candidates(config: Config, setup: Setup, rows: Rows) -> Iterator[tuple[Row, pa.Table]]:
    """Find the candidates of every class that has enough images, and their rows of concepts."""
    model = AuditedModel.load(config, setup)
    sample = class_sample.draw_sample(rows, config.analysis.sample_per_class, config.seed)
    if model.classifier.n_outputs < 2 or not len(sample.index):
        return
    rng = np.random.default_rng(config.seed)
    compared = sample.select(np.sort(rng.permutation(len(sample.index))[:MAX_OTHERS]))
    pixels, _ = model.load_images(compared.index)
    others = OtherImages(
        compared, *model.activations(pixels), local_features.pixel_features(pixels)
    )
    for class_index in np.unique(np.concatenate([sample.predicted, sample.own])).tolist():
        own = sample.images_of(
            class_index,
            config.analysis.sample_per_class,
            np.random.default_rng((config.seed, class_index)),
        )
        if len(own.index) < candidate_rows.MIN_IMAGES:
            continue
        pixels, _ = model.load_images(own.index)
        evidence = model.evidence(pixels, class_index)
        images = ClassImages(
            class_index,
            setup.class_names[class_index],
            own,
            evidence,
            model.activity(pixels, evidence.activations),
            model.is_local,
            local_features.pixel_features(pixels),
        )
        yield from candidates.find_candidates(images, others, config.seed)
    log.info("the search for candidates took the target layer of %d images", model.n_predicted)


def _metadata_candidates(config: Config, setup: Setup, plan: Rows, rows: Rows) -> list[Row]:
    """Find metadata columns that are associated with a prediction, given the label, or that say the
    same as a label.

    The columns are read one after another, because there may be many.
    """
    if "metadata" not in plan.schema.names:
        return []
    predictions = rows.to_table(columns=["index", "pred_index", "label_index"], filter=EXPLAINED)
    classes = [
        predictions[name].fill_null(-1).to_numpy().astype(np.int64)
        for name in ("pred_index", "label_index")
    ]
    limits, names = config.analysis, setup.class_names
    tests: list[metadata.Association] = []
    same: list[metadata.Confounder] = []
    for field in plan.schema.field("metadata").type:
        column = plan.to_table(columns={field.name: pc.field("metadata", field.name)})
        column = column.take(predictions["index"])
        tests += metadata.find_associations(column, *classes)
        same += metadata.find_confounders(column, classes[1], names)
    candidate_rows = [
        metadata_candidates.candidate_of_association(test, len(tests), names[test.class_index])
        for test in tests
    ]
    associated = [
        row
        for row in candidate_rows
        if row["statistic"] >= limits.min_effect and row["p_value"] < limits.fdr
    ]
    known = {row["candidate_id"] for row in associated}
    confounded = [
        metadata_candidates.candidate_of_confounder(each, names[each.class_index]) for each in same
    ]
    return associated + [row for row in confounded if row["candidate_id"] not in known]
