"""A second opinion on labels, from the features: which class an image looks like.

The probe is a linear discriminant on the given labels (as RoG of Lee et al., "Robust Inference via
Generative Classifiers for Handling Noisy Labels", ICML 2019, reads the features of a network).
Wrong labels that fall anywhere move class means towards the common mean and keep their directions.
It is known from counts, sums and one matrix, so a single pass over any number of rows fits it, and
leaving out a fold is a subtraction: no image is judged by a probe that saw its label.
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
    """The fold (n_images,) of every image, drawn, so that no order of classes shows in it."""
    return np.random.default_rng(seed).integers(0, FOLDS, n_images, dtype=np.int8)


class Moments:
    """Counts, sums and products of features, by fold and given label."""

    def __init__(self, n_classes: int, dimensions: int) -> None:
        self.counts = np.zeros((FOLDS, n_classes))
        self.sums = np.zeros((FOLDS, n_classes, dimensions))
        self.products = np.zeros((FOLDS, dimensions, dimensions))

    def add(self, features: Singles, labels: Ints, weights: Floats, fold: NDArray[np.int8]) -> None:
        """Take features (n, d) with labels, weights in [0, 1] and folds (n,)."""
        for number in range(FOLDS):
            rows = np.flatnonzero(fold == number)
            chosen, weight = evened(features[rows]).astype(np.float64), weights[rows]
            shape = (self.counts.shape[1], len(rows))
            members = sparse.csr_array((weight, (labels[rows], np.arange(len(rows)))), shape)
            self.counts[number] += members.sum(axis=1)
            self.sums[number] += members @ chosen
            self.products[number] += chosen.T @ (weight[:, None] * chosen)

    def probes(self) -> list[LinearProbe]:
        """For each fold, the probe of all the others."""
        counts, sums, products = (
            total.sum(axis=0) - total for total in (self.counts, self.sums, self.products)
        )
        return [LinearProbe.fitted(*others) for others in zip(counts, sums, products, strict=True)]


class LinearProbe:
    """A linear discriminant: slopes (d, K), offsets (K,)."""

    def __init__(self, slopes: Floats, offsets: Floats) -> None:
        self.slopes, self.offsets = slopes.astype(np.float32), offsets.astype(np.float32)

    @classmethod
    def fitted(cls, counts: Floats, sums: Floats, products: Floats) -> LinearProbe:
        """From the moments of its images: counts (K,), sums (K, d), products (d, d).

        Every class has one image more, at the common mean: a class of no image is like any image,
        and rare.
        """
        n_images = counts.sum()
        if n_images == 0:
            return cls(np.zeros(sums.shape[::-1]), np.zeros(len(counts)))
        common = sums.sum(axis=0) / n_images
        means = (sums + common) / (counts[:, None] + 1)
        exact = sums / np.maximum(counts, 1)[:, None]
        within = (products - exact.T @ sums) / n_images
        spread = np.sqrt(np.maximum(np.diag(within), 0))
        scale = np.where(spread > 1e-6, spread, np.inf)  # what does not vary tells nothing
        means = (means - common) / scale
        slopes = linalg.solve(
            shrunk(within / np.outer(scale, scale), n_images), means.T, assume_a="pos"
        )
        frequency = (counts + 1) / (n_images + len(counts))
        offsets = np.log(frequency) - (means.T * slopes).sum(axis=0) / 2
        slopes /= scale[:, None]
        return cls(slopes, offsets - common @ slopes)

    def log_probs(self, features: Singles) -> Singles:
        """(n, K) of features (n, d), up to a number of each image's own."""
        scores: Singles = evened(features) @ self.slopes + self.offsets
        return scores


def evened(features: Singles) -> Singles:
    """Signed square roots: activations are many small ones and a few large, far from normal.

    Perronnin, Sanchez and Mensink, "Improving the Fisher Kernel", ECCV 2010, section 3.2.
    """
    roots: Singles = np.sign(features) * np.sqrt(np.abs(features))
    return roots


def shrunk(covariance: Floats, n_images: float) -> Floats:
    """A covariance (d, d) drawn to a multiple of the identity so far as n_images are few for it.

    Oracle approximating shrinkage (Chen et al., "Shrinkage Algorithms for MMSE Covariance
    Estimation", IEEE Trans. Signal Processing 2010, eq. 23), as sklearn.covariance.oas from data.
    """
    dimensions = len(covariance)
    level, power = np.trace(covariance) / dimensions, np.mean(covariance**2)
    distance = (n_images + 1) * (power - level**2 / dimensions)
    share = min(1.0, (power + level**2) / distance) if distance > 0 else 1.0
    # what does not vary at all still needs a positive diagonal
    result: Floats = (1 - share) * covariance + (share * level or 1e-12) * np.eye(dimensions)
    return result
