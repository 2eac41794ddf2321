"""Kills camaudit at each step of its writing, and at random moments, and lets it go on.

A process of its own that has imported everything, so that a child is there in no time:
`python tests/crash_lab.py FOLDER every|before N_RANDOM KEY=VALUE ...` prints a JSON line per kill.
Steps are the calls that make something last: fsync of a file or folder, and replace.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from pipeline import __main__ as command
from pipeline.config import STAGES
from pipeline.run import checks, explain_shards, signals
from pipeline.run.executors import local
from pipeline.run.monitoring import mlflow, prometheus
from pipeline.stages import audit

IMPORTED = [
    *(checks, explain_shards, signals, local, mlflow, prometheus, audit),
    *(importlib.import_module(f"pipeline.stages.{name}") for name in STAGES),
]
"""Modules that the command imports when it needs them; a child would import them anew each time."""

Prepare = Callable[[], None]


def child(arguments: list[str], prepare: Prepare = lambda: None) -> int:
    """The command in a process group of its own; its process id."""
    process = os.fork()
    if process:
        with suppress(OSError):  # whoever of the two comes first
            os.setpgid(process, process)
        return process
    with suppress(OSError):
        os.setpgid(0, 0)
    sys.argv = ["camaudit", *arguments]
    code = 70
    try:
        prepare()
        command.main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Its exit code, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killing(step: int, *, after: bool) -> Prepare:
    """What makes a process kill itself before or after its step of that number."""
    count = 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments)
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    def prepare() -> None:
        os.fsync = counted(os.fsync)
        Path.replace = counted(Path.replace)  # type: ignore[method-assign]

    return prepare


def tables(folder: Path) -> dict[str, Any]:
    """Every table of a run, by its path in the run."""
    files = sorted([*folder.glob("*.parquet"), *folder.glob("*/*.parquet")])
    return {str(file.relative_to(folder)): pq.read_table(file) for file in files}


def committed(folder: Path) -> dict[str, int]:
    """When each part was committed."""
    return {part.name: part.stat().st_mtime_ns for part in folder.glob("parts/part-*")}


class Lab:
    """Runs of the same settings, and the tables that they must end with."""

    def __init__(self, folder: Path, settings: list[str]) -> None:
        self.folder, self.settings = folder, settings
        begun = time.monotonic()
        assert ended(child(self.arguments("whole"))) == 0
        self.seconds = time.monotonic() - begun
        self.expected = tables(folder / "whole")

    def arguments(self, name: str) -> list[str]:
        return [*self.settings, f"output_dir={self.folder}", f"run_id={name}"]

    def resumed(self, name: str, killed: int) -> dict[str, Any]:
        """What came of a killed run after it went on."""
        folder = self.folder / name
        before = committed(folder)
        again = ended(child(self.arguments(name)))
        found, now = tables(folder), committed(folder)
        same = found.keys() == self.expected.keys()
        return {
            "name": name,
            "killed": killed,
            "resumed": again,
            "parts": len(before),
            "equal": same and all(found[key].equals(self.expected[key]) for key in found),
            "drafts": [str(path) for path in folder.rglob("*.tmp")],
            "twice": [part for part, when in before.items() if now.get(part) != when],
            "state": json.loads((folder / "run.json").read_text())["state"],
        }

    def steps(self, moments: list[str]) -> None:
        """Kill at every step, until a run comes to its end."""
        for moment in moments:
            step = 1
            while True:
                name = f"{moment}-{step}"
                prepare = killing(step, after=moment == "after")
                code = ended(child(self.arguments(name), prepare))
                if code == 0:
                    break
                print(json.dumps(self.resumed(name, code)), flush=True)
                step += 1

    def random(self, n: int) -> None:
        """Kill at moments from all over a run."""
        moments = random.Random(0)
        for number in range(n):
            process = child(self.arguments(f"random-{number}"))
            time.sleep(moments.uniform(0, self.seconds))
            os.killpg(process, signal.SIGKILL)
            code = ended(process)
            print(json.dumps(self.resumed(f"random-{number}", code)), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    lab = Lab(Path(sys.argv[1]), sys.argv[4:])
    lab.steps(["before", "after"] if sys.argv[2] == "every" else ["before"])
    lab.random(int(sys.argv[3]))
