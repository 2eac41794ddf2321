"""camaudit-show: a run in the terminal, or as CSV or JSON for scripts, from its tables alone."""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.cli import text_tables
from pipeline.cli.run_overview import look, open_run
from pipeline.cli.text_cells import escaped
from pipeline.errors import AuditError, ConfigError, close_names, some
from pipeline.storage import parquet
from pipeline.storage.files import is_file
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.schema import FINDINGS, SUSPECTS

TOP = 20
"""Suspects shown to people where --top is not given."""
TABLES = ("findings", "suspects", "classes")
NEEDED = {"findings": FINDINGS.names, "suspects": SUSPECTS.names}
"""Columns without which a table cannot be shown; more may be there."""
BATCH = 10_000
"""Rows of a table that are turned into text at a time."""
EXAMPLES = """\
examples:
  camaudit-show outputs/audit
  camaudit-show outputs/audit --top 50 --kind label_error
  camaudit-show outputs/audit --class Shirt | less -S
  camaudit-show outputs/audit --csv > suspects.csv
  camaudit-show outputs/audit --csv --table findings
  camaudit-show outputs/audit --json | jq -r '.suspects[].image_id'

A run that is not finished is shown as far as it goes. effect and control are the shares of pictures
that an intervention and its control turn, interval is that of their difference (95 %).

In JSON, a table that is not there yet is null, and run.missing says why. CSV is UTF-8 as the table
has it, lists joined with "; "; only where it goes to a terminal, control characters are escaped.

exit codes: 0 shown; 1 no run, or a wrong option; 3 a damaged file; 75 --csv of a table that is not
there yet
"""


class Parser(argparse.ArgumentParser):
    """Ends with 1 for wrong options: 2 means something else to whoever runs audits as jobs."""

    def error(self, message: str) -> NoReturn:
        """Name the mistake on stderr and exit."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {escaped(message)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Show a run and return the exit code.

    Raises:
        SystemExit: after --help, and where options are wrong.
    """
    options = _options(argv)
    try:
        _show(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except (AuditError, OSError) as error:
        sys.stderr.write(f"camaudit-show: {escaped(error)}\n")
        return getattr(error, "exit_code", 1)
    return 0


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="camaudit-show",
        description="Show a run of camaudit: its state, what it found, and the images to look at.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("run", metavar="RUN", help="folder of the run, such as outputs/audit")
    add(
        "--top",
        metavar="N",
        type=_positive,
        help=f"the first N suspects ({TOP}), or rows of --table",
    )
    add("--kind", help="only suspects of this kind, such as label_error")
    add("--class", dest="name", metavar="NAME", help="only suspects labelled or predicted so")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="one table as CSV, all rows and columns")
    form.add_argument("--json", action="store_true", help="run, findings and suspects as JSON")
    add("--table", choices=TABLES, help="the table of --csv (suspects)")
    options = parser.parse_args(argv)
    if options.table and not options.csv:
        parser.error("--table goes with --csv")
    options.table = options.table or "suspects"
    if options.table != "suspects" and (options.kind or options.name):
        parser.error("--kind and --class go with suspects")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _show(options: argparse.Namespace) -> None:
    run = open_run(options.run)
    if options.csv:
        _show_csv(run, options)
    elif options.json:
        _show_json(run, options)
    else:
        _show_text(run, options)


def _show_text(run: RunFolder, options: argparse.Namespace) -> None:
    overview, findings = look(run), _read_there(run, "findings")
    suspects, note = _suspects(run, options)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what the locale cannot write
        sys.stdout.reconfigure(errors="backslashreplace")
    first = _rows(suspects, options.top or TOP) or []
    text_tables.write(overview, _rows(findings) or [], first, len(suspects or []), note)


def _show_json(run: RunFolder, options: argparse.Namespace) -> None:
    """One object on one line, in ASCII: all else is escaped, so that it cannot steer a terminal."""
    overview, findings = look(run), _read_there(run, "findings")
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
            f"{run.analysis(name)} was not written by this version: it lacks {some(lacking)}"
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
        return f"no suspect is of kind {options.kind}; there are: {some(kinds)}"
    names = _values(suspects, "label", "pred")
    if options.name and options.name not in names:
        close = close_names(options.name, names)
        return f"no suspect is labelled or predicted {options.name}{close}"
    return f"no suspect of kind {options.kind} is labelled or predicted {options.name}"


def _values(table: pa.Table, *columns: str) -> list[str]:
    found = {value for column in columns for value in pc.unique(table[column]).to_pylist()}
    return sorted(found - {None})


def _rows(table: pa.Table | None, top: int | None = None) -> list[dict[str, Any]] | None:
    return None if table is None else table.slice(0, top).to_pylist()


def _tell(note: str) -> None:
    if note:
        sys.stderr.write(f"camaudit-show: {escaped(note)}\n")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(str(part) for part in value)
    return "" if value is None else str(value)


def _csv_line(values: Iterable[str]) -> str:
    """The csv module quotes a carriage return only where its lines end in one."""
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue().removesuffix("\r\n") + "\n"


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: null."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    sys.exit(main())
