"""The planted sets: cues are where their masks say, arms differ in the cue alone."""

from __future__ import annotations

from typing import Any

import cues
import numpy as np
import outcomes
import pandas as pd
import pytest
import sets
from cues import CUES, Planted
from outcomes import Truth
from sets import Recipe

from pipeline.demo import data

WHOLE = {"tint", "jpeg", "vignette"}


@pytest.fixture(scope="module")
def garments() -> tuple[data.U8, Any]:
    with np.load(data.SUBSET) as subset:
        return subset["images"][:60], subset["labels"][:60].astype(np.int64)


@pytest.mark.parametrize("name", CUES)
def test_a_cue_changes_the_picture_where_its_mask_says_and_nowhere_else(name: str) -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((64, 64, 3))
    drawn, mask = CUES[name](picture.copy(), (20.0, 20.0, 44.0, 44.0), rng)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    changed = np.asarray((np.abs(drawn - picture) > 1e-3).any(axis=2))
    assert changed.any()
    assert (mask is None) == (name in WHOLE)
    if mask is not None:
        assert not changed[~mask].any()


def test_the_arms_of_a_set_differ_in_the_cue_alone(garments: tuple[data.U8, Any]) -> None:
    images, labels = garments
    cue = Planted(3, "patch")
    recipe = Recipe("patch", [cue])
    natural = sets.draw(recipe, images, labels, 0)
    without = sets.draw(recipe, images, labels, 0, arm=False)
    with_all = sets.draw(recipe, images, labels, 0, arm=cue)
    assert natural.marked.sum() > 0
    assert not natural.marked[labels != 3].any()
    arms = zip(natural.pictures, without.pictures, with_all.pictures, natural.marked, strict=True)
    for picture, bare, marked, wears in arms:
        assert np.array_equal(picture, marked if wears else bare)
    differs = (without.pictures != with_all.pictures).any(axis=3)
    assert not differs[~with_all.masks].any()


def test_a_background_cue_leaves_the_object(garments: tuple[data.U8, Any]) -> None:
    images, labels = garments
    recipe = Recipe("background", [Planted(3, "background")])
    bare = sets.draw(recipe, images, labels, 0, arm=False)
    changed = sets.draw(recipe, images, labels, 0, arm=recipe.planted[0])
    assert bare.boxes == changed.boxes
    for one, other, box in zip(bare.pictures, changed.pictures, bare.boxes, strict=True):
        x, y = int(box[0] + box[2]) // 2, int(box[1] + box[3]) // 2
        middle = np.abs(
            one[y - 2 : y + 2, x - 2 : x + 2].astype(int) - other[y - 2 : y + 2, x - 2 : x + 2]
        )
        assert np.median(middle) < 60


def test_every_recipe_is_distinct_and_cues_move_with_the_seed() -> None:
    for seed in range(3):
        names = [recipe.name for recipe in sets.recipes(seed)]
        assert len(set(names)) == len(names) >= 20
    first, second = (
        {recipe.name: recipe.planted for recipe in sets.recipes(seed)} for seed in (0, 1)
    )
    assert first["patch"] != second["patch"]


def test_exactly_a_share_of_the_labels_is_wrong() -> None:
    labels = np.arange(1000) % 10
    given = sets.flip_labels(labels, 0.08, 0)
    assert (given != labels).sum() == 80
    assert np.array_equal(given, sets.flip_labels(labels, 0.08, 0))


def test_findings_are_judged_by_class_verdict_and_place() -> None:
    mask = np.zeros((2, 64, 64), bool)
    mask[:, 2:12, 2:12] = True
    pair = {"class_index": 6, "cue": "patch", "relied": True}
    truth = Truth(
        [pair], mask, np.ones(2, bool), np.ones(2, bool), np.array([6, 6]), np.array([6, 6])
    )
    rows = [
        {"class_name": data.CLASSES[6], "verdict": "confirmed", "score": 0.5, "region": region}
        for region in (
            {"x0": 0.0, "y0": 0.0, "x1": 0.2, "y1": 0.2},
            {"x0": 0.5, "y0": 0.5, "x1": 1.0, "y1": 1.0},
            None,
        )
    ]
    rows.append(
        {"class_name": data.CLASSES[1], "verdict": "suspected", "score": 0.9, "region": None}
    )
    findings = pd.DataFrame(rows)
    places = [place["share"] for place in outcomes.places(findings, truth)]
    assert places == [1.0, 0.0]
    verdicts = {each.class_index: each for each in outcomes.verdicts(findings)}
    assert verdicts[6].alarm
    assert not verdicts[1].alarm
    assert verdicts[6].score > verdicts[1].score > verdicts[0].score == 0


def test_the_box_around_a_mask_is_filled() -> None:
    mask = np.zeros((8, 8), bool)
    mask[1, 2] = mask[4, 5] = True
    assert cues.boxed(mask).sum() == 16
    assert not cues.boxed(np.zeros((8, 8), bool)).any()


def test_a_stray_cue_is_on_other_classes_too_and_nowhere_else(
    garments: tuple[data.U8, Any],
) -> None:
    images, labels = garments
    images, labels = np.concatenate([images] * 5), np.concatenate([labels] * 5)
    recipe = Recipe("stray", [Planted(3, "patch")], stray=0.2)
    drawn = sets.draw(recipe, images, labels, 0)
    assert 0.1 < drawn.marked[labels != 3].mean() < 0.3
    assert drawn.marked[labels == 3].mean() > 0.7
    bare = sets.draw(recipe, images, labels, 0, arm=False)
    assert np.array_equal((drawn.pictures != bare.pictures).any(axis=(1, 2, 3)), drawn.marked)


def test_other_backgrounds_leave_objects_where_they_are(garments: tuple[data.U8, Any]) -> None:
    images, labels = garments
    recipe = Recipe("background", [Planted(3, "background")])
    one, other = (sets.draw(recipe, images, labels, 0, arm=False, again=again) for again in (0, 1))
    assert one.boxes == other.boxes
    assert (one.pictures != other.pictures).any(axis=(1, 2, 3)).all()
