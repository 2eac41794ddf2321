"""A linear probe: a classifier on the stored features, independent of the model's own head.

The probe is a linear discriminant fitted to the given labels, as RoG of Lee et al. ("Robust
Inference via Generative Classifiers for Handling Noisy Labels", ICML 2019) is. Labels that are
wrong at random move the class means towards the common mean and do not change their directions.
The fit needs only counts, sums and one matrix, so a single pass over any number of rows is enough,
and a fold is left out by subtraction: no image is judged by a probe that was fitted to its label.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Ints = NDArray[np.int64]

FOLDS = 5


def folds(n_images: int, seed: int) -> NDArray[np.int8]:
    """Draw the fold (n_images,) of every image at random, independently of the image order."""
    return np.random.default_rng(seed).integers(0, FOLDS, n_images, dtype=np.int8)


class Moments:
    """Counts (F, K), sums (F, K, d) and products (F, d, d) of features by fold and given label."""

    def __init__(self, n_classes: int, dimensions: int) -> None:
        self.counts = np.zeros((FOLDS, n_classes))
        self.sums = np.zeros((FOLDS, n_classes, dimensions))
        self.products = np.zeros((FOLDS, dimensions, dimensions))

    def add(self, features: Singles, labels: Ints, weights: Floats, fold: NDArray[np.int8]) -> None:
        """Add features (n, d) with labels (n,), weights (n,) in [0, 1] and folds (n,)."""
        for number in range(FOLDS):
            rows = np.flatnonzero(fold == number)
            chosen, weight = signed_root(features[rows]).astype(np.float64), weights[rows]
            shape = (self.counts.shape[1], len(rows))
            members = sparse.csr_array((weight, (labels[rows], np.arange(len(rows)))), shape)
            self.counts[number] += members.sum(axis=1)
            self.sums[number] += members @ chosen
            self.products[number] += chosen.T @ (weight[:, None] * chosen)

    def probes(self) -> list[LinearProbe]:
        """For each fold, a probe that is fitted to all other folds."""
        counts, sums, products = (
            total.sum(axis=0) - total for total in (self.counts, self.sums, self.products)
        )
        return [
            LinearProbe.from_moments(*others) for others in zip(counts, sums, products, strict=True)
        ]


class LinearProbe:
    """A linear discriminant with weights (d, K) and biases (K,)."""

    def __init__(self, weights: Floats, biases: Floats) -> None:
        self.weights, self.biases = weights.astype(np.float32), biases.astype(np.float32)

    @classmethod
    def from_moments(cls, counts: Floats, sums: Floats, products: Floats) -> LinearProbe:
        """Fit a probe to moments: counts (K,), sums (K, d) and products (d, d) of the features.

        One image at the common mean is added to every class, so that a class without images has a
        defined mean.
        """
        n_images = counts.sum()
        if n_images == 0:
            return cls(np.zeros(sums.shape[::-1]), np.zeros(len(counts)))
        common = sums.sum(axis=0) / n_images
        means = (sums + common) / (counts[:, None] + 1)
        exact = sums / np.maximum(counts, 1)[:, None]
        within = (products - exact.T @ sums) / n_images
        deviation = np.sqrt(np.maximum(np.diag(within), 0))
        scale = np.where(deviation > 1e-6, deviation, np.inf)  # a constant feature is not used
        means = (means - common) / scale
        weights = linalg.solve(
            shrink(within / np.outer(scale, scale), n_images), means.T, assume_a="pos"
        )
        frequency = (counts + 1) / (n_images + len(counts))
        biases = np.log(frequency) - (means.T * weights).sum(axis=0) / 2
        weights /= scale[:, None]
        return cls(weights, biases - common @ weights)

    def log_probs(self, features: Singles) -> Singles:
        """Log-probabilities (n, K) of features (n, d), up to a constant for each image."""
        scores: Singles = signed_root(features) @ self.weights + self.biases
        return scores


def signed_root(features: Singles) -> Singles:
    """Signed square roots, whose distribution is closer to normal than that of activations.

    Perronnin, Sanchez and Mensink, "Improving the Fisher Kernel", ECCV 2010, section 3.2.
    """
    roots: Singles = np.sign(features) * np.sqrt(np.abs(features))
    return roots


def shrink(covariance: Floats, n_images: float) -> Floats:
    """Shrink a covariance (d, d) towards a multiple of the identity; more with fewer images.

    Oracle approximating shrinkage (Chen et al., "Shrinkage Algorithms for MMSE Covariance
    Estimation", IEEE Trans. Signal Processing 2010, eq. 23); sklearn.covariance.oas is the same
    computed from data.
    """
    dimensions = len(covariance)
    level, power = np.trace(covariance) / dimensions, np.mean(covariance**2)
    distance = (n_images + 1) * (power - level**2 / dimensions)
    share = min(1.0, (power + level**2) / distance) if distance > 0 else 1.0
    # the diagonal stays positive where nothing varies
    result: Floats = (1 - share) * covariance + (share * level or 1e-12) * np.eye(dimensions)
    return result
