"""A lease on a run in a bucket: one process at a time, where no kernel holds a lock.

The lease is an object. A process creates it only if it does not exist (If-None-Match on S3, and
the like elsewhere), and renews it while the run lasts. Another process takes a lease over if it
was not renewed for STALE seconds, by the clock of the store, or if its holder on this machine has
ended. A holder that lost its lease, or could not renew it in time, writes nothing more and ends.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, NotFinished, Superseded
from pipeline.storage import files, paths
from pipeline.storage.files import StoreError

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem as FileSystem

Holder = dict[str, object]
"""Host, process and token of the holder of a lease; empty where there is none."""

NAME = ".lock"
EVERY = 20.0
"""Seconds between two renewals."""
STALE = 90.0
"""Seconds without renewal after which another process may take a lease over."""
MARGIN = 15.0
"""Seconds before STALE from which on the holder itself no longer trusts its lease."""
SETTLE = 2.0
"""Seconds to wait after a takeover, in which another process may take the same stale lease."""


class Lease:
    """The lease that this process holds on a run."""

    def __init__(self, run: Path) -> None:
        self.run, self.path, self.lost = run, run / NAME, ""
        self.token, self.renewed = secrets.token_hex(16), time.monotonic()
        self.ended = threading.Event()

    def content(self) -> bytes:
        """Host, process and token of the holder, as JSON."""
        holder: Holder = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "token": self.token,
        }
        holder |= {"machine": _machine(), "started": _started(os.getpid())}
        return json.dumps(holder).encode()

    def check(self, path: Path) -> None:
        """Refuse to write into the run after the lease was lost.

        Raises:
            StoreError: the lease was lost.
        """
        if path != self.path and self.run in (path, *path.parents):
            if time.monotonic() - self.renewed > STALE - MARGIN:
                self.renew()
            if self.lost:
                raise StoreError(self.lost)

    def renew(self) -> None:
        """Write the lease again, if this process still holds it."""
        try:
            if _read(self.path).get("token") != self.token:
                self.lost = f"another camaudit took over {self.run}"
            else:
                begun = time.monotonic()
                files.put(self.path, self.content())
                self.renewed = begun
        except StoreError as error:
            log.warning("the lock cannot be renewed: %s", error)
            if time.monotonic() - self.renewed > STALE - MARGIN:
                self.lost = f"the lock of {self.run} could not be renewed: {error}"

    def watch(self) -> None:
        """Renew the lease until the run ends; end the run if the lease is lost."""
        while not self.ended.wait(EVERY):
            self.renew()
            if self.lost and not self.ended.is_set():
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
                return

    def release(self) -> None:
        """Remove the lease, after the renewing thread has ended."""
        with suppress(StoreError):
            if _read(self.path).get("token") == self.token:
                files.remove(self.path)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Hold a run in a bucket for this process, from its main thread.

    Raises:
        NotFinished: another process holds the run, or the store does not answer.
        ConfigError: the bucket cannot be written.
        Superseded: the lease was lost; raised at any moment inside.
    """
    lease = Lease(run)
    try:
        _take(lease)
    except StoreError as error:
        kind = NotFinished if files.is_unreachable(error) else ConfigError
        raise kind(f"output_dir: nothing can be written: {error}") from error

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise Superseded(f"{lease.lost}; run the same command again to go on")

    before = signal.signal(signal.SIGUSR1, stop)
    files.guards.append(lease.check)
    thread = threading.Thread(target=lease.watch, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        lease.ended.set()
        thread.join(timeout=EVERY)
        lease.release()
        files.guards.remove(lease.check)
        signal.signal(signal.SIGUSR1, before)


def is_held(run: Path) -> bool:
    """Whether a process holds a run; it may also have ended less than STALE seconds ago.

    Raises:
        StoreError: the store does not answer or refuses.
    """
    holder = _read(run / NAME)
    return bool(holder) and not _is_stale(run / NAME, holder)


def _take(lease: Lease) -> None:
    """Take the lease for this process, if no other process holds it.

    A store without an exclusive PUT is read before and after; there, two processes may hold the
    lease for a moment.
    """
    holder = _read(lease.path)
    if holder and not _is_stale(lease.path, holder):
        raise _at_work(lease.run, holder)
    if holder and _read(lease.path) == holder:
        files.remove(lease.path)
    taken = _create(lease)
    if taken and holder:
        time.sleep(SETTLE)
    found = _read(lease.path)
    if not taken or found.get("token") != lease.token:
        raise _at_work(lease.run, found)


def _at_work(run: Path, holder: Holder) -> NotFinished:
    return NotFinished(
        f"another camaudit is at work in {run}: process {holder.get('pid')} on "
        f"{holder.get('host')}; if it was killed, its lock ends {STALE:g} s later"
    )


def _create(lease: Lease) -> bool:
    """Create the lease; False if there is one already.

    Raises:
        StoreError: there is no lease, and none can be created.
    """
    store, key = paths.filesystem(lease.path), paths.key_of(lease.path)
    try:
        if paths.RULES[str(paths.protocol_of(lease.path))] == paths.PUT:
            store.pipe_file(key, lease.content(), mode="create")
        else:
            _create_by_rename(store, key, lease)
    except Exception as error:
        found = _read(lease.path)
        if not found:
            raise StoreError(f"{lease.run}: {paths.reason(error)}") from error
        return found.get("token") == lease.token  # made by a request whose answer was lost
    lease.renewed = time.monotonic()
    return True


def _create_by_rename(store: FileSystem, key: str, lease: Lease) -> None:
    """Create the lease by a rename, which on HDFS replaces no file."""
    draft = f"{key}.{lease.token}"
    store.makedirs(key.rpartition("/")[0], exist_ok=True)
    try:
        store.pipe_file(draft, lease.content())
        if store.exists(key):
            raise FileExistsError(key)
        store.mv(draft, key)
    finally:
        if store.exists(draft):
            store.rm_file(draft)


def _is_stale(path: Path, holder: Holder) -> bool:
    """Whether the holder of a lease has ended or no longer renews it."""
    if holder.get("machine") == _machine() != "":
        return _is_gone(int(str(holder["pid"])), str(holder["started"]))
    probe = path.with_name(f"{NAME}.{secrets.token_hex(8)}")
    try:
        files.put(probe, b"now")
        now, renewed = files.modified(probe), files.modified(path)
    finally:
        files.remove(probe)
    return renewed is None or (now or 0.0) - renewed > STALE


def _read(path: Path) -> Holder:
    """The holder of a lease; empty if there is no lease."""
    content = files.get(path)
    if content is None:
        return {}
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {"host": "an unknown host"}


def _machine() -> str:
    """A text that is unique to machine, container and boot; empty if the system has none."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """The start time of a process, which tells it from a later one with its number; or empty."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if stat[0] in "ZX" else stat[19]


def _is_gone(pid: int, started: str) -> bool:
    """Whether a process of this machine has ended."""
    with suppress(PermissionError):  # somebody else's is there
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
    return _started(pid) not in ("", started)
