"""The table of stages agrees with the settings, and with the files that the stages write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helpers.small_data import write_images
from pipeline.config import STAGES as NAMES
from pipeline.config import Config
from pipeline.stages.audit import audit
from pipeline.stages.stage import BY_NAME, PARTS, REPORT, STAGES, writer_of
from pipeline.storage.run_folder import RunFolder


def test_the_settings_name_the_same_stages_in_the_same_order() -> None:
    assert tuple(stage.name for stage in STAGES) == NAMES


def test_a_stage_reads_only_what_an_earlier_stage_writes() -> None:
    written: set[str] = set()
    for stage in STAGES:
        assert set(stage.reads) <= written, stage.name
        written |= set(stage.writes)
    assert (writer_of(PARTS), writer_of("findings"), writer_of(REPORT)) == (
        "explain",
        "verify",
        "report",
    )


def test_each_stage_writes_the_tables_that_it_declares(
    configure: Callable[..., Config], tmp_path: Path, small_model: list[str]
) -> None:
    write_images(tmp_path / "photos", 6)
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / "empty").mkdir()
    quick = ["analysis.permutations=20", "analysis.trials=10"]
    config = configure(f"dataset.root={tmp_path}/photos", *small_model, *quick)
    run = RunFolder(config.folder)
    seen: set[str] = set()
    for name in ("explain", "discover", "verify", "rank"):
        config.stages = [name]
        audit(config)
        tables = {path.stem for path in run.analysis("").parent.glob("*.parquet")}
        assert tables - seen == set(BY_NAME[name].writes) - {PARTS}, name
        seen = tables
    config.stages = ["report"]
    audit(config)
    page = "".join(path.read_text(encoding="utf-8") for path in run.report.glob("*.html"))
    assert "1 .txt" in page  # files that are no images are listed
    assert "empty" in page  # so is a class folder without images
