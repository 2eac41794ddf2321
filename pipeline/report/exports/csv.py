"""The suspects as CSV, for spreadsheets and scripts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from pipeline.report.exports.review import Review
from pipeline.storage.atomic import drafted


def write_csv(review: Review, path: Path) -> None:
    """Write the suspects with all columns, reasons as one text, and `file`, an absolute path.

    UTF-8 with a header; texts stand in quotes, so that an empty one differs from null. There is no
    `file` where images are no files.

    Raises:
        OSError: disk full, folder read-only.
    """
    table, files = review.flat(), review.files()
    if files is not None:
        table = table.append_column("file", pa.array(files, pa.string()))
    with drafted(path, durable=False) as draft:
        pa.csv.write_csv(table, draft)
