"""Styles, on statistics of images whose style is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.analysis import local_features
from pipeline.analysis.shortcuts import styles
from pipeline.analysis.shortcuts.pixel_groups import MeasuredImages

N, N_WITH = 100, 85
ALL = np.ones(N, bool)
HAS_CUE = np.arange(N) < N_WITH


def images(seed: int, margin: float = 0.0, shift: float = 0.0) -> MeasuredImages:
    """N images of noise; the third statistic of those with the cue is shifted."""
    rng = np.random.default_rng(seed)
    features = rng.normal(100, 10, (N, 6)).astype(np.float32)
    features[HAS_CUE, 2] += shift
    return MeasuredImages(features, rng.normal(margin, 1, N).astype(np.float32))


@pytest.mark.parametrize("margin", [2.0, 0.0])
def test_a_style_divides_a_class_whose_images_without_it_look_like_the_class(margin: float) -> None:
    found = styles.find_style(images(0, margin, shift=60), images(1), ALL)
    assert (found is not None) == (margin > 0)
    if found is not None:
        np.testing.assert_array_equal(found.with_cue, HAS_CUE)
        assert (found.without_cue <= ~HAS_CUE).all()
        assert found.without_cue.sum() >= 6
        assert found.elsewhere.mean() <= 0.02
        assert found.separation > 4


def test_without_a_style_a_class_is_not_divided() -> None:
    assert styles.find_style(images(0, 2.0, shift=6), images(1), ALL) is None
    assert styles.find_style(images(0, 2.0, shift=60), images(1).select(~ALL), ALL) is None
    few = np.arange(N) < 4
    assert styles.find_style(images(0, 2.0, shift=60), images(1), few) is None


@pytest.mark.parametrize("shape", [(3, 5), (64, 48)])
def test_statistics_of_images_are_finite_and_show_a_tint_and_noise(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    plain = torch.full((2, 3, *shape), 100, dtype=torch.uint8)
    tinted, noisy = plain.clone(), plain.clone()
    tinted[:, 0] = 180
    noisy += torch.from_numpy(rng.integers(0, 60, noisy.shape).astype(np.uint8))
    style, tint, noise = (
        local_features.pixel_features(each).style[0] for each in (plain, tinted, noisy)
    )
    assert np.isfinite([style, tint, noise]).all()
    np.testing.assert_allclose(tint[:3] - style[:3], [80, 0, 0], atol=1e-4)
    assert tint[6] - style[6] == pytest.approx(80, abs=1e-4)  # saturation
    assert noise[7] > style[7] + 1  # fine contrast, in logarithms
    cells = local_features.pixel_features(tinted).cells
    assert cells.shape == (2, 4, local_features.GRID, local_features.GRID)
    np.testing.assert_allclose(cells[:, 0], 180, atol=1e-3)
