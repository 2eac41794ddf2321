"""Put what was planted in the demo next to what an audit of it found, wins and misses alike.

camaudit dataset=demo model=demo run_id=demo
python scripts/demo_truth.py outputs/demo
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.demo.data import MARKED_CLASS, SIZE, WATERMARK_BOX, truth

FIRST = 100  # suspects a person may look through
CORNERS = ("x0", "y0", "x1", "y1")
COLUMNS = ["judgement", "class_name", "kind", "verdict", "score", "region", "n_images", "effect"]
Lines = dict[str, object]


def is_planted(class_name: str, region: dict[str, float] | None) -> bool:
    """Say whether a finding is the watermark: its class, and no region or one that touches it."""
    if class_name != MARKED_CLASS or region is None:
        return class_name == MARKED_CLASS
    x0, y0, x1, y1 = (side / SIZE for side in WATERMARK_BOX)
    return region["x0"] < x1 and region["x1"] > x0 and region["y0"] < y1 and region["y1"] > y0


def judged(findings: pd.DataFrame) -> pd.DataFrame:
    """Return the findings by falling score, with a column `judgement`."""
    table: pd.DataFrame = findings.sort_values("score", ascending=False, ignore_index=True)
    hits = [is_planted(*pair) for pair in zip(table["class_name"], table["region"], strict=True)]
    table["judgement"] = ["planted" if hit else "false alarm" for hit in hits]
    return table


def watermark(planted: pd.DataFrame, found: pd.DataFrame) -> Lines:
    """Sum up the planted watermark, and whether the first finding is it."""
    own = planted["true_label"] == MARKED_CLASS
    wears = planted["watermark"]
    top = "no finding"
    if len(found):
        hit = found["judgement"][0] == "planted"
        top = f"{'the watermark' if hit else 'something else'}, {found['verdict'][0]}"
    return {
        f"planted on {MARKED_CLASS}": f"{(own & wears).sum()} of {own.sum()}",
        "planted on other classes": f"{(~own & wears).sum()} of {(~own).sum()}",
        "planted within": " ".join(f"{side / SIZE:.2f}" for side in WATERMARK_BOX),
        "top finding": top,
        "false alarms": (found["judgement"] == "false alarm").sum(),
    }


def label_errors(planted: pd.DataFrame, suspects: pd.DataFrame) -> Lines:
    """Count the wrong labels among the first suspects, and those that are no suspects."""
    wrong = planted.loc[planted["flipped"], "image_id"]
    ranked = suspects.sort_values("rank")["image_id"]
    firsts = {f"among the first {n} suspects": n for n in (FIRST, 2 * len(wrong))}
    found = {name: wrong.isin(ranked[:n]).sum() for name, n in firsts.items()}
    missed = (~wrong.isin(ranked)).sum()
    return {"planted": len(wrong), **found, f"missed, of all {len(ranked)} suspects": missed}


def harmed(planted: pd.DataFrame, suspects: pd.DataFrame) -> Lines:
    """Count the watermarks among the suspects of kind shortcut."""
    ids = suspects.loc[suspects["kind"] == "shortcut", "image_id"]
    wears = planted[planted["watermark"]]
    others = wears.loc[wears["true_label"] != MARKED_CLASS, "image_id"]
    return {
        "suspects of this kind": len(ids),
        "with a watermark": ids.isin(wears["image_id"]).sum(),
        f"other classes' watermarks, of {len(others)}": others.isin(ids).sum(),
    }


def show(title: str, lines: Lines) -> None:
    """Print a title and aligned lines."""
    print(f"\n{title}")
    for name, value in lines.items():
        print(f"  {name:36}{value}")


def corners(region: dict[str, Any] | None) -> str:
    """Format a region, in fractions of the picture."""
    return "-" if region is None else " ".join(f"{region[name]:.2f}" for name in CORNERS)


def main() -> None:
    """Read the run's tables and print the comparison; ends with a message where one is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    folder = parser.parse_args().run / "analysis"
    try:
        found, suspects = (
            pd.read_parquet(folder / f"{name}.parquet") for name in ("findings", "suspects")
        )
    except FileNotFoundError as error:
        sys.exit(f"not a finished run: {error}")
    planted, found = truth(), judged(found)
    show("Watermark", watermark(planted, found))
    show("Wrong labels", label_errors(planted, suspects))
    show("Suspects of kind shortcut", harmed(planted, suspects))
    found["region"] = [corners(region) for region in found["region"]]
    print("\nFindings")
    print(found.to_string(columns=COLUMNS, index=False) if len(found) else "  none")


if __name__ == "__main__":
    main()
