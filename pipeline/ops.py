"""What an unattended run needs: one run at a time, signals, run.json, progress, versions."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import platform
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import cache
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from pipeline import __version__, share, store
from pipeline.config import Config, load
from pipeline.errors import AuditError, ConfigError, Held, NotFinished, Stopped
from pipeline.share import WHOLE, Share
from pipeline.storage import files, lease, places

log = logging.getLogger(__name__)

LIBRARIES = ("torch", "torchvision", "numpy", "pyarrow", "opencv-python-headless", "hydra-core")
LEAST_SPACE = 2**17
"""Bytes that the settings and the log of an attempt may need."""
LOOKS = 3
"""At the lock before it counts as held: camaudit-status takes it for a moment."""
LOG_EVERY = 10.0
"""Seconds between two progress lines where there is no terminal."""


class ProgressSafeHandler(logging.Handler):
    """Writes log lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record to stderr."""
        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:  # noqa: BLE001 - logging must not end a run
            self.handleError(record)


class Preflight(Callback):
    """Checks the settings before Hydra makes a folder, whose failure would be a traceback."""

    def on_run_start(self, config: DictConfig, **_kwargs: Any) -> None:
        """Exit with 1 and a plain message where a setting cannot be used."""
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        try:
            settings = load(own)
            make_folder(settings.folder)
            check_space(settings.folder)
        except AuditError as error:
            sys.stderr.write(f"{error}\n")
            sys.exit(error.exit_code)


@dataclass
class Attempt:
    """One start of the command: when, on what, how it ended."""

    started: str
    ended: str | None = None
    state: str = "running"
    exit_code: int | None = None
    message: str | None = None
    device: str | None = None
    images: int = 0
    images_per_second: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class Journal:
    """run.json: the state of a run and of every attempt at it, replaced whole at each change."""

    def __init__(self, config: Config) -> None:
        mine = share.of(config.shard)
        name = "run.json" if mine.is_whole else f"shares/{mine.name}.json"
        self.path = config.folder / name
        self.config = asdict(config)
        self.overrides = _overrides()
        self.attempt = Attempt(started=_now())
        earlier = self._earlier()
        self.attempts: list[dict[str, Any]] = earlier.get("attempts", [])
        # What explain found holds for stages that run alone, until explain runs again.
        self.counts: dict[str, int] = earlier.get("counts", {})
        self.warnings: list[str] = earlier.get("warnings", [])
        self.engine: dict[str, Any] = earlier.get("engine", {})
        self.verification: dict[str, Any] = earlier.get("verification", {})
        self.gate: list[dict[str, Any]] = earlier.get("gate", [])
        self.write()

    def warn(self, text: str) -> None:
        """Note something about the audit itself that its reader must know."""
        if text not in self.warnings:
            log.warning("%s", text)
            self.warnings.append(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage, in seconds."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.attempt.seconds[name] = round(time.perf_counter() - begun, 3)
            self.write()

    def end(self, state: str, exit_code: int, message: str | None = None) -> None:
        """Note how the attempt ended: complete, failed or aborted."""
        self.attempt.ended, self.attempt.state = _now(), state
        self.attempt.exit_code, self.attempt.message = exit_code, message
        self.write()

    def write(self) -> None:
        """Replace run.json."""
        content = {
            "state": self.attempt.state,
            "exit_code": self.attempt.exit_code,
            "counts": self.counts,
            "warnings": self.warnings,
            "device": self.attempt.device,
            "engine": self.engine,
            "verification": self.verification,
            "gate": self.gate,
            "seconds": self.attempt.seconds,
            "images_per_second": self.attempt.images_per_second,
            "versions": versions(),
            "overrides": self.overrides,
            "config": self.config,
            "attempts": [*self.attempts, asdict(self.attempt)],
        }
        try:
            store.write_text(json.dumps(content, indent=1, default=str), self.path)
        except OSError as error:  # on a full disk it is the tables that tell
            log.warning("%s cannot be written: %s", self.path, error.strerror or error)

    def _earlier(self) -> dict[str, Any]:
        """What earlier attempts left; one that still says running was killed."""
        try:
            content: dict[str, Any] = json.loads(files.read_text(self.path))
        except (OSError, ValueError):
            return {}
        for attempt in content.get("attempts", []):
            if attempt["state"] == "running":
                attempt["state"], attempt["message"] = "aborted", "killed"
        return content


def make_folder(folder: Path) -> None:
    """Make the folder of a run.

    Raises:
        ConfigError: where it cannot be made or written.
    """
    if places.is_remote(folder):
        return  # a bucket has no folders; whether it can be written, the lock finds out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"output_dir: {folder} cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir: {folder} cannot be written")


def check_space(folder: Path) -> None:
    """See that a run can at least be begun.

    Raises:
        NotFinished: where the disk is full.
    """
    if not places.is_remote(folder) and shutil.disk_usage(folder).free < LEAST_SPACE:
        raise NotFinished(f"{folder}: the disk is full; make space and run the same command again")


@contextmanager
def lock(folder: Path, mine: Share = WHOLE, looks: int = LOOKS) -> Iterator[None]:
    """Hold a run folder for this process; the kernel lets go of it however the process ends.

    Shares of a run hold one lock each, and keep out whoever wants the whole run, as it does them.
    In a bucket, where no kernel watches, it is held by a lease.

    Raises:
        Held: where another process holds it.
        ConfigError: where the folder cannot be made or written.
    """
    if places.is_remote(folder):
        if not mine.is_whole:
            raise ConfigError("output_dir: shares of a run need a folder; use executor=ray")
        with lease.held(folder):
            yield
        return
    make_folder(folder)
    with _held(folder / (".lock" if mine.is_whole else f".lock-{mine.name}"), looks):
        for other in folder.glob(".lock-*") if mine.is_whole else [folder / ".lock"]:
            with _held(other, LOOKS):
                pass
        yield


@contextmanager
def planning(folder: Path, mine: Share) -> Iterator[None]:
    """Alone among the shares of a run: the first one plans, the others wait and find its plan."""
    if mine.is_whole:
        yield
        return
    with _held(folder / ".planning", sys.maxsize):
        yield


@contextmanager
def _held(path: Path, looks: int) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, path.parent, looks)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, looks: int) -> None:
    for attempt in range(looks):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if attempt + 1 == looks:
                raise Held(f"another camaudit is at work in {folder}") from error
            time.sleep(0.05)
        else:
            return


@contextmanager
def signals() -> Iterator[None]:
    """Turn SIGTERM and SIGINT into Stopped, so that loaders and files are closed on the way out."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        raise Stopped(signum)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress(total: int, done: int) -> Iterator[Any]:
    """A tqdm bar with images/s and time left on a terminal, a line every ten seconds elsewhere.

    Yields advance(images).
    """
    if sys.stderr.isatty():
        with tqdm(total=total, initial=done, unit="img", desc="explain", smoothing=0.1) as bar:
            yield bar.update
        return
    begun = told = time.monotonic()
    count = done

    def advance(images: int) -> None:
        nonlocal count, told
        count += images
        now = time.monotonic()
        if now - told >= LOG_EVERY and count > done:
            told = now
            rate = (count - done) / (now - begun)
            left = (total - count) / rate
            log.info("explain: %d/%d images, %.1f/s, %.0f s left", count, total, rate, left)

    yield advance


@cache
def versions() -> dict[str, str]:
    """What ran: camaudit, Python and the libraries that make the numbers."""
    found = {"camaudit": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _overrides() -> list[str]:
    """What the command line said; for status, where Hydra's own files are on another machine."""
    if not HydraConfig.initialized():
        return []
    return [str(each) for each in HydraConfig.get().overrides.task]


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
