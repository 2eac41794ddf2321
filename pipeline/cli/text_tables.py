"""Write a run as text to a terminal or a pipe; long texts are wrapped and never cut."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.parser import escaped
from pipeline.cli.run_overview import RunOverview
from pipeline.cli.text_cells import (
    FINDING,
    NARROW_FINDING,
    NARROW_SUSPECT,
    NUMBERS,
    STYLES,
    SUSPECT,
    Cell,
    share,
)
from pipeline.storage.schema import Row

PIPE = 100_000
"""Width without a terminal: every row stays on one line."""
MIN_WIDTH = 40
"""Smallest width; a narrower terminal wraps the lines itself."""
WIDE = 120
"""Width from which every value has its own column."""


def write(
    overview: RunOverview, findings: list[Row], suspects: list[Row], n_suspects: int, unmatched: str
) -> None:
    """Write a run to stdout, in the width of the terminal; NO_COLOR turns colours off.

    Args:
        overview: the summary of the run.
        findings: rows of FINDINGS.
        suspects: the rows of SUSPECTS to show.
        n_suspects: the number of suspects that match the options.
        unmatched: why no suspect matches the options; empty otherwise.

    Raises:
        BrokenPipeError: the reader has closed the pipe.
    """
    width = _width()
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    columns = (FINDING, SUSPECT) if width >= WIDE else (NARROW_FINDING, NARROW_SUSPECT)
    with console.capture() as captured:
        _write_overview(console, overview)
        _write_heading(console, _findings_heading(overview, findings))
        _write_findings(console, overview, findings, columns[0])
        _write_heading(console, _suspects_heading(overview, suspects, n_suspects))
        _write_suspects(console, overview, suspects, columns[1], unmatched)
    lines = captured.get().splitlines()
    sys.stdout.write("\n".join(line.rstrip() for line in lines) + "\n")


def _width() -> int:
    """The width of the output; the variable COLUMNS counts for a pipe too, as for a pager."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return PIPE
    return max(shutil.get_terminal_size().columns, MIN_WIDTH)


def _write_overview(console: Console, overview: RunOverview) -> None:
    console.print(
        Text(f"{escaped(overview.run_id)}:", "bold"),
        Text(escaped(overview.state), STYLES.get(overview.state, "bold")),
    )
    if overview.state == "unknown":
        console.print(Text("there is no run.json"))
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim")
    facts.add_column(overflow="fold")
    for name, value in _facts(overview):
        facts.add_row(Text(name), Text(escaped(value)))
    console.print(facts)
    if overview.warnings:
        _write_heading(console, "Warnings")
        _write_list(console, overview.warnings)


def _write_heading(console: Console, heading: str) -> None:
    console.print()
    console.print(Text(heading, "bold"))


def _write_list(console: Console, texts: list[str]) -> None:
    points = Table.grid(padding=(0, 1))
    points.add_column()
    points.add_column(overflow="fold")
    for text in texts:
        points.add_row(Text("!", "yellow"), Text(escaped(text)))
    console.print(points)


def _write_findings(
    console: Console, overview: RunOverview, findings: list[Row], columns: dict[str, Cell]
) -> None:
    if "findings" in overview.missing:
        console.print(Text(overview.missing["findings"]))
        return
    if overview.false_findings:
        console.print(Text(f"False findings: {escaped(overview.false_findings)}."))
    if findings:
        console.print(_table(console, columns, findings))
    else:
        console.print(Text("none: no candidate was confirmed or suspected"))


def _write_suspects(
    console: Console,
    overview: RunOverview,
    suspects: list[Row],
    columns: dict[str, Cell],
    unmatched: str,
) -> None:
    if "suspects" in overview.missing:
        console.print(Text(overview.missing["suspects"]))
    elif suspects:
        reviewed = any(suspect["decision"] for suspect in suspects)
        kept = {name: cell for name, cell in columns.items() if reviewed or name != "decision"}
        console.print(_table(console, kept, suspects))
    else:
        console.print(Text(escaped(unmatched or "none")))


def _findings_heading(overview: RunOverview, findings: list[Row]) -> str:
    return "Findings" if "findings" in overview.missing else f"Findings: {len(findings):,}"


def _suspects_heading(overview: RunOverview, suspects: list[Row], n_suspects: int) -> str:
    if "suspects" in overview.missing:
        return "Suspects"
    if len(suspects) == n_suspects:
        return f"Suspects: {n_suspects:,}"
    return f"Suspects: the first {len(suspects):,} of {n_suspects:,}"


def _facts(overview: RunOverview) -> Iterator[tuple[str, str]]:
    """Names and values, without those that are not known yet."""
    yield from _progress(overview)
    yield from _results(overview)
    for name in ("dataset", "model", "checkpoint", "layer", "method"):
        value = getattr(overview, name)
        if value is not None:
            yield name, value
    ran = [part for part in (overview.device, overview.precision) if part]
    if overview.images_per_second:
        ran.append(f"{overview.images_per_second:,.1f} images/s")
    if ran:
        yield "ran on", ", ".join(ran)
    if overview.seconds:
        stages = (f"{name} {_duration(seconds)}" for name, seconds in overview.seconds.items())
        yield "duration", f"{_duration(overview.duration)}: {', '.join(stages)}"


def _progress(overview: RunOverview) -> Iterator[tuple[str, str]]:
    """The last attempt; a running one with the time of its last write, as it may be killed."""
    if overview.started:
        ended = f"ended {_time(overview.ended)}" if overview.ended else "has not ended"
        number = f" (attempt {overview.attempts})" if overview.attempts > 1 else ""
        yield "last attempt", f"started {_time(overview.started)}, {ended}{number}"
    if overview.state == "running":
        age = datetime.now(timezone.utc) - datetime.fromisoformat(overview.last_written)
        written = f"{_time(overview.last_written)}, {_duration(max(age.total_seconds(), 0))} ago"
        yield "last written", f"{written} (a killed run has the state running too)"
    if overview.message:
        yield "message", f"{overview.message} (exit code {overview.exit_code})"


def _results(overview: RunOverview) -> Iterator[tuple[str, str]]:
    counts = overview.counts
    if "ok" in counts:
        errors = "1 error" if counts["error"] == 1 else f"{counts['error']:,} errors"
        yield "images", f"{counts['planned']:,} planned, {counts['ok']:,} explained, {errors}"
        labelled = f"{share(overview.accuracy)} of {counts.get('labelled', 0):,} labelled images"
        yield (
            "accuracy",
            "no explained image has a label" if overview.accuracy is None else labelled,
        )
    elif counts:
        yield "images", f"{counts['planned']:,} planned"
    for name in ("plan", "parts"):
        if name in overview.missing:
            yield name, overview.missing[name]


def _table(console: Console, columns: dict[str, Cell], rows: Sequence[Row]) -> Table:
    """A table whose texts are wrapped and never cut; numbers stay on one line."""
    table = Table(show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), box=None)
    if console.width < PIPE:
        table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
        table.leading = int(any("\n" in cell(rows[0]).plain for cell in columns.values()))
    for name in columns:
        number = name in NUMBERS
        table.add_column(
            Text(name), justify="right" if number else "left", no_wrap=number, overflow="fold"
        )
    for row in rows:
        table.add_row(*(cell(row) for cell in columns.values()))
    return table


def _time(text: str | None) -> str:
    """An ISO 8601 time in a readable form, in UTC."""
    try:
        moment = datetime.fromisoformat(str(text)).astimezone(timezone.utc)
    except ValueError:
        return str(text)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60}m"
