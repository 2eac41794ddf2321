"""Check the rows of a run: counts, warnings about the audit, and the last lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.errors import DataError, GateError
from pipeline.run.state import Journal
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.sample import EXPLAINED

log = logging.getLogger(__name__)

COLUMNS = ["label_index", "pred_index", "heatmap_max", "focus_peak_x", "focus_peak_y"]
MAX_SHARE = 0.5
"""Share of heatmaps, dead or with the peak in one corner cell, above which there is a warning."""


def review(run: RunFolder, setup: Setup, journal: Journal) -> None:
    """Count the rows of a finished explain stage; warn about results that cannot be trusted."""
    counted = _RowCounts(setup)
    for batch in run_folder.rows(run, setup).to_batches(columns=COLUMNS, filter=EXPLAINED):
        counted.add(batch)
    journal.counts = {
        "planned": setup.n_images,
        "ok": counted.ok,
        "error": setup.n_images - counted.ok,
        "labelled": int(counted.labels.sum()),
        "correct": counted.correct,
    }
    for warning in _warnings(counted):
        journal.warn(warning)


class _RowCounts:
    """Counts of explained images: all, correct, with a dead heatmap, by corner cell, by label."""

    def __init__(self, setup: Setup) -> None:
        self.grid = setup.grid
        self.ok = self.correct = self.dead = 0
        self.corners = np.zeros(4, np.int64)
        self.labels = np.zeros(len(setup.class_names), np.int64)

    def add(self, batch: pa.RecordBatch) -> None:
        """Add a batch of explained rows with COLUMNS."""
        label = batch["label_index"]
        self.ok += batch.num_rows
        self.correct += pc.sum(pc.equal(label, batch["pred_index"])).as_py() or 0
        self.dead += pc.sum(pc.equal(batch["heatmap_max"], 0)).as_py() or 0
        self.labels += np.bincount(label.drop_null(), minlength=len(self.labels))
        x = batch["focus_peak_x"].to_numpy(zero_copy_only=False) * self.grid[1]
        y = batch["focus_peak_y"].to_numpy(zero_copy_only=False) * self.grid[0]
        right, bottom = x > self.grid[1] - 1, y > self.grid[0] - 1
        at = [(x < 1) & (y < 1), (x < 1) & bottom, right & (y < 1), right & bottom]
        self.corners += np.count_nonzero(at, axis=1)

    @property
    def corner_share(self) -> float:
        """Share of heatmaps that peak in the commonest corner cell; 0 on grids below 3 x 3."""
        return 0.0 if min(self.grid) < 3 else float(self.corners.max() / self.ok)


def log_results(config: Config, journal: Journal) -> None:
    """Log counts, the first findings and suspects, and the path of the report."""
    run, counts = RunFolder(config.folder), journal.counts
    if counts:
        log.info("%d images planned: %d explained, %d errors", *list(counts.values())[:3])
    if counts.get("labelled"):
        log.info("accuracy %.1f %%", 100 * counts["correct"] / counts["labelled"])
    if "verify" in config.stages:
        findings = parquet.read(run.analysis("findings"), ["verdict", "summary"])
        log.info("%d findings", findings.num_rows)
        for finding in findings.slice(0, 5).to_pylist():
            log.info("  %s: %s", finding["verdict"], finding["summary"])
    if "rank" in config.stages:
        kinds = pc.value_counts(
            parquet.read(run.analysis("suspects"), ["kind"])["kind"]
        ).to_pylist()
        by_kind = ", ".join(f"{kind['counts']} {kind['values']}" for kind in kinds)
        log.info("suspects: %s", by_kind or "none")
    if "report" in config.stages:
        log.info("report: %s", run.report / "index.html")


def check_errors(config: Config, journal: Journal) -> None:
    """Fail a run with too many error rows.

    Raises:
        DataError: the share of error rows is above data.max_error_rate.
    """
    planned, errors = journal.counts.get("planned", 0), journal.counts.get("error", 0)
    if planned and errors / planned > config.data.max_error_rate:
        raise DataError(
            f"{errors} of {planned} images could not be used ({errors / planned:.1%}), more than "
            f"data.max_error_rate={config.data.max_error_rate:g}; the error column says why"
        )


def check_gate(config: Config, journal: Journal) -> None:
    """Fail a run whose stage gate found broken limits.

    Raises:
        GateError: the message has one line for each broken limit.
    """
    broken = journal.broken_limits
    if "gate" in config.stages and broken:
        raise GateError("\n".join(broken))


def _warnings(counted: _RowCounts) -> Iterator[str]:
    if counted.ok == 0:
        yield "no image could be explained"
        return
    dead = counted.dead / counted.ok
    if dead > MAX_SHARE:
        yield f"{dead:.0%} of the heatmaps are empty: no evidence for the prediction at this layer"
    if counted.corner_share > MAX_SHARE:
        yield (
            f"{counted.corner_share:.0%} of the heatmaps peak in the same corner cell: often an "
            "artefact of padding or of the layer, not of the images"
        )
    yield from _warn_at_chance(counted)


def _warn_at_chance(counted: _RowCounts) -> Iterator[str]:
    """Warn if accuracy is not above that of the commonest class (one-sided binomial test, 1 %)."""
    from scipy import special  # noqa: PLC0415 - takes half a second

    if np.count_nonzero(counted.labels) < 2:
        return
    labelled = int(counted.labels.sum())
    commonest = counted.labels.max() / labelled
    if special.bdtrc(counted.correct - 1, labelled, commonest) > 0.01:
        yield (
            f"accuracy is {counted.correct / labelled:.1%}, no better than predicting always "
            f"the commonest class ({commonest:.1%}): check class names, preprocessing and "
            "checkpoint"
        )
