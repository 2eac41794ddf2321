"""A checksum inside a Parquet file, so that a flipped bit is noticed before the file is parsed.

Page checksums cover pages, but neither page headers nor the footer; a bit flipped there reads as
other data, or crashes the library that parses it. The checksum of all other bytes stands between
the last page and the footer. Readers of Parquet ignore these bytes: they find the footer from the
end of the file, and pages by offsets from its beginning.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa

MAGIC = b"camaudit"
SIZE = len(MAGIC) + 32
END = 8
"""Bytes after the footer: its length, and PAR1."""


def add_checksum(path: Path) -> None:
    """Add the checksum to a Parquet file that has none.

    Raises:
        OSError: disk full.
    """
    content = with_checksum(path.read_bytes())
    with path.open("wb") as file:
        file.write(content)


def with_checksum(content: bytes) -> bytes:
    """The bytes of a Parquet file, with the checksum added."""
    footer = len(content) - END - _length_of_footer(content)
    digest = _digest(content[:footer], content[footer:])
    return b"".join([content[:footer], MAGIC, digest, content[footer:]])


def is_intact(file: Path | bytes) -> bool | None:
    """Whether a file, or its bytes, agrees with its checksum; None if it has no checksum.

    Raises:
        OSError: the file cannot be read.
    """
    if isinstance(file, bytes):
        return _is_intact(memoryview(file))
    with pa.memory_map(str(file)) as mapped:
        return _is_intact(memoryview(mapped.read_buffer()).cast("B"))


def _is_intact(content: memoryview) -> bool | None:
    footer = len(content) - END - _length_of_footer(content)
    mark = footer - SIZE
    if mark < 0 or content[mark : mark + len(MAGIC)] != MAGIC:
        return None
    return content[mark + len(MAGIC) : footer] == _digest(content[:mark], content[footer:])


def _length_of_footer(content: bytes | memoryview) -> int:
    return int.from_bytes(content[-END:-4], "little")


def _digest(*pieces: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=SIZE - len(MAGIC))
    for piece in pieces:
        digest.update(piece)
    return digest.digest()
