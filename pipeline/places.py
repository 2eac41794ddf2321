"""Places that settings name: folders of this machine, and buckets through fsspec.

A place is a path. That of a bucket is a UPath, of which only the names are used: what is read and
written goes through the functions below, as methods such as is_file take a server that does not
answer for a file that is not there. No filesystem is used after a fork: each process makes its own.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.errors import ConfigError

PUT, RENAME = "one PUT of the whole object", "a draft beside it, then a rename"
RULES = {
    **dict.fromkeys(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"), PUT),
    "hdfs": RENAME,
}
"""How a file is committed, by protocol, so that it is there whole or not at all. Files of this
machine have a rule of their own in store.write; elsewhere nothing is written. memory is for tests.
"""
SIDE_BY_SIDE = 32
"""Requests at a time where there are many small ones."""

_TIMES = ("LastModified", "mtime", "last_modified", "updated", "created")
_SUMS = ("ETag", "etag", "md5Hash", "content_md5")
_opened: dict[tuple[str, int], Any] = {}
"""Filesystems by anchor and process. A child keeps its parent's without using them: were they
collected there, they would close sockets that the parent's event loop is still watching."""
guards: list[Callable[[Path], None]] = []
"""Asked before anything is written or removed in a bucket; they raise StoreError to refuse."""


class StoreError(OSError):
    """A bucket or its server refused or failed; the message names the place and says why."""


def place(text: str | Path) -> Path:
    """The path that a text names: of this machine, or of a bucket where it is a URL.

    Raises:
        ConfigError: a URL of a protocol that is unknown or whose package is not installed.
    """
    protocol = protocol_of(text)
    if protocol is None or not isinstance(text, str):
        return Path(text) if isinstance(text, str) else text
    if protocol == "file":
        return Path(url2pathname(urlsplit(text).path))
    filesystem(text)  # says what is lacking in our words
    try:
        from upath import UPath  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _lacking(text, error) from error
    return cast("Path", UPath(text.rstrip("/")))


def protocol_of(where: str | Path) -> str | None:
    """The protocol of a URL or of a path in a bucket; None of a path of this machine."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)(://|::)", str(where))
    return found[1].lower() if found and not isinstance(where, os.PathLike) else None


def is_remote(path: Path) -> bool:
    """Whether a place is in a bucket."""
    return not isinstance(path, os.PathLike)


def check_writable(key: str, text: str) -> None:
    """Refuse, by its name, a protocol on which a file cannot be committed.

    Raises:
        ConfigError: naming the setting.
    """
    protocol = protocol_of(text)
    if protocol not in (None, "file", *RULES):
        known = ", ".join(name for name in RULES if name != "memory")
        raise ConfigError(
            f"{key}: {text} cannot be written to: {protocol} has neither a PUT of whole objects "
            f"nor an atomic rename; what has: folders, {known}"
        )


def filesystem(where: str | Path) -> Any:
    """The fsspec filesystem of a URL or of a path in a bucket, made anew in each process.

    Raises:
        ConfigError: an unknown protocol, or a package that is not installed.
    """
    url = str(where)
    parts = urlsplit(url)
    anchor = url if "::" in url else f"{parts.scheme}://{parts.netloc}"
    known = _opened.get((anchor, os.getpid()))
    if known is None:
        # A listing that is kept would hide what other processes have written.
        options = {"use_listings_cache": False} if RULES.get(parts.scheme) == PUT else {}
        try:
            from fsspec.core import url_to_fs  # noqa: PLC0415 - takes a while, and is rarely needed

            known = url_to_fs(anchor, **options)[0]
        except ImportError as error:
            raise _lacking(url, error) from error
        except Exception as error:  # whatever the protocol's package raises
            raise ConfigError(f"{url} cannot be used: {reason(error)}") from error
        for name in ("botocore", "aiobotocore"):  # where each finds its credentials
            logging.getLogger(name).setLevel(logging.WARNING)
        _opened[anchor, os.getpid()] = known
    return known


def key_of(where: str | Path) -> str:
    """What the filesystem calls a place."""
    return str(filesystem(where)._strip_protocol(str(where)))


def is_unreachable(error: StoreError) -> bool:
    """Whether a server did not answer, as it may later; else it refused, as it will again."""
    cause = error.__cause__
    named = re.search("Connect|Timeout|Disconnect", type(cause).__name__)
    return isinstance(cause, ConnectionError | TimeoutError) or named is not None


def reason(error: BaseException) -> str:
    """Why a store failed, in one line."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, PermissionError):
        return f"access is refused: {text}"
    return text or type(error).__name__


def get(path: Path, *, last: int | None = None) -> bytes | None:
    """The bytes of a file in a bucket, or its last ones; None where there is no such file.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    with _reached(path):
        try:
            return _cat(path, last)
        except FileNotFoundError:
            return None


def fetch(url: str, most: int) -> bytes:
    """The bytes of an object, at most so many, by one request; raises what its library raises."""
    return cast("bytes", filesystem(url).cat_file(key_of(url), end=most))


def _cat(path: Path, last: int | None) -> bytes:
    store, key = filesystem(path), key_of(path)
    if last is not None:
        return cast("bytes", store.cat_file(key, start=-last))
    # s3fs would ask for the size first, were it allowed several requests for one object.
    options = {"max_concurrency": 1} if protocol_of(path) in ("s3", "s3a") else {}
    return cast("bytes", store.cat_file(key, **options))


def put(path: Path, content: bytes) -> None:
    """Commit a file in a bucket by the rule of its protocol, and see that it arrived.

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


def _renamed(store: Any, key: str, content: bytes) -> None:
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


def _arrived(store: Any, key: str, content: bytes) -> bool:
    """Whether a file has a size and digest; where the store tells no MD5, it is read back."""
    info = store.info(key)
    if info["size"] != len(content):
        return False
    digest = hashlib.md5(content, usedforsecurity=False)
    sums = (digest.hexdigest(), b64encode(digest.digest()).decode())
    told = [str(info.get(name)).strip('"') for name in _SUMS]
    return any(each in sums for each in told) or store.cat_file(key) == content


def remove(path: Path) -> None:
    """Remove a file, there or not.

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
    """Whether there is a file.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    return path.is_file() if not is_remote(path) else _info(path).get("type") == "file"


def read_text(path: Path) -> str:
    """The text of a file, as Path.read_text in UTF-8.

    Raises:
        OSError: it cannot be read; FileNotFoundError where it is not there.
    """
    if not is_remote(path):
        return path.read_text(encoding="utf-8")
    content = get(path)
    if content is None:
        raise FileNotFoundError(f"{path} is not there")
    return content.decode("utf-8")


def modified(path: Path) -> float | None:
    """When a file was written, in seconds since 1970 by the clock of its store; None: not there.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(path):
        return path.stat().st_mtime if path.is_file() else None
    info = _info(path)
    return _when(info) if info.get("type") == "file" else None


def newest(folder: Path) -> float | None:
    """When the last file below a folder in a bucket was written; None where there is none.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    return max(map(_when, listed(folder).values()), default=None)


def _info(path: Path) -> dict[str, Any]:
    """What the store knows of a file, empty where there is none."""
    with _reached(path):
        try:
            return cast("dict[str, Any]", filesystem(path).info(key_of(path)))
        except FileNotFoundError:
            return {}


def _when(info: dict[str, Any]) -> float:
    when = next((info[name] for name in _TIMES if info.get(name)), 0.0)
    if isinstance(when, str):
        when = datetime.fromisoformat(when.replace("Z", "+00:00"))
    return when.timestamp() if isinstance(when, datetime) else float(when)


def stamp(info: dict[str, Any]) -> str:
    """Size, and what changes when a file is written, from a listing."""
    tag = next((str(info[name]).strip('"') for name in _SUMS if info.get(name)), None)
    return f"{info['size']} {tag or _when(info)}"


def listed(folder: str | Path) -> dict[str, dict[str, Any]]:
    """All files below a folder in a bucket, by their path in it; empty where there are none.

    Raises:
        StoreError: no such bucket; the store does not answer or refuses.
    """
    store, key = filesystem(folder), key_of(folder).rstrip("/")
    with _reached(folder):
        found = store.find(key, detail=True)
    start = len(key) + 1
    return {name[start:]: info for name, info in found.items() if name.startswith(f"{key}/")}


def names(folder: Path, pattern: str) -> list[Path]:
    """Files right in a folder that match a pattern, sorted; hidden ones if the pattern says so.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    if not is_remote(folder):
        return sorted(folder.glob(pattern))
    with _reached(folder):
        found = sorted(map(str, filesystem(folder).glob(f"{key_of(folder)}/{pattern}")))
    return [folder / name.rpartition("/")[2] for name in found]


def upload(folder: Path, to: Path, last: str) -> None:
    """Bring a local folder into a bucket, one file of it at the end; what else was there goes.

    Raises:
        StoreError: the store does not answer or refuses; what was there before may be mixed then.
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
    """A file or folder as one of this machine: itself, or a copy for a while.

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
    """Whatever a store's library raises inside, as a StoreError that names the place."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # each library has its own
        raise StoreError(f"{path}: {reason(error)}") from error


def _lacking(url: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f'{url}: pip install "camaudit[remote]" (for S3; gcsfs or adlfs for Google and Azure): '
        f"{reason(error)}"
    )
