"""The report stage: the tables of a run as a static site, for a browser with or without a server.

The first page holds the aggregates and the first suspects. The page loads everything else on demand
from files beside it. Every picture is drawn once.
"""

from __future__ import annotations

import logging
from datetime import datetime

import pyarrow as pa

from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.data.pictures import Rgb
from pipeline.errors import AuditError, DataError
from pipeline.report import aggregates, overlay
from pipeline.report.images import Read, ReportImages
from pipeline.report.overview import RunFacts
from pipeline.report.page import Pages
from pipeline.report.site import ReportTables, Site
from pipeline.run.state import Journal
from pipeline.run.versions import versions
from pipeline.stages.compare import METADATA_KEY
from pipeline.storage import atomic, files, parquet, run_folder
from pipeline.storage.run_folder import RunFolder

log = logging.getLogger(__name__)


def run(config: Config, journal: Journal) -> None:
    """Write the folder report; an earlier report stays until the new one is complete.

    Raises:
        ConfigError: the colour map is unknown.
        NotFinished: an earlier stage has not run (with a baseline, compare too).
    """
    overlay.colormap_code(config.report.colormap)
    folder = RunFolder(config.folder)
    tables = _tables(folder)
    totals = aggregates.count_rows(tables.rows)
    focus = aggregates.sample_focus(
        tables.rows, tables.setup, config.analysis.sample_per_class, config.seed
    )
    with atomic.replaced_folder(folder.report, last="index.html") as draft:
        images = ReportImages(draft, config.report, tables.setup, open_reader(config))
        site = Site(config, tables, focus, images, Pages(draft))
        site.write(run_facts(config, journal), totals, _changes(config, folder))


def open_reader(config: Config) -> Read:
    """Return read(index, image_id), which reads the pixels (H, W, 3) uint8 RGB of a planned image.

    read raises the exception of the dataset for an image that can no longer be read, and DataError
    if the dataset has changed.
    """
    try:
        source = open_source(config.dataset, config.data.max_pixels)
    except AuditError as error:
        log.warning("the report shows no images: %s", error)
        gone = error

        def fail(_index: int, _image_id: str) -> Rgb:
            raise gone

        return fail

    def read(index: int, image_id: str) -> Rgb:
        if source.image_ids[index : index + 1] != [image_id]:
            raise DataError("the dataset has changed since it was audited")
        return source.read(index).pixels

    return read


def run_facts(config: Config, journal: Journal) -> RunFacts:
    """Facts about the run, over all attempts, that the report shows."""
    return RunFacts(
        run_id=config.run_id,
        date=f"{datetime.fromisoformat(journal.attempt.started):%Y-%m-%d %H:%M %Z}",
        warnings=journal.warnings,
        seconds=journal.seconds,
        images_per_second=journal.images_per_second,
        verification=journal.verification,
        engine=journal.engine,
        versions=versions(),
        seed=config.seed,
        gate=journal.gate,
    )


def _tables(folder: RunFolder) -> ReportTables:
    setup = run_folder.read_plan(folder, columns=[]).setup
    optional = {
        name: parquet.read(folder.analysis(name)).to_pylist()
        if files.is_file(folder.analysis(name))
        else []  # a run of an earlier version has no such table
        for name in ("interventions", "decisions", "trials")
    }
    return ReportTables(
        setup=setup,
        rows=run_folder.rows(folder, setup),
        findings=parquet.read(folder.analysis("findings")).to_pylist(),
        members=parquet.read(folder.analysis("members")),
        suspects=parquet.read(folder.analysis("suspects")),
        classes=parquet.read(folder.analysis("classes")).to_pylist(),
        n_candidates=parquet.read(folder.analysis("candidates"), ["candidate_id"]).num_rows,
        **optional,
    )


def _changes(config: Config, folder: RunFolder) -> tuple[pa.Table, str] | None:
    """Read CHANGES and the folder of the baseline; None without a baseline."""
    if config.baseline is None and not files.is_file(folder.analysis("changes")):
        return None
    table = parquet.read(folder.analysis("changes"))
    baseline = (table.schema.metadata or {}).get(METADATA_KEY, b"").decode()
    return table, baseline
