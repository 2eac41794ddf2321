"""Paths that settings name: of folders on this machine, and of buckets through fsspec.

The path of a bucket is a UPath, of which only the names are used. storage.files reads and writes,
because methods such as UPath.is_file take a server that does not answer for a missing file. A
filesystem is not used after a fork: each process makes its own.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

from pipeline.errors import ConfigError, one_line

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PUT, RENAME = "one PUT of the whole object", "a draft beside it, then a rename"
RULES = {
    **dict.fromkeys(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"), PUT),
    "hdfs": RENAME,
}
"""How a file in a bucket is committed, by protocol, so that it is there whole or not at all.

storage.atomic commits files of this machine. Other protocols are refused; memory is for tests.
"""
_opened: dict[tuple[str, int], AbstractFileSystem] = {}
"""Filesystems by anchor and process id. A forked process keeps those of its parent unused: their
destructors would close sockets that the event loop of the parent still watches."""


def to_path(text: str | Path) -> Path:
    """The path of a text: on this machine, or in a bucket if the text is a URL.

    Raises:
        ConfigError: a URL of a protocol that is unknown or whose package is not installed.
    """
    protocol = protocol_of(text)
    if protocol is None or not isinstance(text, str):
        return Path(text) if isinstance(text, str) else text
    if protocol == "file":
        from urllib.request import url2pathname  # noqa: PLC0415 - takes 50 ms

        return Path(url2pathname(urlsplit(text).path))
    filesystem(text)  # names a missing package
    try:
        from upath import UPath  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise _lacking(text, error) from error
    return cast("Path", UPath(text.rstrip("/")))


def protocol_of(where: str | Path) -> str | None:
    """The protocol of a URL or of a path in a bucket; None for a path of this machine."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]+)(://|::)", str(where))
    return found[1].lower() if found and not isinstance(where, os.PathLike) else None


def is_remote(path: Path) -> bool:
    """Whether a path is in a bucket."""
    return not isinstance(path, os.PathLike)


def local_path(path: Path) -> Path | None:
    """The path itself where it is on this machine, None where it is in a bucket."""
    return None if is_remote(path) else path


def check_writable(key: str, text: str) -> None:
    """Refuse a protocol that cannot commit a file atomically.

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


def filesystem(where: str | Path) -> AbstractFileSystem:
    """The fsspec filesystem of a URL or of a path in a bucket; each process has its own.

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
    """The name of a path within its filesystem."""
    return str(filesystem(where)._strip_protocol(str(where)))


def reason(error: BaseException) -> str:
    """Why a store failed, in one line of at most about 300 characters."""
    text = one_line(error, with_type=False)[:300]
    return f"access is refused: {text}" if isinstance(error, PermissionError) else text


def _lacking(url: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f'{url}: pip install "camaudit[remote]" (for S3; gcsfs or adlfs for Google and Azure): '
        f"{reason(error)}"
    )
