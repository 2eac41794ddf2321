"""A process killed at every step of its writing goes on to the tables of one that was not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.small_data import write_images

LAB = Path(__file__).parents[1] / "helpers" / "crash_lab.py"
ALL = "[explain,discover,verify,rank]"


def killed(settings: list[str], how: str, n_random: int) -> list[dict[str, Any]]:
    """What came of each kill."""
    command = [sys.executable, str(LAB), "runs", how, str(n_random), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture
def settings(tmp_path: Path, small_model: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 4)
    loader = ["loader.shard_size=4", "loader.batch_size=2", "dataset.root=photos"]
    return [*small_model, *loader, "analysis.permutations=20", "analysis.trials=10"]


def check(kills: list[dict[str, Any]]) -> None:
    for kill in kills:
        by_chance = kill["name"].startswith("random")  # which may come too late
        assert kill["killed"] == -9 or by_chance, kill
        assert (kill["resumed"], kill["state"]) == (0, "complete"), kill
        assert kill["equal"], kill
        assert kill["drafts"] == [], kill
        assert kill["twice"] == [], kill


def test_killed_before_each_step_it_goes_on_to_the_same_tables(settings: list[str]) -> None:
    kills = killed([*settings, "stages=[explain]"], "before", 1)
    check(kills)
    # plan and three parts, each synced, replaced, its folder synced; run.json at least twice
    assert len(kills) >= 4 * 3 + 2 * 2 + 1
    assert {kill["parts"] for kill in kills} >= {0, 1, 2, 3}


@pytest.mark.crash
def test_killed_before_and_after_each_step_of_all_stages_and_at_random(
    settings: list[str],
) -> None:
    kills = killed([*settings, f"stages={ALL}"], "every", 50)
    check(kills)
    print(f"{len(kills)} kills")
