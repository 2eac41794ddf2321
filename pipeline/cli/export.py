"""camaudit-export: write the suspects of a run for a tool in which people review images."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.parser import Parser, exit_code_of
from pipeline.cli.run_overview import open_run
from pipeline.data.pictures import encode_webp, shrink
from pipeline.errors import ConfigError, DataError
from pipeline.report.exports import FORMATS, Review, open_review
from pipeline.report.exports.label_studio import served_from
from pipeline.report.exports.review import Encode
from pipeline.storage.paths import local_path
from pipeline.storage.run_setup import Setup

if TYPE_CHECKING:
    from pipeline.data.source import Source

log = logging.getLogger(__name__)

SIDE = 224
"""Longer side, in pixels, of images that are written into an export."""

EXAMPLES = """\
formats:
{formats}

examples:
  camaudit-export outputs/audit csv
  camaudit-export outputs/audit label-studio --document-root /data
  camaudit-export outputs/audit spotlight && spotlight outputs/audit/exports/spotlight.parquet
  camaudit-export outputs/audit fiftyone --overwrite && fiftyone app launch camaudit-audit
"""


def parser() -> Parser:
    """The arguments of the command."""
    formats = "\n".join(f"  {name:<14}{format_.about}" for name, format_ in FORMATS.items())
    made = Parser(
        "camaudit-export",
        "Write the suspects of a run for a tool in which people review images.",
        EXAMPLES.format(formats=formats),
    )
    made.add_argument("run", metavar="RUN", help="folder of the run, such as outputs/audit")
    made.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    made.add_argument(
        "--to",
        type=Path,
        metavar="PATH",
        help="file to write, by default in RUN/exports; for fiftyone, the folder for the pictures "
        "of a dataset without image files",
    )
    made.add_argument(
        "--document-root",
        type=Path,
        metavar="DIR",
        help="label-studio: the folder from which it serves local files, by default the dataset's "
        "root",
    )
    made.add_argument(
        "--name", help="fiftyone: name of the dataset, by default camaudit- and the name of the run"
    )
    made.add_argument(
        "--overwrite", action="store_true", help="fiftyone: replace a dataset of the same name"
    )
    return made


def main(arguments: list[str] | None = None) -> int:
    """Write an export and return the exit code.

    Raises:
        SystemExit: after --help, and for wrong options.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    command = parser()
    return exit_code_of(command.prog, partial(export, command.parse_args(arguments)))


def export(given: argparse.Namespace) -> int:
    """Write the chosen format, and print where it is.

    Raises:
        AuditError: there is no such run, it is not finished, or an option is wrong.
        OSError: the disk is full, or the folder is read-only.
    """
    options = _options(given)
    run = open_run(given.run)
    review = open_review(run)
    review = replace(review, encode=encoder(review.setup))
    chosen = FORMATS[given.format]
    path = given.to
    if path is None and chosen.file is not None:
        if local_path(run.path) is None:
            raise ConfigError(f"{run.path} is in a bucket; give a local file with --to")
        path = run.path / "exports" / chosen.file
    chosen.write(review, path, **options)
    place = _place(given, review, path)
    sys.stdout.write(f"{review.suspects.num_rows} suspects written to {place}\n")
    return 0


def _options(given: argparse.Namespace) -> dict[str, object]:
    """The options of the chosen format.

    Raises:
        ConfigError: an option belongs to another format.
    """
    of_format = {"label-studio": ["document_root"], "fiftyone": ["name", "overwrite"]}
    mine = of_format.get(given.format, [])
    for name in ("document_root", "name", "overwrite"):
        if getattr(given, name) and name not in mine:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} is no option of the format {given.format}")
    return {name: getattr(given, name) for name in mine}


def _place(given: argparse.Namespace, review: Review, path: Path | None) -> str:
    """The file or dataset that was written, and what the tool needs to read it."""
    if given.format == "fiftyone":
        return f"the dataset {given.name or 'camaudit-' + review.run_id}"
    root = served_from(review, given.document_root) if given.format == "label-studio" else None
    if root is None:
        return str(path)
    return f"{path}; Label Studio has to serve local files from {root}"


def encoder(setup: Setup) -> Encode:
    """Return a function that encodes images of the dataset as small WebP files.

    It opens the dataset at its first call, and returns None for an image that cannot be read.
    """

    @cache
    def open_dataset() -> Source:
        from pipeline.config import CHOICES  # noqa: PLC0415
        from pipeline.data.datasets import open_source  # noqa: PLC0415 - PyTorch takes seconds

        values = {
            key.removeprefix("dataset."): value
            for key, value in setup.settings.items()
            if key.startswith("dataset.")
        }
        dataset = CHOICES["dataset"][values["kind"]](**values)
        return open_source(dataset, setup.settings["data.max_pixels"])

    def encode(index: int, image_id: str) -> bytes | None:
        try:
            source = open_dataset()
            if source.image_ids[index] != image_id:
                raise DataError("the dataset has changed since it was audited")
            return encode_webp(shrink(source.read(index).pixels, SIDE))
        except Exception as error:  # noqa: BLE001 - any error of a file or dataset
            log.info("no image of %s: %s", image_id, error)
            return None

    return encode


if __name__ == "__main__":
    sys.exit(main())
