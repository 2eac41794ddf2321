"""The rank stage: the images to review first, one row each, with reasons in words.

The rows are read three times in batches: to learn what is usual for classes and labels, to score
every image, and to read the texts of the suspects that are kept. Then the decisions that a person
has made in an earlier review (rank.decisions) are applied to the suspects.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.ranking import (
    decisions,
    focus_outliers,
    label_errors,
    linear_probe,
    members,
    suspects,
)
from pipeline.analysis.ranking.focus_outliers import ClassFocus
from pipeline.analysis.ranking.label_errors import LabelJudge, Pool
from pipeline.analysis.ranking.suspects import Evidence, TopSuspects
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import arrays, parquet, run_folder
from pipeline.storage.arrays import NO_CLASS
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.sample import EXPLAINED, draw_per_class
from pipeline.storage.scan import Rows
from pipeline.storage.schema import Row
from pipeline.storage.values import Mark

log = logging.getLogger(__name__)

MAX_CELLS = 1 << 23
"""Most probabilities (rows times classes) of a batch: 32 MB."""
MAX_ROWS = 1 << 15
"""Most rows of a batch."""
KINDS_KEY = b"kinds"
"""Key of the metadata of suspects.parquet: number of all suspects by kind, also those cut off."""
FIT_ROWS = 5_000
"""Number of labelled images to which the three parameters of the pool are fitted."""


def run(config: Config, _journal: Journal) -> None:
    """Write suspects.parquet and decisions.parquet.

    Raises:
        NotFinished: parts, findings or members are missing.
        ConfigError: the decisions cannot be read.
    """
    folder = RunFolder(config.folder)
    decided = decisions.read_decisions(config.rank.decisions)
    setup = run_folder.read_plan(folder, []).setup
    rows = run_folder.rows(folder, setup)
    evidence = Evidence(
        learn_labels(rows, setup, config.seed),
        learn_focus(rows, setup, config.analysis.sample_per_class, config.seed),
        members.join_members(
            parquet.read(folder.analysis("members")), parquet.read(folder.analysis("findings"))
        ),
    )
    n_wanted = config.analysis.max_suspects
    top = TopSuspects(n_wanted + sum(row["mark"] == Mark.FINE for row in decided.values()))
    kinds = Counter[str]()
    for batch in _batches(rows, setup, suspects.COLUMNS):
        scores = evidence.scores(batch)
        kinds.update(suspects.strongest_kinds(scores))
        score = scores.max(axis=1)
        top.add(arrays.classes(batch, "index"), score, arrays.numbers(batch, "loss"))
    kept = rows.at(top.index, [*suspects.COLUMNS, *suspects.TEXTS, *decisions.IMAGE_COLUMNS])
    ranked = suspects.suspects_table(top, kept, evidence)
    images = kept.select(["index", *decisions.IMAGE_COLUMNS])
    reviewed = decisions.apply_decisions(
        ranked, images, decided, _planned(folder, decided), n_wanted
    )
    kinds.subtract(decisions.left_out_kinds(ranked, reviewed.decisions))
    counts = {KINDS_KEY: json.dumps(kinds).encode()}
    parquet.write(reviewed.suspects.replace_schema_metadata(counts), folder.analysis("suspects"))
    parquet.write(reviewed.decisions, folder.analysis("decisions"))
    _log_decisions(reviewed.decisions)


def _planned(run: RunFolder, decided: dict[str, Row]) -> pa.ChunkedArray:
    """Read the ids of planned images that a decision names."""
    wanted = pc.field("image_id").isin(pa.array(decided, pa.string()))
    return run_folder.planned(run).to_table(columns=["image_id"], filter=wanted)["image_id"]


def _log_decisions(reviewed: pa.Table) -> None:
    """Log how many decisions were applied, and how many were not."""
    states = Counter(reviewed["state"].to_pylist())
    if states:
        counted = ", ".join(f"{count} {decisions.STATES[name]}" for name, count in states.items())
        log.info("%d decisions: %s", reviewed.num_rows, counted)


def learn_labels(rows: Rows, setup: Setup, seed: int) -> LabelJudge:
    """Fit the linear probes to all labels of a run, and the pool to a sample of them."""
    fold = linear_probe.folds(setup.n_images, seed)
    moments = linear_probe.Moments(len(setup.class_names), setup.embedding_dim)
    labelled = [np.zeros(0, np.int64)]
    for batch in _batches(rows, setup, ["index", "label_index", "loss", "features"]):
        features = arrays.vectors(batch, "features", setup.embedding_dim)
        labels, index = (arrays.classes(batch, name) for name in ("label_index", "index"))
        weights = label_errors.prob_right(arrays.numbers(batch, "loss"), len(setup.class_names))
        labelled.append(index[labels != NO_CLASS])
        use = (labels != NO_CLASS) & features.any(axis=1)
        moments.add(features[use], labels[use], weights[use], fold[index][use])
    unfitted = LabelJudge(Pool(), moments.probes(), fold, setup.class_names, setup.embedding_dim)
    n_rows = min(FIT_ROWS, MAX_CELLS // len(setup.class_names))
    drawn = np.random.default_rng(seed).permutation(np.concatenate(labelled))[:n_rows]
    return unfitted.fit_pool(rows.at(drawn, label_errors.COLUMNS))


def learn_focus(rows: Rows, setup: Setup, per_class: int, seed: int) -> ClassFocus:
    """Learn the usual focus of each predicted class from a sample of its images."""
    sample = draw_per_class(rows, per_class, seed)
    table = rows.at(sample.index, ["pred_index", *focus_outliers.WORDS])
    values, classes = suspects.read_focus(table)
    return focus_outliers.learn(values, classes, len(setup.class_names), sample.n_images)


def _batches(rows: Rows, setup: Setup, names: list[str]) -> Iterator[pa.Table]:
    """Read all explained rows in batches of at most MAX_CELLS probabilities."""
    size = min(MAX_ROWS, max(1, MAX_CELLS // len(setup.class_names)))
    for batch in rows.to_batches(columns=names, filter=EXPLAINED, batch_size=size):
        yield pa.Table.from_batches([batch])
