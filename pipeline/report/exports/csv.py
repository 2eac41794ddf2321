"""Export the suspects as CSV, for spreadsheets and scripts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from pipeline.report.exports.review import Review
from pipeline.storage.arrays import join_texts
from pipeline.storage.atomic import drafted


def write_csv(review: Review, path: Path) -> None:
    """Write all columns of the suspects, and the column `file` with the absolute path of the image.

    The file is UTF-8 with a header. Reasons are one text. Texts are quoted, so that an empty text
    differs from null. There is no column `file` if the images are no files.

    Raises:
        OSError: the disk is full, or the folder is read-only.
    """
    table, files = join_texts(review.suspects), review.files()
    if files is not None:
        table = table.append_column("file", pa.array(files, pa.string()))
    with drafted(path, durable=False) as draft:
        pa.csv.write_csv(table, draft)
