"""The forms of shortcuts: the split is whole, a drawing changes what its mask covers alone."""

from __future__ import annotations

from dataclasses import replace

import forms
import numpy as np
import pytest
import scenes
import torch
from drawings import DRAWINGS
from forms import CONTROL, DEVELOPED, FORMS, HELD_OUT, SEEDS
from measure_forms import summarise
from networks import NETWORKS, build
from scenes import GROUNDS, OBJECTS, Objects

from pipeline.demo import data


@pytest.fixture(scope="module")
def garments() -> Objects:
    with np.load(data.SUBSET) as subset:
        return Objects(subset["images"][:40], subset["labels"][:40].astype(np.int64))


def test_every_form_belongs_to_one_part_and_no_seed_to_two() -> None:
    names = [name for part in FORMS.values() for name in part]
    assert len(names) == len(set(names))
    assert len(FORMS[DEVELOPED]) >= 24
    assert len(FORMS[HELD_OUT]) >= 24
    seeds = [seed for part in SEEDS.values() for seed in part]
    assert len(seeds) == len(set(seeds))
    for part in (DEVELOPED, HELD_OUT, CONTROL):
        for form in forms.forms(part, SEEDS[part][0]):
            assert forms.part_of(form.name) == part
            assert form.network in NETWORKS
            known = {*DRAWINGS, *GROUNDS, *OBJECTS}
            assert {cue.drawing for cue in form.cues} <= known
            assert all(cue.class_index < max(10, len(form.classes)) for cue in form.cues)


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_changes_an_image_where_its_mask_says(name: str) -> None:
    rng = np.random.default_rng(0)
    side = 224 if name.startswith("photo") else 64
    image = rng.random((side, side, 3))
    box = (0.3 * side, 0.3 * side, 0.7 * side, 0.7 * side)
    drawn, mask = DRAWINGS[name](image.copy(), box, rng)
    changed = np.asarray((np.abs(drawn - image) > 1e-3).any(axis=2))
    assert changed.any()
    if mask is not None:
        assert not changed[~mask].any()


@pytest.mark.parametrize("name", ["star", "stripes_ground", "object_colour", "tint"])
def test_two_draws_of_a_seed_differ_in_the_cue_alone(name: str, garments: Objects) -> None:
    form = next(form for form in forms.forms(DEVELOPED, 100) if form.name == name)
    form = replace(form, cues=(replace(form.cues[0], class_index=int(garments.labels[0])),))
    natural = scenes.draw(form, garments, 0)
    bare = scenes.draw(form, garments, 0, arm=False)
    every = scenes.draw(form, garments, 0, arm=form.cues[0])
    assert (natural.cue >= 0).any()
    assert (natural.cue[garments.labels != garments.labels[0]] < 0).all()
    for number, cue in enumerate(natural.cue):
        same = every if cue >= 0 else bare
        assert np.array_equal(natural.images[number], same.images[number])
    differs = np.abs(every.images.astype(int) - bare.images).max(axis=3) > 12
    if name not in ("object_colour", "stripes_ground"):  # soft edges reach beyond their masks
        assert not differs[~every.masks].any()


@pytest.mark.parametrize("name", ["residual", "vgg", "vit"])
def test_a_network_gives_logits_of_the_classes_of_its_task(name: str) -> None:
    logits = build(name, 3).eval()(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, 3)


def test_the_summary_counts_real_pairs_and_other_claims() -> None:
    pair = {"drawing": "patch", "class_index": 1, "real": True}
    claims = [
        {"class_index": 1, "verdict": "confirmed", "real": True, "kind_right": True,
         "place_right": True, "precision_at_10": 0.9, "reliance_ap": 0.8, "class_share": 0.5},
        {"class_index": 2, "verdict": "confirmed", "real": False},
        {"class_index": 3, "verdict": "suspected", "real": False},
    ]  # fmt: skip
    missed = {"drawing": "tint", "class_index": 0, "real": True}
    results = [
        {"n_classes": 10, "pairs": [pair, missed], "claims": claims, "asked": 100},
        {"n_classes": 10, "pairs": [], "claims": [], "asked": 300},
    ]
    lines = summarise(results)
    assert lines[0] == "sets 2, real pairs 2, other pairs 18"
    assert lines[1].startswith("found 1 of 2 (0.50), told rightly 1 (1.00)")
    assert "'confirmed': 1" in lines[3]
    assert lines[4].endswith("200.00")
