"""How long rank and report take on a store of a million rows, how much memory, how large a report.

The rows are made up: predictions, heatmaps and features as a model of many classes might give
them. Pictures are JPEGs that are decoded for the report as those of a folder would be.

    python scripts/benchmarks/scale/report.py --images 1000000 --classes 1000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hydra import compose, initialize_config_dir
from playwright.sync_api import sync_playwright
from synthetic_run import settings, write_run

from pipeline.config import conf_dir, load
from pipeline.stages.discover import class_table
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder

SHARD = 1024


def run_stages(*wanted: str) -> tuple[float, float]:
    """Run stages as the command, and return its seconds and its peak memory in MiB."""
    command = [sys.executable, "-m", "pipeline", *wanted]
    begun = time.perf_counter()
    child = subprocess.Popen(command)  # noqa: S603 - our own command
    _, status, usage = os.wait4(child.pid, 0)
    if status:
        sys.exit(f"the command failed: {os.waitstatus_to_exitcode(status)}")
    return time.perf_counter() - begun, usage.ru_maxrss / 1024


def interactive(page: Path, rounds: int = 5) -> tuple[float, float]:
    """Return medians, in seconds, until the filter can be used, and until it has answered."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    arguments = ["--no-sandbox", "--disable-gpu"]
    ready, answered = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        for _ in range(rounds):
            tab = browser.new_page()
            begun = time.perf_counter()
            tab.goto(page.as_uri(), wait_until="commit")
            tab.wait_for_selector("#filter:not([hidden])")
            ready.append(time.perf_counter() - begun)
            tab.locator("#filter [name=kind]").select_option("label_error")
            tab.locator("#count", has_text="48 of").wait_for()
            answered.append(time.perf_counter() - begun)
            tab.close()
        browser.close()
    return statistics.median(ready), statistics.median(answered)


def main() -> None:
    """Make the store, run the two stages, open the report, and tell what they cost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="keep the store here, and use it again")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp())
    wanted = settings(folder, args.images, args.classes)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = load(compose("config", wanted))
    if not (config.folder / "analysis/members.parquet").is_file():
        begun = time.perf_counter()
        write_run(config, args.images, args.classes, SHARD, drawn=args.images)
        run = RunFolder(config.folder)
        setup = run_folder.read_plan(run, []).setup
        parquet.write(class_table(run_folder.rows(run, setup), setup), run.analysis("classes"))
        print(f"store written in {time.perf_counter() - begun:.0f} s", flush=True)
    wall, peak = run_stages(*wanted, "stages=[rank,report]")
    seconds = json.loads((config.folder / "run.json").read_text(encoding="utf-8"))["seconds"]
    report = config.folder / "report"
    sizes = [path.stat().st_size for path in report.rglob("*") if path.is_file()]
    index = report / "index.html"
    ready, answered = interactive(index)
    print(
        f"rank {seconds['rank']:.0f} s, report {seconds['report']:.0f} s, in all {wall:.0f} s; "
        f"peak memory {peak:,.0f} MiB"
    )
    print(
        f"index.html {index.stat().st_size / 1e6:.2f} MB, report {sum(sizes) / 1e6:.1f} MB in "
        f"{len(sizes):,} files"
    )
    print(f"the filter can be used after {ready:.2f} s and has answered after {answered:.2f} s")
    if args.folder is None:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
