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
from pipeline.storage.arrays import join_texts
from pipeline.storage.files import is_file
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.schema import FINDINGS, SUSPECTS, Row

NEEDED = {"findings": FINDINGS.names, "suspects": SUSPECTS.names}
"""Columns that a table must have; the file may have more."""
BATCH = 10_000
"""Number of rows that are converted to text at a time."""


def show_run(options: argparse.Namespace) -> None:
    """Write a run in the form that the options name.

    Raises:
        AuditError: there is no run, a file is damaged, or a table does not exist yet.
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
    overview, findings = summarise_run(run), _read_if_exists(run, "findings")
    suspects, note = _suspects(run, options)
    if isinstance(sys.stdout, io.TextIOWrapper):  # the locale may not have all characters of a name
        sys.stdout.reconfigure(errors="backslashreplace")
    first = _rows(suspects, options.top or TOP) or []
    text_tables.write(overview, _rows(findings) or [], first, len(suspects or []), note)


def _show_json(run: RunFolder, options: argparse.Namespace) -> None:
    """Write one object on one line, in ASCII, so that no text can control a terminal."""
    overview, findings = summarise_run(run), _read_if_exists(run, "findings")
    suspects, note = _suspects(run, options)
    _write_note(note)
    shown = {
        "run": asdict(overview),
        "findings": _rows(findings),
        "suspects": _rows(suspects, options.top),
    }
    sys.stdout.write(json.dumps(_finite(shown), allow_nan=False, default=str) + "\n")


def _show_csv(run: RunFolder, options: argparse.Namespace) -> None:
    """Write a line per row; a region becomes one column for each of its sides."""
    table, note = _choose(_read(run, options.table), options)
    _write_note(note)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    safe = escaped if sys.stdout.isatty() else str
    flat = join_texts(table.slice(0, options.top).flatten())
    sys.stdout.write(_csv_line(flat.column_names))
    for batch in flat.to_batches(max_chunksize=BATCH):
        columns = [[safe(_cell(value)) for value in column.to_pylist()] for column in batch]
        sys.stdout.writelines(_csv_line(row) for row in zip(*columns, strict=True))


def _read(run: RunFolder, name: str) -> pa.Table:
    """Read a table of the analysis.

    Raises:
        NotFinished, DataError: as parquet.read.
        ConfigError: another version of camaudit wrote the table.
    """
    table = parquet.read(run.analysis(name))
    missing = [column for column in NEEDED.get(name, ()) if column not in table.column_names]
    if missing:
        raise ConfigError(
            f"{run.analysis(name)} was written by another version: it lacks {shorten_list(missing)}"
        )
    return table


def _read_if_exists(run: RunFolder, name: str) -> pa.Table | None:
    return _read(run, name) if is_file(run.analysis(name)) else None


def _suspects(run: RunFolder, options: argparse.Namespace) -> tuple[pa.Table | None, str]:
    """The suspects that match the options (None before rank has run), and why none matches."""
    table = _read_if_exists(run, "suspects")
    return (None, "") if table is None else _choose(table, options)


def _choose(table: pa.Table, options: argparse.Namespace) -> tuple[pa.Table, str]:
    """The rows that match --kind and --class, and the reason if none matches."""
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
        return f"no suspect is of kind {options.kind}; the kinds are: {shorten_list(kinds)}"
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


def _write_note(note: str) -> None:
    if note:
        sys.stderr.write(f"camaudit-show: {escaped(note)}\n")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return "; ".join(str(part) for part in value)
    return "" if value is None else str(value)


def _csv_line(values: Iterable[str]) -> str:
    """A CSV line that ends in a line feed.

    The line is written with the csv module's own ending, without which it would not quote a
    carriage return in a value.
    """
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _finite(value: object) -> object:
    """Replace NaN and infinity by null, because JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
