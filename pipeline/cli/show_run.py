"""Read the tables of a run and write them as text, CSV or JSON to stdout."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import sys
from collections.abc import Iterable
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cli import text_tables
from pipeline.cli.parser import escaped
from pipeline.cli.run_overview import open_run, summarise_run
from pipeline.cli.show import TOP
from pipeline.errors import ConfigError, close_names, shorten_list
from pipeline.storage import parquet
from pipeline.storage.files import is_file
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.schema import FINDINGS, SUSPECTS, Row

NEEDED = {"findings": FINDINGS.names, "suspects": SUSPECTS.names}
"""Columns without which a table cannot be shown; the file may have more columns."""
BATCH = 10_000
"""Rows of a table that are turned into text at a time."""


def show_run(options: argparse.Namespace) -> None:
    """Write what the options ask for.

    Raises:
        AuditError: no run, a damaged file, a table that is not there yet.
        BrokenPipeError: the reader has closed the pipe.
    """
    run = open_run(options.run)
    if options.csv:
        _show_csv(run, options)
    elif options.json:
        _show_json(run, options)
    else:
        _show_text(run, options)


def _show_text(run: RunFolder, options: argparse.Namespace) -> None:
    overview, findings = summarise_run(run), _read_there(run, "findings")
    suspects, note = _suspects(run, options)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what the locale cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    first = _rows(suspects, options.top or TOP) or []
    text_tables.write(overview, _rows(findings) or [], first, len(suspects or []), note)


def _show_json(run: RunFolder, options: argparse.Namespace) -> None:
    """One object on one line, in ASCII: all else is escaped, so that it cannot steer a terminal."""
    overview, findings = summarise_run(run), _read_there(run, "findings")
    suspects, note = _suspects(run, options)
    _tell(note)
    shown = {
        "run": asdict(overview),
        "findings": _rows(findings),
        "suspects": _rows(suspects, options.top),
    }
    sys.stdout.write(json.dumps(_finite(shown), allow_nan=False, default=str) + "\n")


def _show_csv(run: RunFolder, options: argparse.Namespace) -> None:
    """A line per row; a region, which has parts, is a column for each of them."""
    table, note = _choose(_read(run, options.table), options)
    _tell(note)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    safe = escaped if sys.stdout.isatty() else str
    flat = table.slice(0, options.top).flatten()
    sys.stdout.write(_csv_line(flat.column_names))
    for batch in flat.to_batches(max_chunksize=BATCH):
        columns = [[safe(_cell(value)) for value in column.to_pylist()] for column in batch]
        sys.stdout.writelines(_csv_line(row) for row in zip(*columns, strict=True))


def _read(run: RunFolder, name: str) -> pa.Table:
    """A table of the analysis.

    Raises:
        NotFinished, DataError: as store.read.
        ConfigError: where another version of camaudit wrote it.
    """
    table = parquet.read(run.analysis(name))
    lacking = [column for column in NEEDED.get(name, ()) if column not in table.column_names]
    if lacking:
        raise ConfigError(
            f"{run.analysis(name)} was not written by this version: it lacks "
            f"{shorten_list(lacking)}"
        )
    return table


def _read_there(run: RunFolder, name: str) -> pa.Table | None:
    return _read(run, name) if is_file(run.analysis(name)) else None


def _suspects(run: RunFolder, options: argparse.Namespace) -> tuple[pa.Table | None, str]:
    """The suspects asked for, None before they are ranked, and why there are none."""
    table = _read_there(run, "suspects")
    return (None, "") if table is None else _choose(table, options)


def _choose(table: pa.Table, options: argparse.Namespace) -> tuple[pa.Table, str]:
    """The rows that --kind and --class leave, and why there are none where they leave none."""
    chosen = table
    if options.kind:
        chosen = chosen.filter(pc.equal(chosen["kind"], options.kind))
    if options.name:
        is_label, is_pred = (pc.equal(chosen[key], options.name) for key in ("label", "pred"))
        chosen = chosen.filter(pc.or_kleene(is_label, is_pred))  # a label may be null
    return chosen, "" if chosen.num_rows or not table.num_rows else _why_none(table, options)


def _why_none(suspects: pa.Table, options: argparse.Namespace) -> str:
    kinds = _values(suspects, "kind")
    if options.kind and options.kind not in kinds:
        return f"no suspect is of kind {options.kind}; there are: {shorten_list(kinds)}"
    names = _values(suspects, "label", "pred")
    if options.name and options.name not in names:
        close = close_names(options.name, names)
        return f"no suspect is labelled or predicted {options.name}{close}"
    return f"no suspect of kind {options.kind} is labelled or predicted {options.name}"


def _values(table: pa.Table, *columns: str) -> list[str]:
    found = {value for column in columns for value in pc.unique(table[column]).to_pylist()}
    return sorted(found - {None})


def _rows(table: pa.Table | None, top: int | None = None) -> list[Row] | None:
    return None if table is None else table.slice(0, top).to_pylist()


def _tell(note: str) -> None:
    if note:
        sys.stderr.write(f"camaudit-show: {escaped(note)}\n")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(str(part) for part in value)
    return "" if value is None else str(value)


def _csv_line(values: Iterable[str]) -> str:
    """The csv module quotes a carriage return only where its lines end in one."""
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _finite(value: object) -> object:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
