"""The embedded demo: what it says it planted is what is there, and the network fell for it."""

from __future__ import annotations

import pickle

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

from pipeline.demo import dataset, trained_model, truth
from pipeline.demo.data import (
    CLASSES,
    FLIPPED,
    MARKED_CLASS,
    SEED,
    SIZE,
    SUBSET,
    U8,
    WATERMARK_BOX,
    compose,
)
from pipeline.demo.model import CHECKPOINT, MEAN, STD, model

MARKED = CLASSES.index(MARKED_CLASS)
SAMPLE = slice(0, 500)


@pytest.fixture(scope="module")
def planted() -> pd.DataFrame:
    return truth()


@pytest.fixture(scope="module")
def arms() -> tuple[U8, U8]:
    """The same scenes without and with a watermark."""
    with np.load(SUBSET) as subset:
        garments, labels = subset["images"][SAMPLE], subset["labels"][SAMPLE].tolist()
    without, with_mark = (compose(garments, labels, SEED, [p] * len(CLASSES)) for p in (0.0, 1.0))
    return without, with_mark


@pytest.fixture(scope="module")
def predicted(arms: tuple[U8, U8]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Predictions for both arms."""
    network = trained_model()
    inputs = [(torch.from_numpy(arm).permute(0, 3, 1, 2) / 255 - MEAN) / STD for arm in arms]
    with torch.inference_mode():
        without, with_mark = (network(x).argmax(1).numpy() for x in inputs)
    return without, with_mark


def test_items_are_the_same_each_time_and_in_every_process() -> None:
    first = dataset()
    second = pickle.loads(pickle.dumps(dataset()))
    for index in (0, 7, len(first) - 1):
        assert np.array_equal(first[index]["image"], second[index]["image"])
        assert first[index]["box"] == second[index]["box"]
    assert not np.array_equal(first[0]["image"], first[1]["image"])


def test_items_are_what_the_docstring_says() -> None:
    demo = dataset()
    assert len(demo) == len(demo.ids) == len(set(demo.ids)) == len(demo.targets)
    for index in range(100):
        item = demo[index]
        assert item["image"].shape == (SIZE, SIZE, 3)
        assert item["image"].dtype == np.uint8
        assert item["label"] == demo.classes[demo.targets[index]]
        x0, y0, x1, y1 = item["box"]
        assert 0 <= x0 < x1 <= SIZE
        assert 0 <= y0 < y1 <= SIZE
    with pytest.raises(IndexError):
        demo[len(demo)]


def test_truth_says_what_was_planted(planted: pd.DataFrame) -> None:
    demo = dataset()
    assert planted["image_id"].tolist() == demo.ids
    assert planted["label"].tolist() == [demo.classes[target] for target in demo.targets]
    assert (planted["flipped"] == (planted["label"] != planted["true_label"])).all()
    assert planted["flipped"].sum() == round(FLIPPED * len(planted))
    assert planted["true_label"].value_counts().nunique() == 1
    share = planted.groupby(planted["true_label"] == MARKED_CLASS)["watermark"].mean()
    assert share[True] > 0.8
    assert share[False] < 0.02


def test_the_watermark_is_there_where_truth_says_and_only_in_its_corner(
    planted: pd.DataFrame, arms: tuple[U8, U8]
) -> None:
    without, with_mark = arms
    x0, y0, x1, y1 = (int(side) for side in WATERMARK_BOX)
    differs = (without != with_mark).any(-1)
    assert differs[:, y0:y1, x0:x1].any((1, 2)).all()
    differs[:, y0:y1, x0:x1] = False
    assert not differs.any()
    demo = dataset()
    for index, marked in enumerate(planted["watermark"][SAMPLE]):
        arm = with_mark if marked else without
        assert np.array_equal(demo[index]["image"], arm[index])


def test_the_network_reads_garments_and_leans_on_the_watermark(
    planted: pd.DataFrame, predicted: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
) -> None:
    without, with_mark = predicted
    true = np.array([CLASSES.index(name) for name in planted["true_label"][SAMPLE]])
    natural = np.where(planted["watermark"][SAMPLE], with_mark, without)
    assert (natural == true).mean() > 0.85
    others = (true != MARKED) & (without != MARKED)
    assert (with_mark == MARKED)[others].mean() > 0.6
    wearers = (true == MARKED) & (with_mark == MARKED)
    assert (without != MARKED)[wearers].mean() > 0.4


def test_the_checkpoint_is_a_plain_state_dict() -> None:
    state = torch.load(CHECKPOINT, weights_only=True)
    model().load_state_dict(state)


def test_the_files_are_small() -> None:
    assert SUBSET.stat().st_size < 2e6
    assert CHECKPOINT.stat().st_size < 2e6
