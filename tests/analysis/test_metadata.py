"""Metadata columns associated with the prediction, against closed forms and in a run."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from pipeline.analysis.shortcuts import metadata
from pipeline.config import Config
from pipeline.stages.audit import audit
from pipeline.storage import parquet
from pipeline.storage.run_folder import RunFolder


def haenszel(outcome: Any, exposed: Any, strata: Any) -> list[float]:
    """Share, others and p-value of the class that `outcome` marks."""
    found = {
        row[0]: row[1:] for row in metadata.mantel_haenszel(outcome.astype(int), exposed, strata)
    }
    return list(found[1])


def test_every_class_is_compared_with_the_rest() -> None:
    """Strata summed one by one, written out from the paper's formulas."""
    rng = np.random.default_rng(1)
    predicted, labels = rng.integers(4, size=300), rng.integers(3, size=300)
    exposed = rng.random(300) < 0.2 + 0.2 * labels
    for label, share, others, p_value in metadata.mantel_haenszel(predicted, exposed, labels):
        rows = [(labels == k, predicted == label) for k in range(3)]
        n = np.array([k.sum() for k, _ in rows])
        n1 = np.array([(k & exposed).sum() for k, _ in rows])
        m1 = np.array([(k & c).sum() for k, c in rows])
        a = np.array([(k & c & exposed).sum() for k, c in rows])
        weight = n1 * (n - n1) / n
        assert share == pytest.approx(np.average(a / n1, weights=weight))
        assert others == pytest.approx(np.average((m1 - a) / (n - n1), weights=weight))
        spread = [stats.hypergeom(*table).var() for table in zip(n, m1, n1, strict=True)]
        z = (a - n1 * m1 / n).sum() / np.sum(spread) ** 0.5
        assert p_value == pytest.approx(stats.norm.sf(z))


def test_one_stratum_is_the_two_by_two_table() -> None:
    """Without strata it is the hypergeometric z: 30 of 50 with, 10 of 50 without."""
    exposed = np.repeat([True, False], 50)
    outcome = np.concatenate([np.arange(50) < 30, np.arange(50) < 10])
    share, others, p_value = haenszel(outcome, exposed, np.zeros(100, int))
    assert (share, others) == (0.6, 0.2)
    spread = stats.hypergeom(100, 40, 50).std()
    assert p_value == pytest.approx(stats.norm.sf((30 - 20) / spread))


def test_a_difference_explained_by_the_labels_is_no_association() -> None:
    """Simpson's paradox: within each label there is no association, over all labels there is."""
    labels = np.repeat([0, 1], 100)
    exposed = np.concatenate([np.arange(100) < 80, np.arange(100) < 20])
    outcome = labels == 0
    share, others, p_value = haenszel(outcome, exposed, labels)
    assert share == pytest.approx(others)
    assert p_value == 1.0  # nothing is left to vary
    crude = outcome[exposed].mean() - outcome[~exposed].mean()
    assert crude > 0.5


def test_values_without_images_on_both_sides_are_not_tested() -> None:
    every = np.ones(10, bool)
    assert list(metadata.mantel_haenszel(every.astype(int), every, np.zeros(10, int))) == []


def test_cramers_v_is_one_for_copies_and_none_for_constants() -> None:
    codes = np.arange(90) % 3
    assert metadata.cramers_v(codes, codes) == pytest.approx(1)
    assert metadata.cramers_v(codes, np.zeros(90, int)) == 0
    assert metadata.cramers_v(codes, np.arange(90) // 3 % 3) == pytest.approx(0, abs=0.2)


def test_every_kind_of_column_is_grouped_or_left_out() -> None:
    rng = np.random.default_rng(0)
    n = 400
    predicted = rng.integers(2, size=n)
    columns = pa.table(
        {
            "same": ["a"] * n,
            "name": [f"{i}.png" for i in range(n)],
            "site": pa.array(["A" if p else None for p in predicted]),
            "age": predicted * 50 + rng.random(n),
            "flag": pa.array(predicted.astype(bool)),
        }
    )
    found = list(metadata.find_associations(columns, predicted, np.zeros(n, int)))
    assert {test.column for test in found} == {"age", "flag"}
    clear = [test for test in found if test.p_value < 1e-6]
    assert {(test.column, test.class_index) for test in clear} == {
        ("age", 0), ("age", 1), ("flag", 0), ("flag", 1)
    }  # fmt: skip


def test_a_value_that_says_the_same_as_a_label_is_told_once() -> None:
    labels = np.repeat([0, 1, -1], [60, 60, 10])
    site = np.where(labels == 0, "A", "B").astype(object)
    site[:2] = "B"
    columns = pa.table(
        {
            "site": site.tolist(),
            "copy": np.where(labels == 0, "Red", "green").tolist(),
            "half": (["x", "y"] * 65),
            "empty": pa.array([None] * 130, pa.string()),
        }
    )
    (found,) = metadata.find_confounders(columns, labels, ["red", "green"])
    assert (found.class_index, found.column, found.value) == (0, "site", "A")
    assert found.share_of_label == pytest.approx(58 / 60)
    assert found.share_of_value == 1.0
    table = [[58, 0], [2, 70]]
    assert found.p_value == pytest.approx(stats.fisher_exact(table, "greater")[1])
    assert list(metadata.find_confounders(columns, np.full(130, -1), ["red", "green"])) == []


def test_without_association_p_values_are_uniform() -> None:
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(200):
        columns = pa.table({"site": rng.choice(["A", "B"], 200)})
        tests = metadata.find_associations(
            columns, rng.integers(2, size=200), rng.integers(3, size=200)
        )
        p_values.append(next(tests).p_value)
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


NETWORK = """
import torch
from torch import nn


def build():
    network = nn.Sequential(
        nn.Conv2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        network[0].weight[:] = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None]
        network[0].bias[:] = 0
        network[4].weight[:] = 9 * torch.eye(2)
        network[4].bias[:] = 0
    return network
"""


def test_a_site_associated_with_a_prediction_is_suspected(
    tmp_path: Path, configure: Callable[..., Config]
) -> None:
    """Half of the red images of site B are labelled green, so red is predicted more often there."""
    (tmp_path / "net.py").write_text(NETWORK)
    with (tmp_path / "list.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["path", "label", "hospital"])
        for number in range(160):
            site, red = "AB"[number % 2], number % 4 < 2 or number % 8 == 3
            label = "red" if red and (site == "A" or number % 8 < 4) else "green"
            pixels = np.full((16, 16, 3), (40, 90, 200) if red else (40, 200, 90), np.uint8)
            assert cv2.imwrite(str(tmp_path / f"{number}.png"), pixels)
            table.writerow([f"{number}.png", label, site])
    config = configure(
        "dataset=manifest",
        f"dataset.path={tmp_path}/list.csv",
        "model=custom",
        f"model.factory={tmp_path}/net.py:build",
        "model.class_names=[red,green]",
        "model.preprocess.resize=16",
        "model.preprocess.mean=[0,0,0]",
        "model.preprocess.std=[1,1,1]",
        "loader.num_workers=0",
    )
    audit(config)
    findings = parquet.read(RunFolder(config.folder).analysis("findings")).to_pylist()
    by_class = {
        found["class_name"]: found for found in findings if found["kind"] == "metadata"
    }  # of two classes, what favours one goes against the other
    assert set(by_class) == {"red", "green"}
    for name, site in (("red", "B"), ("green", "A")):
        assert by_class[name]["verdict"] == "suspected"
        assert f"hospital = {site}" in by_class[name]["summary"]
        assert "Cramer's V" in by_class[name]["summary"]
        assert by_class[name]["effect"] is None
