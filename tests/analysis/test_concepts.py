"""Concepts and groups, on activations whose concepts and groups are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.analysis.shortcuts import divisions
from pipeline.analysis.shortcuts.concepts import Concepts

GRID, CHANNELS = 4, 16
NO_OTHERS = np.zeros((0, 24), np.float32)


def planted(
    n: int = 120, n_with: int = 80, *, seed: int = 0, strength: float = 6.0
) -> tuple[Tensor, np.ndarray]:
    """Activations (n, CHANNELS, GRID, GRID) of an object, and of a cue in the first n_with images.

    The object has the channels 0 to 3 in the centre, the cue the channels 8 to 9 in a corner.
    """
    rng = np.random.default_rng(seed)
    activations = np.abs(0.05 * rng.standard_normal((n, CHANNELS, GRID, GRID)))
    activations[:, :4, 1:3, 1:3] += rng.uniform(1, 2, (n, 4, 2, 2))
    activations[:n_with, 8:10, 0, 0] += strength * rng.uniform(0.8, 1.2, (n_with, 2))
    return torch.from_numpy(activations.astype(np.float32)), np.arange(n) < n_with


def test_strengths_of_the_concepts_rebuild_the_activations() -> None:
    activations, _ = planted()
    concepts = Concepts.fit(activations, seed=0)
    rebuilt = concepts.strength(activations) @ concepts.model.components_
    wanted = activations.permute(0, 2, 3, 1).numpy()
    assert np.linalg.norm(rebuilt - wanted) < 0.15 * np.linalg.norm(wanted)
    np.testing.assert_allclose(np.linalg.norm(concepts.model.components_, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("signed", [False, True])
def test_contributions_of_a_linear_head_sum_to_the_logit_difference(signed: bool) -> None:
    """For a linear head the sum over concepts and cells equals gradient times activation."""
    activations, _ = planted()
    if signed:
        activations[:, 4:8] = -activations[:, :4]
    gradients = torch.randn(activations.shape, generator=torch.Generator().manual_seed(0))
    maps = Concepts.fit(activations, seed=0).maps(activations, gradients)
    wanted = (activations * gradients).sum(dim=(1, 2, 3)).numpy()
    assert np.corrcoef(maps.total, wanted)[0, 1] > 0.97


def test_a_layer_with_fewer_directions_than_concepts_has_finite_concepts() -> None:
    activations = torch.zeros(20, CHANNELS, GRID, GRID)
    activations[:10, 0, 0, 0] = 1
    activations[10:, 1, 0, 0] = 2
    strength = Concepts.fit(activations, seed=0).strength(activations)
    assert np.isfinite(strength).all()
    assert strength[:, 0, 0].max() > 0.5


@pytest.mark.parametrize("n_with", [20, 60, 110])
def test_images_with_a_cue_are_divided_from_the_others(n_with: int) -> None:
    activations, truth = planted(n_with=n_with)
    gradients = torch.full_like(activations, 0.1)
    maps = Concepts.fit(activations, seed=0).maps(activations, gradients)
    best = divisions.find_divisions(maps, np.ones(len(truth), bool), NO_OTHERS)[0]
    np.testing.assert_array_equal(best.with_cue, truth)
    np.testing.assert_array_equal(best.without_cue, ~truth)
    assert best.share == pytest.approx(n_with / 120)
    # The cue contributes 0.1 for each unit of two channels of strength 6.
    assert best.contribution == pytest.approx(1.2, rel=0.2)


def test_the_concepts_of_the_cue_have_the_weight_and_those_of_the_object_none() -> None:
    activations, truth = planted()
    maps = Concepts.fit(activations, seed=0).maps(activations, torch.full_like(activations, 0.1))
    best = divisions.find_divisions(maps, np.ones(len(truth), bool), NO_OTHERS)[0]
    cue = (maps.strength @ best.weights)[truth].mean(axis=0)
    assert np.unravel_index(cue.argmax(), cue.shape) == (0, 0)
    assert cue[1:3, 1:3].max() < 0.05 * cue[0, 0]


def test_what_lowers_the_logit_is_no_cue() -> None:
    activations, truth = planted(n_with=40)
    gradients = torch.full_like(activations, 0.1)
    gradients[:, 8:10] = -0.5
    maps = Concepts.fit(activations, seed=0).maps(activations, gradients)
    found = divisions.find_divisions(maps, np.ones(len(truth), bool), NO_OTHERS)
    assert not any(np.array_equal(each.with_cue, truth) for each in found)


def test_a_cue_that_contributes_little_is_no_division() -> None:
    activations, truth = planted()
    for weight, expected in ((0.1, True), (0.002, False)):
        gradients = torch.full_like(activations, 0.1)
        gradients[:, 8:10] = weight
        maps = Concepts.fit(activations, seed=0).maps(activations, gradients)
        found = divisions.find_divisions(maps, np.ones(len(truth), bool), NO_OTHERS)
        assert any(np.array_equal(each.with_cue, truth) for each in found) == expected


def test_a_class_of_few_images_may_have_smaller_groups() -> None:
    assert [divisions.smallest_group(n) for n in (10, 30, 40, 60, 200)] == [3, 3, 4, 6, 6]
    activations, truth = planted(n=30, n_with=27)
    maps = Concepts.fit(activations, seed=0).maps(activations, torch.full_like(activations, 0.1))
    best = divisions.find_divisions(maps, np.ones(30, bool), NO_OTHERS)[0]
    np.testing.assert_array_equal(best.with_cue, truth)


def test_images_of_other_classes_are_scored_but_not_divided() -> None:
    activations, truth = planted()
    of_class = np.arange(len(truth)) % 4 > 0
    maps = Concepts.fit(activations, seed=0).maps(activations, torch.full_like(activations, 0.1))
    best = divisions.find_divisions(maps, of_class, NO_OTHERS)[0]
    assert not (best.with_cue | best.without_cue)[~of_class].any()
    np.testing.assert_array_equal(best.score > best.threshold, truth)


def test_identical_images_have_no_divisions() -> None:
    activations = torch.ones(40, CHANNELS, GRID, GRID)
    maps = Concepts.fit(activations, seed=0).maps(activations, torch.ones_like(activations))
    assert divisions.find_divisions(maps, np.ones(40, bool), NO_OTHERS) == []


def test_the_same_seed_gives_the_same_divisions() -> None:
    activations, truth = planted()
    gradients = torch.full_like(activations, 0.1)
    both = [
        divisions.find_divisions(
            Concepts.fit(activations, seed=0).maps(activations, gradients),
            np.ones(len(truth), bool),
            NO_OTHERS,
        )
        for _ in range(2)
    ]
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one.score, other.score)
