"""camaudit-show: show the tables of a run in the terminal, or as CSV or JSON for scripts."""

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

A run that is not finished is shown as far as it is. effect and control are the shares of images
that an intervention and its control flip; interval is the 95% interval of their difference.

In JSON, a table that does not exist yet is null, and run.missing gives the reason. CSV is UTF-8,
and lists are joined with "; "; control characters are escaped only if the output is a terminal.

exit codes: 0 shown; 1 no run, or a wrong option; 3 a damaged file; 75 --csv of a table that does
not exist yet
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
        "Show a run of camaudit: its state, its findings, and the images to review.",
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
    add("--class", dest="name", metavar="NAME", help="only suspects with this label or prediction")
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
