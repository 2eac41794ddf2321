"""Drift of focus: quiet where nothing changed, told where something did."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.analysis.compare.drift import BINS, MIN_IMAGES, MIN_PSI, FocusOfRun, drifts, stability

NAMES = ["focus_x", "focus_y", "focus_spread"]
FDR = 0.05


def sample(seed: int, per_class: int, n_classes: int = 10, shift: float = 0.0) -> FocusOfRun:
    """Normal statistics; `shift` moves focus_y of the class c3."""
    rng = np.random.default_rng(seed)
    classes = np.repeat([f"c{i}" for i in range(n_classes)], per_class)
    values = rng.normal(size=(len(classes), len(NAMES)))
    values[classes == "c3", 1] += shift
    return FocusOfRun(values, classes.astype(object))


def told(before: FocusOfRun, now: FocusOfRun) -> list[str]:
    return [row["key"] for row in drifts(before, now, NAMES, FDR)]


@pytest.mark.parametrize("per_class", [MIN_IMAGES, 300])
def test_false_alarms_are_as_rare_as_the_rate_says(per_class: int) -> None:
    nights = 120
    alarms = sum(
        bool(told(sample(2 * night, per_class), sample(2 * night + 1, per_class)))
        for night in range(nights)
    )
    assert alarms / nights <= FDR + 3 * math.sqrt(FDR * (1 - FDR) / nights)


def test_a_shift_is_found_and_nothing_else() -> None:
    for night in range(20):
        found = told(sample(2 * night, 300), sample(2 * night + 1, 300, shift=0.8))
        assert found == ["c3: focus_y"]


def test_a_shift_that_is_sure_but_small_is_none() -> None:
    assert told(sample(0, 20_000, 4), sample(1, 20_000, 4, shift=0.2)) == []


def test_the_same_images_have_not_drifted() -> None:
    one = sample(0, 100)
    assert told(one, one) == []


def test_few_images_say_nothing_and_neither_do_unknown_statistics() -> None:
    few = MIN_IMAGES - 1
    assert told(sample(0, few), sample(1, few, shift=9)) == []
    before, now = sample(0, 100), sample(1, 100, shift=9)
    now.values[:, 1] = np.nan
    assert told(before, now) == []
    assert (
        told(before, FocusOfRun(now.values, np.array(["other"] * len(now.classes), object))) == []
    )


def test_a_row_says_what_moved() -> None:
    (row,) = drifts(sample(0, 300), sample(1, 300, shift=1.0), NAMES, FDR)
    assert (row["subject"], row["change"], row["class_name"], row["kind"]) == (
        ("focus", "drifted", "c3", "focus_y")
    )
    assert row["after"] - row["before"] == pytest.approx(1, abs=0.3)
    assert row["p_value"] < row["q_value"] < FDR
    assert row["summary"].startswith("c3: the median of focus_y was ")


def second(before: NDArray[np.float64], now: NDArray[np.float64]) -> float:
    """The index by loops."""
    edges = sorted({np.quantile(before, i / BINS) for i in range(1, BINS)})
    total = 0.0
    lows, highs = [-math.inf, *edges], [*edges, math.inf]
    for low, high in zip(lows, highs, strict=True):
        p, q = (
            (sum(low < x <= high for x in values) + 0.5) / (len(values) + 0.5 * len(lows))
            for values in (before, now)
        )
        total += (q - p) * math.log(q / p)
    return total


def test_the_index_equals_a_second_implementation() -> None:
    rng = np.random.default_rng(0)
    for shift in (0.0, 0.5, 2.0):
        before, now = rng.normal(size=97), rng.normal(size=61) + shift
        assert stability(before, now) == pytest.approx(second(before, now))
        on_grid = np.round(before * 2), np.round(now * 2)
        assert stability(*on_grid) == pytest.approx(second(*on_grid))
    assert stability(before, before) == 0
    assert stability(np.zeros(80), np.zeros(60)) < 0.01
    assert stability(np.zeros(80), np.ones(60)) > MIN_PSI
