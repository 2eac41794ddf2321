"""camaudit-show: a run in the terminal, or as CSV or JSON for scripts, from its tables alone."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pipeline.cli.parser import Parser, exit_code_of

TOP = 20
"""Number of suspects shown to people where --top is not given."""
TABLES = ("findings", "suspects", "classes")
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


def main(argv: Sequence[str] | None = None) -> int:
    """Show a run and return the exit code.

    Raises:
        SystemExit: after --help, and for wrong options.
    """
    options = _options(argv)

    def show() -> int:
        from pipeline.cli.show_run import show_run  # noqa: PLC0415 - --help needs no tables

        show_run(options)
        return 0

    return exit_code_of("camaudit-show", show)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "camaudit-show",
        "Show a run of camaudit: its state, what it found, and the images to look at.",
        EXAMPLES,
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


if __name__ == "__main__":
    sys.exit(main())
