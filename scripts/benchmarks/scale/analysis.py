"""How long the analysis takes with the number of rows, and how much memory it needs.

For each number, a made-up run is written, and one beside it whose plan differs in a few images.
Then discover (its tables; what follows works on samples of a bounded size), rank and compare are
run, each in a process of its own, and so is the count that ends explain.

    python scripts/benchmarks/scale/analysis.py --images 100000 1000000 10000000

Ten million rows take 7 GB on the disk while they are measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hydra import compose, initialize_config_dir
from synthetic_run import settings, write_run

from pipeline.analysis.shortcuts import class_sample
from pipeline.config import Config, conf_dir, load
from pipeline.run import checks
from pipeline.run.state import Journal
from pipeline.stages import compare, discover, rank
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import Plan, RunFolder

DRAWN = 32
"""Shards whose rows are drawn."""
RENAMED, REPAINTED = 20, 10
"""Images that the earlier run does not have, and those that it has in another version."""
MICROSECONDS, KIB = 1e6, 1024
Result = TypeVar("Result")


def review(config: Config) -> None:
    """Count the rows, as the end of explain does."""
    run = RunFolder(config.folder)
    checks.review(run, run_folder.read_plan(run, []).setup, Journal(config))


def tables(config: Config) -> None:
    """Do what of discover reads all rows."""
    run = RunFolder(config.folder)
    setup = run_folder.read_plan(run, []).setup
    rows = run_folder.rows(run, setup)
    parquet.write(discover.class_table(rows, setup), run.analysis("classes"))
    class_sample.draw_sample(rows, config.analysis.sample_per_class, config.seed)


STAGES: dict[str, Callable[[Config], None]] = {
    "review": review,
    "discover": tables,
    "rank": lambda config: rank.run(config, Journal(config)),
    "compare": lambda config: compare.run(config, Journal(config)),
}


def alone(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measured(stage: str, config: Config) -> tuple[float, float, float]:
    """Run a stage, and return its seconds and the process's peak memory in MiB before and after."""
    begun, before = time.perf_counter(), _peak()
    STAGES[stage](config)
    return time.perf_counter() - begun, before, _peak()


def _peak() -> float:
    """Return the most memory this process has held; getrusage would count its parent's, too."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / KIB


def write_before(config: Config, folder: Path) -> None:
    """Write the earlier run: the same parts under a plan with other ids and versions."""
    shutil.copytree(config.folder, folder, copy_function=os.link)
    plan = run_folder.read_plan(RunFolder(folder))
    changed = plan.table
    for name, number, first in (("image_id", RENAMED, 0), ("version", REPAINTED, 1)):
        where = np.zeros(plan.table.num_rows, bool)
        where[np.linspace(first, len(where) - 2, number).astype(int)] = True
        values = pa.array([f"before/{place}" for place in np.flatnonzero(where)])
        column = pc.replace_with_mask(changed[name].combine_chunks(), where, values)
        changed = changed.set_column(changed.column_names.index(name), name, column)
    run_folder.write_plan(RunFolder(folder), Plan(changed, plan.setup))


def measure(folder: Path, n_images: int, n_classes: int, shard_size: int) -> None:
    """Print a line for each stage of a run of so many images."""
    wanted = [*settings(folder, n_images, n_classes), "run_id=now"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(compose("config", wanted))
    begun = time.perf_counter()
    alone(write_run, config, n_images, n_classes, shard_size, DRAWN)
    print(f"{n_images:10,} rows written in {time.perf_counter() - begun:.0f} s", flush=True)
    for stage in STAGES:
        if stage == "compare":
            alone(write_before, config, folder / "before")
            config.baseline = str(folder / "before")
        seconds, before, peak = alone(measured, stage, config)
        each = seconds * MICROSECONDS / n_images
        print(
            f"{n_images:10,} rows: {stage:8} {seconds:6.1f} s, {each:6.1f} µs a row; "
            f"peak memory {peak:,.0f} MiB, {before:,.0f} of them before it began",
            flush=True,
        )


def main() -> None:
    """Measure for each number of images, and leave nothing behind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--shard-size", type=int, default=1_024)
    parser.add_argument("--folder", type=Path, help="where the runs are written, and removed again")
    args = parser.parse_args()
    for n_images in args.images:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            measure(Path(folder), n_images, args.classes, args.shard_size)


if __name__ == "__main__":
    main()
