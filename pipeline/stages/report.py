"""report: the tables of a run as a static site, which opens from disk and from any web server.

The first page holds the aggregates and the top of the list; what else there is stands in files
beside it, which the page fetches when somebody asks. Every picture is drawn once.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import Any

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
from pipeline.storage import files, parquet, run_folder
from pipeline.storage.run_folder import RunFolder

log = logging.getLogger(__name__)

Row = dict[str, Any]


def run(config: Config, journal: Journal) -> None:
    """Write report/ anew; an earlier one stays until it is done.

    Raises:
        ConfigError: an unknown colour map.
        NotFinished: where a stage before has not run, with a baseline compare as well.
    """
    overlay.colormap_code(config.report.colormap)
    folder = RunFolder(config.folder)
    tables = _tables(folder)
    found = aggregates.aggregate(tables.rows)
    focus = aggregates.focus(
        tables.rows, tables.setup, config.analysis.sample_per_class, config.seed
    )
    with files.replaced_folder(folder.report, last="index.html") as draft:
        studio = ReportImages(draft, config.report, tables.setup, reader(config))
        site = Site(config, tables, focus, studio, Pages(draft))
        site.write(run_facts(config, journal), found, _changes(config, folder))


def reader(config: Config) -> Read:
    """A function from an image's plan position and id to its picture, (H, W, 3) uint8 RGB.

    It raises for an image that cannot be read now, whatever the dataset raises.
    """
    try:
        source = open_source(config.dataset, config.data.max_pixels)
    except AuditError as error:
        log.warning("the report has no pictures: %s", error)
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
        else []  # of a run that an earlier version verified and ranked
        for name in ("interventions", "decisions")
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
    """CHANGES and the baseline's folder, None without a baseline."""
    if config.baseline is None and not files.is_file(folder.analysis("changes")):
        return None
    table = parquet.read(folder.analysis("changes"))
    baseline = (table.schema.metadata or {}).get(METADATA_KEY, b"").decode()
    return table, baseline
