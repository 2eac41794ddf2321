"""camaudit-status: what of a run is done, what is missing, and the command that goes on."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import ListConfig, OmegaConf

from pipeline.cli.run_overview import RunOverview, look, open_run
from pipeline.cli.show import Parser
from pipeline.cli.text_cells import escaped
from pipeline.errors import AuditError, some
from pipeline.storage import files, lease, paths, run_folder
from pipeline.storage.run_folder import RunFolder

EXAMPLES = """\
examples:
  camaudit-status outputs/audit
  camaudit-status outputs/audit --verify          # reads every byte of every part again
  camaudit-status outputs/audit --json | jq -r .next

exit codes: 0 complete; 2 complete, and the gate is broken; 75 at work or not finished; 3 damaged
parts (--verify) or a damaged plan; 1 no run, or a wrong option
"""
STAGES = {
    "discover": (("candidates", "classes"), ()),
    "verify": (("findings", "members"), ("candidates",)),
    "rank": (("suspects",), ("findings",)),
    "compare": (("changes",), ("suspects",)),
    "report": (("report",), ("suspects", "findings")),
}
"""Stages after explain: the tables they write, and those that have to be older."""
DONE, MISSING, STALE = "done", "missing", "older than what it reads"


@dataclass(frozen=True)
class Status:
    """What is known: at_work is whether a process holds the run now; parts are committed, planned,
    the numbers of those that are missing and of those that are damaged (None: not looked at).
    """

    run_id: str
    state: str
    at_work: bool
    parts: dict[str, Any]
    images: dict[str, int]
    stages: dict[str, str]
    gate: list[str]
    attempts: list[dict[str, Any]]
    next: str | None
    exit_code: int


def main(argv: Sequence[str] | None = None) -> int:
    """Tell the status of a run and return the exit code.

    Raises:
        SystemExit: after --help, and where options are wrong.
    """
    parser = Parser(
        prog="camaudit-status",
        description="Tell what of a run is done, what is missing, and what to run next.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="folder of the run: outputs/audit")
    parser.add_argument("--verify", action="store_true", help="read every byte of every part")
    parser.add_argument("--json", action="store_true", help="all of it as JSON")
    options = parser.parse_args(argv)
    try:
        told = status(open_run(options.run), verify=options.verify)
    except (AuditError, OSError) as error:
        sys.stderr.write(f"camaudit-status: {escaped(error)}\n")
        return getattr(error, "exit_code", 1)
    text = json.dumps(asdict(told), indent=1) if options.json else "\n".join(_lines(told))
    sys.stdout.write(f"{text}\n")
    return told.exit_code


def status(run: RunFolder, *, verify: bool = False) -> Status:
    """What is known of a run.

    Raises:
        DataError: run.json or the plan is damaged.
    """
    overview, record = look(run), _record(run)
    parts = _parts(run, verify=verify)
    at_work = _is_held(run)
    stages = _stages(run, record, complete=not parts["missing"] and parts["planned"] > 0)
    attempts = record.get("attempts") or []
    broken = [check["line"] for check in record.get("gate") or [] if check["broken"]]
    finished = overview.state == "complete" and set(stages.values()) <= {DONE}
    code = 3 if parts["damaged"] else 75 if at_work or not finished else 2 if broken else 0
    return Status(
        run_id=overview.run_id,
        state=_state(overview, at_work=at_work),
        at_work=at_work,
        parts=parts,
        images=overview.counts,
        stages=stages,
        gate=broken,
        attempts=[
            {key: attempt.get(key) for key in ("started", "ended", "state", "exit_code", "message")}
            for attempt in attempts
        ],
        next=None if at_work or code in (0, 2) else _next(run, record, overview, parts, stages),
        exit_code=code,
    )


def _state(overview: RunOverview, *, at_work: bool) -> str:
    if overview.state != "running" or at_work:
        return overview.state
    return "killed"


def _record(run: RunFolder) -> dict[str, Any]:
    path = run.path / "run.json"
    record: dict[str, Any] = json.loads(files.read_text(path)) if files.is_file(path) else {}
    return record


def _is_held(run: RunFolder) -> bool:
    """Whether a process holds the run or a share of it."""
    if paths.is_remote(run.path):
        return lease.is_held(run.path)
    return any(_is_locked(path) for path in [run.path / ".lock", *run.path.glob(".lock-*")])


def _is_locked(path: Path) -> bool:
    """Whether a process holds a lock; it is tried for a moment, and let go at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _parts(run: RunFolder, *, verify: bool) -> dict[str, Any]:
    """Numbers of parts; without a plan there are none."""
    if not files.is_file(run.plan):
        return {"planned": 0, "committed": 0, "missing": [], "damaged": None}
    setup = run_folder.read_plan(run, []).setup
    found = {part.name for part in files.names(run.part(0).parent, "part-*.parquet")}
    there = [shard for shard in range(setup.n_shards) if run.part(shard).name in found]
    whole = set(range(setup.n_shards)) - set(
        run_folder.verify(run, setup) if verify else run_folder.missing_shards(run, setup)
    )
    return {
        "planned": setup.n_shards,
        "committed": len(whole),
        "missing": [shard for shard in range(setup.n_shards) if shard not in whole],
        "damaged": sorted(set(there) - whole) if verify else None,
    }


def _stages(run: RunFolder, record: dict[str, Any], *, complete: bool) -> dict[str, str]:
    """What became of each stage that the settings name."""
    config = record.get("config") or {}
    wanted = config.get("stages") or ["explain", *STAGES]
    told = {"explain": DONE if complete else MISSING} if "explain" in wanted else {}
    for stage, (tables, sources) in STAGES.items():
        if stage not in wanted or (stage == "compare" and not config.get("baseline")):
            continue
        written = [_when(run, name) for name in tables]
        read = [_when(run, name) for name in sources] or [_newest_part(run)]
        if None in written:
            told[stage] = MISSING
        else:
            oldest = min(when for when in written if when)
            told[stage] = STALE if any(when and when > oldest for when in read) else DONE
    return told


def _when(run: RunFolder, name: str) -> float | None:
    path = run.report / "index.html" if name == "report" else run.analysis(name)
    return files.modified(path)


def _newest_part(run: RunFolder) -> float | None:
    if paths.is_remote(run.path):
        return files.newest(run.part(0).parent)
    return max((part.stat().st_mtime for part in run.path.glob("parts/part-*")), default=None)


def _next(
    run: RunFolder,
    record: dict[str, Any],
    overview: RunOverview,
    parts: dict[str, Any],
    stages: dict[str, str],
) -> str | None:
    """The command that goes on, from the overrides of the last attempt, as far as they are kept."""
    overrides = _overrides(run, record)
    known = overrides is not None
    overrides = overrides or []
    todo = [stage for stage, state in stages.items() if state != DONE]
    begun_again = parts["missing"] or overview.state != "complete" or "explain" in todo
    if todo and not begun_again:
        overrides = [each for each in overrides if not each.startswith("stages=")]
        overrides.append(f"stages=[{','.join(todo)}]")
    return shlex.join(["camaudit", *overrides]) if known else None


def _overrides(run: RunFolder, record: dict[str, Any]) -> list[str] | None:
    """What the command line of the last attempt said, from Hydra's own files or from run.json."""
    if paths.is_remote(run.path):
        return record.get("overrides")
    kept = sorted(run.path.glob("attempts/*/.hydra/overrides.yaml"))
    if not kept:
        return None
    loaded = OmegaConf.load(kept[-1])
    return [str(each) for each in loaded] if isinstance(loaded, ListConfig) else []


def _lines(told: Status) -> list[str]:
    parts, images = told.parts, told.images
    lines = [f"{told.run_id}: {told.state}" + (", at work now" if told.at_work else "")]
    lines.append(f"parts: {parts['committed']:,} of {parts['planned']:,} are committed")
    if parts["damaged"]:
        lines.append(f"damaged: {some([f'part-{shard:05d}' for shard in parts['damaged']])}")
    elif parts["damaged"] is not None:
        lines.append("damaged: none, every byte was read again")
    if images.get("error"):
        lines.append(f"errors: {images['error']:,} of {images.get('planned', 0):,} images")
    lines += [f"{stage}: {state}" for stage, state in told.stages.items()]
    lines += [f"gate: {line}" for line in told.gate]
    for attempt in told.attempts[-3:]:
        code = "" if attempt["exit_code"] is None else f" with {attempt['exit_code']}"
        lines.append(f"attempt {attempt['started']}: {attempt['state']}{code}")
        lines += [f"  {line}" for line in str(attempt["message"] or "").splitlines()]
    lines.append(f"next: {told.next or ('wait' if told.at_work else 'nothing')}")
    return [escaped(line) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
