"""What a run says of itself: run.json, the setup in its plan, the names of its committed parts."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, DataError, some
from pipeline.storage import files, paths, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup

PART = re.compile(r"part-(\d{5,})\.parquet")

Record = dict[str, Any]


@dataclass(frozen=True)
class RunOverview:
    """A run in short; what is None or empty is not known yet.

    started, ended (of the last attempt) and last_written are ISO 8601 in UTC. counts are images:
    planned, ok, error, labelled, correct; accuracy is correct / labelled, in [0, 1]. parts are
    committed and planned. seconds per stage and their sum, duration, are over all attempts.
    missing says in words what is not there yet, by what it is.
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
    """The folder of a run.

    Raises:
        ConfigError: where it is none; runs right inside it are named.
    """
    path = paths.to_path(where)
    if _is_run(path):
        return RunFolder(path)
    message = f"{path} is no run: there is neither run.json nor plan.parquet in it"
    if paths.is_remote(path):
        raise ConfigError(message)
    runs = sorted(inner.name for inner in path.iterdir() if _is_run(inner)) if path.is_dir() else []
    raise ConfigError(message + (f"; runs in it: {some(runs)}" if runs else ""))


def look(run: RunFolder) -> RunOverview:
    """All that is known of a run without reading a row of its parts.

    Raises:
        DataError: run.json or the plan is damaged.
    """
    record = _record(run)
    attempts: list[Record] = record.get("attempts") or []
    last = attempts[-1] if attempts else {}
    setup, missing = _setup(run)
    committed = _committed(run, setup) if setup else []
    counts = record.get("counts") or ({"planned": setup.n_images} if setup else {})
    seconds = _seconds(attempts)
    speeds = [attempt.get("images_per_second") for attempt in attempts]
    return RunOverview(
        run_id=run.path.resolve().name,
        folder=str(run.path),
        state=record.get("state") or "unknown",
        exit_code=record.get("exit_code"),
        message=last.get("message"),
        attempts=len(attempts),
        started=last.get("started"),
        ended=last.get("ended"),
        last_written=_last_written(run),
        counts=counts,
        accuracy=counts["correct"] / counts["labelled"] if counts.get("labelled") else None,
        parts={"committed": len(committed), "planned": setup.n_shards} if setup else {},
        **_how(setup),
        seconds=seconds,
        duration=round(sum(seconds.values()), 3),
        images_per_second=next((speed for speed in reversed(speeds) if speed), None),
        warnings=record.get("warnings") or [],
        false_findings=(record.get("verification") or {}).get("false_findings") or None,
        missing=missing | _not_there(run, setup, committed),
    )


def _is_run(path: Path) -> bool:
    return files.is_file(path / "run.json") or files.is_file(RunFolder(path).plan)


def _record(run: RunFolder) -> Record:
    """run.json as it stands there, empty where there is none."""
    path = run.path / "run.json"
    try:
        record = json.loads(files.read_text(path))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(record, dict):
        raise DataError(f"{path} is damaged: it holds no object")
    return record


def _setup(run: RunFolder) -> tuple[Setup | None, dict[str, str]]:
    """The setup in the plan's footer, or why there is none; the rest of a run can be shown."""
    if not files.is_file(run.plan):
        return None, {"plan": "no plan yet: the images have not been listed"}
    try:
        return run_folder.read_plan(run, columns=[]).setup, {}
    except ConfigError:
        return None, {"plan": "the plan was written by another version of camaudit"}


def _committed(run: RunFolder, setup: Setup) -> list[int]:
    """Shards with a part, by the names of the files: a footer each would be too many to read."""
    names = (
        PART.fullmatch(path.name) for path in files.names(run.part(0).parent, "part-*.parquet")
    )
    return [int(name[1]) for name in names if name and int(name[1]) < setup.n_shards]


def _not_there(run: RunFolder, setup: Setup | None, committed: list[int]) -> dict[str, str]:
    missing = {}
    if setup and len(committed) < setup.n_shards:
        done = sum(len(setup.rows(shard)) for shard in committed)
        missing["parts"] = (
            f"{len(committed):,} of {setup.n_shards:,} parts are committed ({done:,} of "
            f"{setup.n_images:,} images): the explain stage is not finished"
        )
    for table, stage in (("findings", "verify"), ("suspects", "rank")):
        if not files.is_file(run.analysis(table)):
            missing[table] = f"no {table} yet: the {stage} stage has not run"
    return missing


def _how(setup: Setup | None) -> dict[str, str | None]:
    """What was asked, and how, from what the plan holds."""
    settings = setup.settings if setup else {}
    decided = setup.decided if setup else {}
    data = [settings.get(f"dataset.{key}") for key in ("kind", "name", "path", "root", "factory")]
    model = [settings.get(f"model.{key}") for key in ("kind", "name", "factory")]
    single = {
        "checkpoint": settings.get("model.checkpoint"),
        "layer": decided.get("model.target_layer"),
        "method": settings.get("cam.method"),
        "precision": decided.get("precision"),
        "device": decided.get("device"),
    }
    return {
        "dataset": ", ".join(str(part) for part in data if part) or None,
        "model": ", ".join(str(part) for part in model if part) or None,
        **{name: None if value is None else str(value) for name, value in single.items()},
    }


def _seconds(attempts: list[Record]) -> dict[str, float]:
    total = Counter[str]()
    for attempt in attempts:
        total.update(attempt.get("seconds") or {})
    return {stage: round(seconds, 3) for stage, seconds in total.items()}


def _last_written(run: RunFolder) -> str:
    """When a file of the run was last committed, which moves the folder it is in."""
    written = (run.path / "run.json", run.plan, run.part(0).parent, run.analysis("").parent)
    latest = max(_written(place) for place in written)
    return datetime.fromtimestamp(latest, timezone.utc).isoformat(timespec="seconds")


def _written(place: Path) -> float:
    """When a file or folder was written, 0 where it is not there; a bucket has no folders."""
    if paths.is_remote(place):
        return files.modified(place) or 0.0
    return place.stat().st_mtime if place.exists() else 0.0
