"""camaudit-export: hands the suspects of a run over to a tool in which people review images."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.parser import Parser
from pipeline.cli.run_overview import open_run
from pipeline.data.pictures import encode_webp, shrink
from pipeline.errors import AuditError, ConfigError, DataError
from pipeline.report.exports import FORMATS, Review, open_review
from pipeline.report.exports.label_studio import served_from
from pipeline.report.exports.review import Picture
from pipeline.storage.paths import local_path
from pipeline.storage.run_setup import Setup

if TYPE_CHECKING:
    from pipeline.data.source import Source

log = logging.getLogger(__name__)

SIDE = 224
"""Longer side, in pixels, of pictures that are written into an export."""

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
        "Hand the suspects of a run over to a tool in which people review images.",
        EXAMPLES.format(formats=formats),
    )
    made.add_argument("run", metavar="RUN", help="folder of a run, as outputs/audit")
    made.add_argument("format", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    made.add_argument(
        "--to",
        type=Path,
        metavar="PATH",
        help="file to write, by default in RUN/exports; for fiftyone, the folder that pictures of "
        "a dataset without image files are written to",
    )
    made.add_argument(
        "--document-root",
        type=Path,
        metavar="DIR",
        help="label-studio: the folder it serves local files from, by default the dataset's root",
    )
    made.add_argument(
        "--name", help="fiftyone: name of the dataset, by default camaudit- and that of the run"
    )
    made.add_argument(
        "--overwrite", action="store_true", help="fiftyone: replace a dataset of that name"
    )
    return made


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit: 0, or as errors say, with a message on stderr."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    command = parser()
    given = command.parse_args(arguments)
    try:
        sys.stdout.write(f"{export(given)}\n")
    except (AuditError, OSError) as error:
        code = error.exit_code if isinstance(error, AuditError) else ConfigError.exit_code
        command.exit(code, f"{command.prog}: {error}\n")
    command.exit()


def export(given: argparse.Namespace) -> str:
    """Write the format that was asked for, and tell what to do with it.

    Raises:
        AuditError: a run that is not there or not finished, an option that does not fit.
        OSError: disk full, folder read-only.
    """
    options = _options(given)
    run = open_run(given.run)
    review = open_review(run)
    review = replace(review, picture=pictures(review.setup))
    chosen = FORMATS[given.format]
    path = given.to
    if path is None and chosen.file is not None:
        if local_path(run.path) is None:
            raise ConfigError(f"{run.path} is in a bucket; say with --to where to write, here")
        path = run.path / "exports" / chosen.file
    chosen.write(review, path, **options)
    return f"{review.suspects.num_rows} suspects written to {_place(given, review, path)}"


def _options(given: argparse.Namespace) -> dict[str, object]:
    """What the format takes besides a path.

    Raises:
        ConfigError: an option that it does not take.
    """
    of_format = {"label-studio": ["document_root"], "fiftyone": ["name", "overwrite"]}
    mine = of_format.get(given.format, [])
    for name in ("document_root", "name", "overwrite"):
        if getattr(given, name) and name not in mine:
            option = "--" + name.replace("_", "-")
            raise ConfigError(f"{option} says nothing to the format {given.format}")
    return {name: getattr(given, name) for name in mine}


def _place(given: argparse.Namespace, review: Review, path: Path | None) -> str:
    """Where it was written to, and what its tool must be told."""
    if given.format == "fiftyone":
        return f"the dataset {given.name or 'camaudit-' + review.run_id}"
    root = served_from(review, given.document_root) if given.format == "label-studio" else None
    if root is None:
        return str(path)
    return f"{path}; Label Studio has to serve local files from {root}"


def pictures(setup: Setup) -> Picture:
    """The pictures of the dataset as small WebP files; None for one that cannot be read now.

    The dataset is opened when the first picture is asked for.
    """

    @cache
    def opened() -> Source:
        from pipeline.config import CHOICES  # noqa: PLC0415
        from pipeline.data.datasets import open_source  # noqa: PLC0415 - PyTorch takes seconds

        of_dataset = {
            key.removeprefix("dataset."): value
            for key, value in setup.settings.items()
            if key.startswith("dataset.")
        }
        dataset = CHOICES["dataset"][of_dataset["kind"]](**of_dataset)
        return open_source(dataset, setup.settings["data.max_pixels"])

    def picture(index: int, image_id: str) -> bytes | None:
        try:
            source = opened()
            if source.image_ids[index] != image_id:
                raise DataError("the dataset has changed since it was audited")
            return encode_webp(shrink(source.read(index).pixels, SIDE))
        except Exception as error:  # noqa: BLE001 - whatever a bad file or dataset raises
            log.info("no picture of %s: %s", image_id, error)
            return None

    return picture


if __name__ == "__main__":
    main()
