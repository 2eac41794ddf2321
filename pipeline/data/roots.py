"""Access to image files in a local folder or in a bucket, which is listed once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.data.decode import MAX_FILE_BYTES, DecodeError, check_size, read_file
from pipeline.errors import DataError
from pipeline.storage import files, paths


class Root(Protocol):
    """A folder or bucket with image files; names are relative, with "/" between folders."""

    def walk(self) -> Iterator[str]:
        """Yield the names of all files that are not hidden, in any order."""

    def folders(self) -> set[str]:
        """Names of the folders of the first level that are not hidden."""

    def read(self, name: str) -> bytes:
        """Read an image file; raises DecodeError if the file cannot be used."""

    def content(self, name: str) -> bytes:
        """Read any file; raises OSError."""

    def stamp(self, name: str) -> str:
        """A text that changes when the file is written; raises OSError or LookupError."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    def walk(self) -> Iterator[str]:
        """See Root. A link is followed unless it leads to a folder above it.

        Raises:
            DataError: a folder cannot be listed.
        """
        todo: list[tuple[str, frozenset[str]]] = [("", frozenset())]
        while todo:
            prefix, above = todo.pop()
            here = os.path.realpath(self.path / prefix)
            if here in above:
                continue
            try:
                for entry in os.scandir(self.path / prefix):
                    if entry.name.startswith("."):
                        continue
                    if Path(entry).is_dir() if entry.is_symlink() else entry.is_dir():
                        todo.append((f"{prefix}{entry.name}/", above | {here}))
                    else:
                        yield prefix + entry.name
            except OSError as error:
                place = self.path / prefix
                raise DataError(f"{place} cannot be listed: {error.strerror}") from error

    def folders(self) -> set[str]:
        """See Root."""
        inside = (path for path in self.path.iterdir() if path.is_dir())
        return {path.name for path in inside if not path.name.startswith(".")}

    def read(self, name: str) -> bytes:
        """See Root."""
        return read_file(self.path / name)

    def content(self, name: str) -> bytes:
        """See Root."""
        return (self.path / name).read_bytes()

    def stamp(self, name: str) -> str:
        """Size in bytes and time in nanoseconds."""
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


class Bucket:
    """A bucket or a folder of it, listed once at construction; loader processes read from it."""

    def __init__(self, url: str, below: str = "") -> None:
        """List the bucket, or only its folder `below`.

        Raises:
            StoreError: the bucket does not exist, or the store does not answer or refuses.
        """
        self.url, start = url.rstrip("/"), f"{below}/" if below else ""
        found = files.listed(f"{self.url}/{below}".rstrip("/"))
        self._sizes = {start + name: int(info["size"] or 0) for name, info in found.items()}
        self._stamps = {start + name: files.stamp(info) for name, info in found.items()}

    def walk(self) -> Iterator[str]:
        """See Root. Keys that end in "/" stand for folders and are skipped."""
        for name in self._sizes:
            if not (name.endswith("/") or name.startswith(".") or "/." in name):
                yield name

    def folders(self) -> set[str]:
        """See Root."""
        first = {name.partition("/")[0] for name in self._sizes if "/" in name}
        return {name for name in first if not name.startswith(".")}

    def read(self, name: str) -> bytes:
        """See Root. Files that are too large or empty are not requested."""
        check_size(self._sizes.get(name, 1))
        try:
            data = self._fetched(name)
        except DecodeError:  # the time limit of the loader
            raise
        except Exception as error:  # each protocol's library raises its own types
            raise DecodeError(f"cannot be read: {paths.reason(error)}") from error
        check_size(len(data))
        return data

    def content(self, name: str) -> bytes:
        """See Root."""
        try:
            return self._fetched(name)
        except Exception as error:  # as above
            raise OSError(paths.reason(error)) from error

    def _fetched(self, name: str) -> bytes:
        url = name if paths.protocol_of(name) else f"{self.url}/{name}"
        return files.fetch(url, MAX_FILE_BYTES + 1)

    def stamp(self, name: str) -> str:
        """See Root: the listed size, and ETag or time."""
        return self._stamps[name]
