"""Where image files lie: a folder of this machine, or a part of a bucket, listed once."""

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
    """Files by their names relative to a place, with "/" between folders."""

    def walk(self) -> Iterator[str]:
        """Names of all files that are not hidden, in any order."""

    def folders(self) -> set[str]:
        """Names of the folders right in it that are not hidden."""

    def read(self, name: str) -> bytes:
        """The bytes of a picture; raises DecodeError where there is none."""

    def content(self, name: str) -> bytes:
        """The bytes of any file; raises OSError."""

    def stamp(self, name: str) -> str:
        """What changes when a file is written; raises OSError or LookupError where it is not."""


@dataclass(frozen=True)
class Folder:
    """A folder of this machine."""

    path: Path

    def walk(self) -> Iterator[str]:
        """A link is followed unless it leads back up.

        Raises:
            DataError: a folder that cannot be listed.
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
        """As Root has it."""
        inside = (path for path in self.path.iterdir() if path.is_dir())
        return {path.name for path in inside if not path.name.startswith(".")}

    def read(self, name: str) -> bytes:
        """As Root has it."""
        return read_file(self.path / name)

    def content(self, name: str) -> bytes:
        """As Root has it."""
        return (self.path / name).read_bytes()

    def stamp(self, name: str) -> str:
        """Size in bytes and time in nanoseconds."""
        status = (self.path / name).stat()
        return f"{status.st_size} {status.st_mtime_ns}"


class Bucket:
    """A part of a bucket, as it was when it was listed. It is read from loader processes, too."""

    def __init__(self, url: str, below: str = "") -> None:
        """List it, or what begins with a folder in it.

        Raises:
            StoreError: no such bucket; the store does not answer or refuses.
        """
        self.url, start = url.rstrip("/"), f"{below}/" if below else ""
        found = files.listed(f"{self.url}/{below}".rstrip("/"))
        self._sizes = {start + name: int(info["size"] or 0) for name, info in found.items()}
        self._stamps = {start + name: files.stamp(info) for name, info in found.items()}

    def walk(self) -> Iterator[str]:
        """As Root has it; keys that end in "/" stand for folders."""
        for name in self._sizes:
            if not (name.endswith("/") or name.startswith(".") or "/." in name):
                yield name

    def folders(self) -> set[str]:
        """As Root has it."""
        first = {name.partition("/")[0] for name in self._sizes if "/" in name}
        return {name for name in first if not name.startswith(".")}

    def read(self, name: str) -> bytes:
        """As Root has it; what is too large or empty is not asked for."""
        check_size(self._sizes.get(name, 1))
        try:
            data = self._fetched(name)
        except DecodeError:  # it took too long
            raise
        except Exception as error:  # each protocol's library has its own
            raise DecodeError(f"cannot be read: {paths.reason(error)}") from error
        check_size(len(data))
        return data

    def content(self, name: str) -> bytes:
        """As Root has it."""
        try:
            return self._fetched(name)
        except Exception as error:  # as above
            raise OSError(paths.reason(error)) from error

    def _fetched(self, name: str) -> bytes:
        url = name if paths.protocol_of(name) else f"{self.url}/{name}"
        return files.fetch(url, MAX_FILE_BYTES + 1)

    def stamp(self, name: str) -> str:
        """Size and ETag or time, as listed."""
        return self._stamps[name]
