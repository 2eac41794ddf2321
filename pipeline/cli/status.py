"""camaudit-status: show which stages are done, which parts are missing, and the next command."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial

from omegaconf import ListConfig, OmegaConf

from pipeline.cli.parser import Parser, escaped, exit_code_of
from pipeline.cli.run_overview import RunOverview, open_run, summarise_run
from pipeline.errors import shorten_list
from pipeline.stages.stage import PARTS, REPORT, STAGES, Stage
from pipeline.storage import files, lock, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_record import COMPLETE, RUNNING, RunRecord, read_record

EXAMPLES = """\
examples:
  camaudit-status outputs/audit
  camaudit-status outputs/audit --verify          # reads every byte of every part again
  camaudit-status outputs/audit --json | jq -r .next

exit codes: 0 complete; 2 complete, and the gate is broken; 75 at work or not finished; 3 damaged
parts (--verify) or a damaged plan; 1 no run, or a wrong option
"""
DONE, MISSING, STALE = "done", "missing", "older than what it reads"
ATTEMPT_KEYS = ("started", "ended", "state", "exit_code", "message")


@dataclass(frozen=True)
class PartsStatus:
    """Numbers of parts: planned, committed; the shards of missing and of damaged parts.

    damaged is None where the bytes of the parts were not checked.
    """

    planned: int
    committed: int
    missing: list[int]
    damaged: list[int] | None


@dataclass(frozen=True)
class Status:
    """The status of a run; at_work tells whether a process holds the run now.

    images are the counts of run.json; stages maps each stage to DONE, MISSING or STALE; gate lists
    the broken limits; next is the command that continues the run, if there is one.
    """

    run_id: str
    state: str
    at_work: bool
    parts: PartsStatus
    images: dict[str, int]
    stages: dict[str, str]
    gate: list[str]
    attempts: list[dict[str, object]]
    next: str | None
    exit_code: int


def main(argv: Sequence[str] | None = None) -> int:
    """Print the status of a run and return the exit code.

    Raises:
        SystemExit: after --help, and for wrong options.
    """
    parser = Parser(
        "camaudit-status",
        "Show which stages of a run are done, which parts are missing, and the next command.",
        EXAMPLES,
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run: outputs/audit")
    parser.add_argument("--verify", action="store_true", help="read every byte of every part")
    parser.add_argument("--json", action="store_true", help="print the status as JSON")
    options = parser.parse_args(argv)
    command = partial(_print_status, options.run, verify=options.verify, as_json=options.json)
    return exit_code_of(parser.prog, command)


def _print_status(where: str, *, verify: bool, as_json: bool) -> int:
    status = status_of(open_run(where), verify=verify)
    text = json.dumps(asdict(status), indent=1) if as_json else "\n".join(_lines(status))
    sys.stdout.write(f"{text}\n")
    return status.exit_code


def status_of(run: RunFolder, *, verify: bool = False) -> Status:
    """Determine the status of a run; with `verify`, read every byte of its parts again.

    Raises:
        DataError: run.json or the plan is damaged.
    """
    overview, record = summarise_run(run), read_record(run.record)
    parts = _parts(run, verify=verify)
    at_work = lock.is_held(run.path)
    stages = _stages(run, record, complete=not parts.missing and parts.planned > 0)
    finished = overview.state == COMPLETE and set(stages.values()) <= {DONE}
    broken = record.broken_limits
    code = 3 if parts.damaged else 75 if at_work or not finished else 2 if broken else 0
    killed = overview.state == RUNNING and not at_work
    return Status(
        run_id=overview.run_id,
        state="killed" if killed else overview.state,
        at_work=at_work,
        parts=parts,
        images=overview.counts,
        stages=stages,
        gate=broken,
        attempts=[{key: getattr(each, key) for key in ATTEMPT_KEYS} for each in record.attempts],
        next=None if at_work or code in (0, 2) else _next(run, record, overview, parts, stages),
        exit_code=code,
    )


def _parts(run: RunFolder, *, verify: bool) -> PartsStatus:
    """Count the parts; a run without a plan has none."""
    if not files.is_file(run.plan):
        return PartsStatus(0, 0, [], None)
    setup = run_folder.read_plan(run, []).setup
    found = {part.name for part in files.names(run.part(0).parent, "part-*.parquet")}
    present = [shard for shard in range(setup.n_shards) if run.part(shard).name in found]
    check = run_folder.verify if verify else run_folder.missing_shards
    missing = check(run, setup)
    damaged = sorted(set(present) & set(missing)) if verify else None
    return PartsStatus(setup.n_shards, setup.n_shards - len(missing), missing, damaged)


def _stages(run: RunFolder, record: RunRecord, *, complete: bool) -> dict[str, str]:
    """Determine DONE, MISSING or STALE for each stage that the settings name."""
    wanted = record.config.get("stages") or [stage.name for stage in STAGES]
    states = {"explain": DONE if complete else MISSING} if "explain" in wanted else {}
    when = cache(partial(_when, run))  # several stages read the parts, of which there may be many
    for stage in STAGES:
        needs_baseline = stage.name == "compare" and not record.config.get("baseline")
        if stage.name in wanted and stage.writes and stage.name != "explain" and not needs_baseline:
            states[stage.name] = _stage_state(stage, when)
    return states


def _stage_state(stage: Stage, when: Callable[[str], float | None]) -> str:
    """STALE if a table that the stage reads is newer than one that it writes."""
    written = [when(name) for name in stage.writes]
    if None in written:
        return MISSING
    oldest = min(time for time in written if time is not None)
    read = [when(name) for name in stage.reads]
    return STALE if any(time is not None and time > oldest for time in read) else DONE


def _when(run: RunFolder, name: str) -> float | None:
    """Time (seconds since 1970) at which a table, the report or the newest part was written.

    None if the file does not exist.
    """
    if name == PARTS:
        return files.newest(run.part(0).parent, "part-*")
    return files.modified(run.report / "index.html" if name == REPORT else run.analysis(name))


def _next(
    run: RunFolder,
    record: RunRecord,
    overview: RunOverview,
    parts: PartsStatus,
    stages: dict[str, str],
) -> str | None:
    """The command that continues the run; None if the overrides of the last attempt are unknown."""
    overrides = _overrides(run, record)
    if overrides is None:
        return None
    todo = [stage for stage, state in stages.items() if state != DONE]
    from_start = parts.missing or overview.state != COMPLETE or "explain" in todo
    if todo and not from_start:
        overrides = [each for each in overrides if not each.startswith("stages=")]
        overrides.append(f"stages=[{','.join(todo)}]")
    return shlex.join(["camaudit", *overrides])


def _overrides(run: RunFolder, record: RunRecord) -> list[str] | None:
    """The overrides of the last attempt, from Hydra's files; in a bucket, from run.json."""
    kept = files.names(run.path, "attempts/*/.hydra/overrides.yaml")
    if not kept:
        return record.overrides or None
    loaded = OmegaConf.load(kept[-1])
    return [str(each) for each in loaded] if isinstance(loaded, ListConfig) else []


def _lines(status: Status) -> list[str]:
    parts, images = status.parts, status.images
    lines = [f"{status.run_id}: {status.state}" + (", at work now" if status.at_work else "")]
    lines.append(f"parts: {parts.committed:,} of {parts.planned:,} are committed")
    if parts.damaged:
        lines.append(f"damaged: {shorten_list([f'part-{shard:05d}' for shard in parts.damaged])}")
    elif parts.damaged is not None:
        lines.append("damaged: none, every byte was read again")
    if images.get("error"):
        lines.append(f"errors: {images['error']:,} of {images.get('planned', 0):,} images")
    lines += [f"{stage}: {state}" for stage, state in status.stages.items()]
    lines += [f"gate: {line}" for line in status.gate]
    for attempt in status.attempts[-3:]:
        code = "" if attempt["exit_code"] is None else f" with {attempt['exit_code']}"
        lines.append(f"attempt {attempt['started']}: {attempt['state']}{code}")
        lines += [f"  {line}" for line in str(attempt["message"] or "").splitlines()]
    lines.append(f"next: {status.next or ('wait' if status.at_work else 'nothing')}")
    return [escaped(line) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
