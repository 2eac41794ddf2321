"""Replace a file or a folder as a whole: a draft beside it, then an atomic rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipeline.storage import files
from pipeline.storage.paths import is_remote


@contextmanager
def drafted(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A draft to write, which replaces a file of this machine at the end; atomic.

    The draft stands beside the file, under a name that begins with a dot and ends in .tmp. It is
    removed where anything is raised.

    Args:
        path: the file; its folder is made.
        durable: whether draft and folder are flushed to the disk (fsync).

    Raises:
        OSError: disk full, folder read-only; the file that was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        if durable:
            sync(draft)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):  # the error that is raised says why
            draft.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file or folder of this machine to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(text: str, path: Path, mode: int | None = None) -> None:
    """Replace a small text file as a whole; mode, where given, are its permissions.

    Raises:
        OSError: disk full, folder read-only, bucket out of reach; what was there before stays.
    """
    if is_remote(path):
        files.put(path, text.encode())
        return
    with drafted(path) as draft:
        draft.write_text(text, encoding="utf-8")
        if mode is not None:
            draft.chmod(mode)


@contextmanager
def replaced_folder(folder: Path, last: str) -> Iterator[Path]:
    """A new folder to fill, which replaces `folder` at the end unless something is raised.

    Args:
        folder: the folder to replace. In a bucket its files are replaced one by one.
        last: the file that is brought into a bucket after all others.

    Raises:
        OSError: disk full, bucket out of reach; the folder that was there before stays.
    """
    if is_remote(folder):
        with tempfile.TemporaryDirectory() as made:
            yield Path(made)
            files.upload(Path(made), folder, last)
        return
    draft, old = (folder.with_name(f".{folder.name}.{name}") for name in ("draft", "old"))
    shutil.rmtree(draft, ignore_errors=True)  # of an attempt that was killed
    draft.mkdir()
    try:
        yield draft
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
