"""What a run says of itself: counts, warnings about the audit, and the last lines on the screen."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy import special

from pipeline import store
from pipeline.config import Config
from pipeline.errors import DataError, GateError
from pipeline.ops import Journal
from pipeline.schema import Setup
from pipeline.store import RunFolder

log = logging.getLogger(__name__)

COLUMNS = ["status", "label_index", "pred_index", "heatmap_max", "focus_peak_x", "focus_peak_y"]
MOST = 0.5
"""Share of maps, dead or peaking in one certain corner cell, above which a warning is given."""


def review(run: RunFolder, setup: Setup, journal: Journal) -> None:
    """Count the rows of a finished explain stage, and warn of what would be silently wrong."""
    rows = store.rows(run, setup).to_table(columns=COLUMNS)
    good = rows.filter(pc.equal(rows["status"], "ok"))
    journal.counts = {
        "planned": setup.n_images,
        "ok": good.num_rows,
        "error": rows.num_rows - good.num_rows,
        "labelled": good.num_rows - good["label_index"].null_count,
        "correct": pc.sum(pc.equal(good["label_index"], good["pred_index"])).as_py() or 0,
    }
    for warning in _warnings(good, setup, journal.counts):
        journal.warn(warning)


def tell(config: Config, journal: Journal) -> None:
    """Log counts, top findings and suspects, and where the report is."""
    run, counts = RunFolder(config.folder), journal.counts
    if counts:
        log.info("%d images planned: %d explained, %d errors", *list(counts.values())[:3])
    if counts.get("labelled"):
        log.info("accuracy %.1f %%", 100 * counts["correct"] / counts["labelled"])
    if "verify" in config.stages:
        findings = store.read(run.analysis("findings"), ["verdict", "summary"])
        log.info("%d findings", findings.num_rows)
        for finding in findings.slice(0, 5).to_pylist():
            log.info("  %s: %s", finding["verdict"], finding["summary"])
    if "rank" in config.stages:
        kinds = pc.value_counts(store.read(run.analysis("suspects"), ["kind"])["kind"]).to_pylist()
        told = ", ".join(f"{kind['counts']} {kind['values']}" for kind in kinds)
        log.info("suspects: %s", told or "none")
    if "report" in config.stages:
        log.info("report: %s", run.report / "index.html")


def check_errors(config: Config, journal: Journal) -> None:
    """End a run whose data could not be read.

    Raises:
        DataError: more error rows than data.max_error_rate allows.
    """
    planned, errors = journal.counts.get("planned", 0), journal.counts.get("error", 0)
    if planned and errors / planned > config.data.max_error_rate:
        raise DataError(
            f"{errors} of {planned} images could not be used ({errors / planned:.1%}), more than "
            f"data.max_error_rate={config.data.max_error_rate:g}; the error column says why"
        )


def check_gate(config: Config, journal: Journal) -> None:
    """End a run that found what it must not find.

    Raises:
        GateError: with a line for each limit that is broken.
    """
    broken = [check["line"] for check in journal.gate if check["broken"]]
    if "gate" in config.stages and broken:
        raise GateError("\n".join(broken))


def _warnings(good: pa.Table, setup: Setup, counts: dict[str, int]) -> Iterator[str]:
    if good.num_rows == 0:
        yield "no image could be explained"
        return
    dead = pc.sum(pc.equal(good["heatmap_max"], 0)).as_py() / good.num_rows
    if dead > MOST:
        yield f"{dead:.0%} of the heatmaps are empty: no evidence for the prediction at this layer"
    corner = _share_in_one_corner(good, setup.grid)
    if corner > MOST:
        yield (
            f"{corner:.0%} of the heatmaps peak in the same corner cell: often an artefact of "
            "padding or of the layer, not of the pictures"
        )
    if counts["labelled"]:
        yield from _chance(counts, good)


def _share_in_one_corner(good: pa.Table, grid: tuple[int, int]) -> float:
    """Largest share of maps that peak in one and the same corner cell; 0 on grids below 3 x 3."""
    if min(grid) < 3:
        return 0.0
    x = good["focus_peak_x"].to_numpy(zero_copy_only=False) * grid[1]
    y = good["focus_peak_y"].to_numpy(zero_copy_only=False) * grid[0]
    at = [(x < 1) & (y < 1), (x < 1) & (y > grid[0] - 1)]
    at += [(x > grid[1] - 1) & (y < 1), (x > grid[1] - 1) & (y > grid[0] - 1)]
    return max(float(np.mean(cell)) for cell in at)


def _chance(counts: dict[str, int], good: pa.Table) -> Iterator[str]:
    """Warn where accuracy does not beat naming the commonest class (one-sided binomial, 1 %)."""
    labels = pc.value_counts(good["label_index"].drop_null()).to_pylist()
    if len(labels) < 2:
        return
    commonest = max(label["counts"] for label in labels) / counts["labelled"]
    if special.bdtrc(counts["correct"] - 1, counts["labelled"], commonest) > 0.01:
        yield (
            f"accuracy is {counts['correct'] / counts['labelled']:.1%}, no better than naming the "
            f"commonest class ({commonest:.1%}): check class names, preprocessing and checkpoint"
        )
