"""Read, write, list and remove files, in a folder of this machine or in a bucket."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem as FileSystem

from pipeline.storage.paths import PUT, RULES, filesystem, is_remote, key_of, protocol_of, reason

FileInfo = dict[str, Any]
"""What fsspec knows of a file: name, size, and times and digests under names of each store."""

SIDE_BY_SIDE = 32
"""Number of small requests to a bucket that run at the same time."""

_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")
_SUMS = ("ETag", "etag", "md5Hash", "content_md5")
guards: list[Callable[[Path], None]] = []
"""Called before anything is written or removed in a bucket; a guard raises StoreError to refuse."""


class StoreError(OSError):
    """A bucket or its server refused or failed; the message names the path and the reason."""


def is_unreachable(error: StoreError) -> bool:
    """Whether the server did not answer; a later attempt may succeed, unlike after a refusal."""
    cause = error.__cause__
    named = re.search("Connect|Timeout|Disconnect", type(cause).__name__)
    return isinstance(cause, ConnectionError | TimeoutError) or named is not None


def get(path: Path, *, last: int | None = None) -> bytes | None:
    """The bytes of a file in a bucket, or its last `last` bytes; None if there is no such file.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    with _reached(path):
        try:
            return _cat(path, last)
        except FileNotFoundError:
            return None


def fetch(url: str, most: int) -> bytes:
    """At most `most` bytes of an object, by one request; raises what the store's library raises."""
    return cast("bytes", filesystem(url).cat_file(key_of(url), end=most))


def _cat(path: Path, last: int | None) -> bytes:
    store, key = filesystem(path), key_of(path)
    if last is not None:
        return cast("bytes", store.cat_file(key, start=-last))
    # s3fs would ask for the size first, were it allowed several requests for one object.
    options = {"max_concurrency": 1} if protocol_of(path) in ("s3", "s3a") else {}
    return cast("bytes", store.cat_file(key, **options))


def put(path: Path, content: bytes) -> None:
    """Commit a file in a bucket by the rule of its protocol, and check what arrived.

    Raises:
        StoreError: it did not arrive; what was there before stays.
    """
    for guard in guards:
        guard(path)
    store, key = filesystem(path), key_of(path)
    with _reached(path):
        if RULES[str(protocol_of(path))] == PUT:
            store.pipe_file(key, content)
        else:
            _renamed(store, key, content)
        if not _arrived(store, key, content):
            store.rm_file(key)
            raise OSError("what was written reads back as something else")


def _renamed(store: FileSystem, key: str, content: bytes) -> None:
    folder, _, name = key.rpartition("/")
    draft = f"{folder}/.{name}.{os.getpid()}.tmp"
    store.makedirs(folder, exist_ok=True)
    try:
        store.pipe_file(draft, content)
        if not _arrived(store, draft, content):
            raise OSError("what was written reads back as something else")
        if store.exists(key):  # no rename replaces: killed here, the file is missing, not cut
            store.rm_file(key)
        store.mv(draft, key)
    finally:
        if store.exists(draft):
            store.rm_file(draft)


def _arrived(store: FileSystem, key: str, content: bytes) -> bool:
    """Whether a file has the size and MD5 of the content; a store without MD5 is read back."""
    info = store.info(key)
    if info["size"] != len(content):
        return False
    digest = hashlib.md5(content, usedforsecurity=False)
    sums = (digest.hexdigest(), b64encode(digest.digest()).decode())
    stored = [str(info.get(name)).strip('"') for name in _SUMS]
    return any(each in sums for each in stored) or store.cat_file(key) == content


def make_folder(folder: Path) -> None:
    """Make the folder of a run; a bucket has no folders, and its lease finds out who may write.

    Raises:
        ConfigError: the folder cannot be made or written.
    """
    if is_remote(folder):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir: {folder} cannot be written")


def free_bytes(folder: Path) -> int | None:
    """Free bytes on the disk of a folder; None for a bucket, which has no such limit."""
    return None if is_remote(folder) else shutil.disk_usage(folder).free


def remove(path: Path) -> None:
    """Remove a file; a file that does not exist is no error.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    for guard in guards:
        guard(path)
    with _reached(path), suppress(FileNotFoundError):
        filesystem(path).rm_file(key_of(path))


def is_file(path: Path) -> bool:
    """Whether a path is a file.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    return path.is_file() if not is_remote(path) else _info(path).get("type") == "file"


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
        OSError: the file cannot be read; FileNotFoundError: it does not exist.
    """
    if not is_remote(path):
        return path.read_text(encoding="utf-8")
    content = get(path)
    if content is None:
        raise FileNotFoundError(f"{path} is not there")
    return content.decode("utf-8")


def modified(path: Path) -> float | None:
    """When a file was written (seconds since 1970, clock of its store); None if it does not exist.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(path):
        return path.stat().st_mtime if path.is_file() else None
    info = _info(path)
    return _when(info) if info.get("type") == "file" else None


def changed(path: Path) -> float | None:
    """When a file or folder last changed, in seconds since 1970; None where it does not exist.

    A folder of this machine changes where a file in it is committed; a bucket has no folders.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if is_remote(path):
        return modified(path)
    return path.stat().st_mtime if path.exists() else None


def newest(folder: Path, pattern: str) -> float | None:
    """When the newest file right in a folder was written; None where no file matches.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(folder):
        return max((path.stat().st_mtime for path in folder.glob(pattern)), default=None)
    return max(map(_when, listed(folder).values()), default=None)


def local_folders(folder: Path) -> list[Path]:
    """The folders right in a folder of this machine; none for a bucket, which is not searched."""
    if is_remote(folder) or not folder.is_dir():
        return []
    return [inner for inner in folder.iterdir() if inner.is_dir()]


def _info(path: Path) -> FileInfo:
    """What the store knows of a file; empty if the file does not exist."""
    with _reached(path):
        try:
            return cast("FileInfo", filesystem(path).info(key_of(path)))
        except FileNotFoundError:
            return {}


def _when(info: FileInfo) -> float:
    when = next((info[name] for name in _TIMES if info.get(name)), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    return when.timestamp() if isinstance(when, datetime) else float(when)


def stamp(info: FileInfo) -> str:
    """Size, and ETag or time, of a file in a listing: a text that changes with the file."""
    tag = next((str(info[name]).strip('"') for name in _SUMS if info.get(name)), None)
    return f"{info['size']} {tag or _when(info)}"


def listed(folder: str | Path) -> dict[str, FileInfo]:
    """All files below a folder in a bucket, by their path relative to the folder.

    Raises:
        StoreError: no such bucket; the store does not answer or refuses.
    """
    store, key = filesystem(folder), key_of(folder).rstrip("/")
    with _reached(folder):
        found = store.find(key, detail=True)
    start = len(key) + 1
    return {name[start:]: info for name, info in found.items() if name.startswith(f"{key}/")}


def names(folder: Path, pattern: str) -> list[Path]:
    """Files directly in a folder that match a glob pattern, sorted.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(folder):
        return sorted(folder.glob(pattern))
    with _reached(folder):
        found = sorted(map(str, filesystem(folder).glob(f"{key_of(folder)}/{pattern}")))
    return [folder / name.rpartition("/")[2] for name in found]


def has_files(folder: Path) -> bool:
    """Whether a folder exists and, in a bucket, has files below it."""
    return bool(listed(folder)) if is_remote(folder) else folder.is_dir()


def upload(folder: Path, to: Path, last: str) -> None:
    """Copy a local folder into a bucket, the file `last` at the end; remove all other files there.

    Raises:
        StoreError: the store does not answer or refuses; old and new files may then be mixed.
    """
    made = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    store, key = filesystem(to), key_of(to)

    def send(name: str) -> None:
        for guard in guards:
            guard(to)
        store.put_file(str(folder / name), f"{key}/{name}")  # s3fs tells browsers what it is

    with _reached(to), ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(send, [name for name in made if name != last]))
        send(last)
        old = set(listed(to)) - set(made)
        list(pool.map(store.rm_file, [f"{key}/{name}" for name in sorted(old)]))


@contextmanager
def fetched(path: Path) -> Iterator[Path]:
    """A file or folder on this machine: the path itself, or a temporary copy from a bucket.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        with _reached(path):
            filesystem(path).get(key_of(path), str(copy), recursive=True)
        yield copy


@contextmanager
def _reached(path: str | Path) -> Iterator[None]:
    """Raise every exception of a store's library inside as a StoreError that names the path."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # each library has its own
        raise StoreError(f"{path}: {reason(error)}") from error
