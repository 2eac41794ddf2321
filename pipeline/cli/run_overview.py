"""A summary of a run, from run.json, the setup in its plan and the names of its parts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pipeline.errors import ConfigError, shorten_list
from pipeline.stages.stage import writer_of
from pipeline.storage import files, paths, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import Attempt, read_record
from pipeline.storage.run_setup import Setup

PART = re.compile(r"part-(\d{5,})\.parquet")


@dataclass(frozen=True)
class RunOverview:
    """A summary of a run; a value that is not known yet is None or empty.

    started, ended (of the last attempt) and last_written are ISO 8601 in UTC. counts holds numbers
    of images: planned, ok, error, labelled, correct; accuracy is correct / labelled, in [0, 1].
    parts holds numbers of parts: committed, planned. seconds per stage and their sum, duration, are
    over all attempts. missing maps "plan", "parts" or a table that is missing to a sentence.
    """

    run_id: str
    folder: str
    state: str
    exit_code: int | None
    message: str | None
    attempts: int
    started: str | None
    ended: str | None
    last_written: str
    counts: dict[str, int]
    accuracy: float | None
    parts: dict[str, int]
    dataset: str | None
    model: str | None
    checkpoint: str | None
    layer: str | None
    method: str | None
    precision: str | None
    device: str | None
    seconds: dict[str, float]
    duration: float
    images_per_second: float | None
    warnings: list[str]
    false_findings: str | None
    missing: dict[str, str]


def open_run(where: str | Path) -> RunFolder:
    """Open the folder of a run.

    Raises:
        ConfigError: the folder holds no run; the message names runs right inside it.
    """
    path = paths.to_path(where)
    if _is_run(path):
        return RunFolder(path)
    message = f"{path} is no run: there is neither run.json nor plan.parquet in it"
    runs = sorted(inner.name for inner in files.local_folders(path) if _is_run(inner))
    raise ConfigError(message + (f"; runs in it: {shorten_list(runs)}" if runs else ""))


def summarise_run(run: RunFolder) -> RunOverview:
    """Summarise a run without reading a row of its parts.

    Raises:
        DataError: run.json or the plan is damaged.
    """
    record = read_record(run.record)
    last = record.last or Attempt(started="")
    setup, missing = _setup(run)
    committed = _committed(run, setup) if setup else []
    return RunOverview(
        run_id=run.path.resolve().name,
        folder=str(run.path),
        state=record.state,
        exit_code=record.exit_code,
        message=last.message,
        attempts=len(record.attempts),
        started=last.started or None,
        ended=last.ended,
        last_written=_last_written(run),
        counts=record.counts or ({"planned": setup.n_images} if setup else {}),
        accuracy=record.accuracy,
        parts={"committed": len(committed), "planned": setup.n_shards} if setup else {},
        **_settings(setup),
        seconds=record.seconds,
        duration=round(sum(record.seconds.values()), 3),
        images_per_second=record.images_per_second,
        warnings=record.warnings,
        false_findings=record.verification.get("false_findings") or None,
        missing=missing | _missing(run, setup, committed),
    )


def _is_run(path: Path) -> bool:
    run = RunFolder(path)
    return files.is_file(run.record) or files.is_file(run.plan)


def _setup(run: RunFolder) -> tuple[Setup | None, dict[str, str]]:
    """Read the setup from the plan's footer; or None, and a sentence why there is none."""
    if not files.is_file(run.plan):
        return None, {"plan": "no plan yet: the images have not been listed"}
    try:
        return run_folder.read_plan(run, columns=[]).setup, {}
    except ConfigError:
        return None, {"plan": "the plan was written by another version of camaudit"}


def _committed(run: RunFolder, setup: Setup) -> list[int]:
    """Shards with a part, by the names of the files; reading every footer would take too long."""
    names = (
        PART.fullmatch(path.name) for path in files.names(run.part(0).parent, "part-*.parquet")
    )
    return [int(name[1]) for name in names if name and int(name[1]) < setup.n_shards]


def _missing(run: RunFolder, setup: Setup | None, committed: list[int]) -> dict[str, str]:
    """A sentence for each table that is missing, and for missing parts, by name."""
    missing = {}
    if setup and len(committed) < setup.n_shards:
        done = sum(len(setup.rows(shard)) for shard in committed)
        missing["parts"] = (
            f"{len(committed):,} of {setup.n_shards:,} parts are committed ({done:,} of "
            f"{setup.n_images:,} images): the explain stage is not finished"
        )
    for table in ("findings", "suspects"):
        if not files.is_file(run.analysis(table)):
            missing[table] = f"no {table} yet: the {writer_of(table)} stage has not run"
    return missing


def _settings(setup: Setup | None) -> dict[str, str | None]:
    """Dataset, model, layer, method, precision and device, from the setup of the plan."""
    if setup is None:
        names = ("dataset", "model", "checkpoint", "layer", "method", "precision", "device")
        return dict.fromkeys(names)
    settings, resolved = setup.settings, setup.resolved
    data = [settings.get(f"dataset.{key}") for key in ("kind", "name", "path", "root", "factory")]
    model = [settings.get(f"model.{key}") for key in ("kind", "name", "factory")]
    checkpoint = settings.get("model.checkpoint")
    return {
        "dataset": ", ".join(str(part) for part in data if part) or None,
        "model": ", ".join(str(part) for part in model if part) or None,
        "checkpoint": None if checkpoint is None else str(checkpoint),
        "layer": resolved.target_layer,
        "method": str(settings.get("cam.method")),
        "precision": resolved.precision,
        "device": resolved.device,
    }


def _last_written(run: RunFolder) -> str:
    """The time when a file of the run was last committed (ISO 8601, UTC)."""
    written = (run.record, run.plan, run.part(0).parent, run.analysis("").parent)
    latest = max(files.changed(path) or 0.0 for path in written)
    return datetime.fromtimestamp(latest, timezone.utc).isoformat(timespec="seconds")
