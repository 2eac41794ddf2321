"""Concepts of a class: non-negative directions of the target layer that its activations consist of.

A concept is a direction in the space of the layer's channels. The activations of every cell are
approximated by a non-negative combination of a few concepts, found by non-negative matrix
factorisation, as in CRAFT (Fel et al., "CRAFT: Concept Recursive Activation FacTorization for
Explainability", CVPR 2023, section 3.1). What a concept contributes to a logit is its strength
times the gradient along it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import NMF
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

N_CONCEPTS = 12
"""Concepts of a class."""
MAX_FIT_CELLS = 12_000
"""Most cells that the concepts are fitted to, to bound time and memory."""
FIT_ITERATIONS, TRANSFORM_ITERATIONS = 40, 15
"""Most iterations of the factorisation, and of the fit of strengths to given concepts."""
TOLERANCE = 1e-3
"""Relative change of the approximation's error at which the iterations end."""
TINY = 1e-9

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ConceptMaps:
    """The concepts in every cell of n images.

    Attributes:
        strength: (n, h, w, k), not negative, in units of the layer's activations.
        contribution: (n, h, w, k), what each concept in each cell contributes to the logit of the
            class minus the mean logit of the other classes, to first order.
    """

    strength: Floats
    contribution: Floats

    @property
    def total(self) -> Floats:
        """Contribution of all concepts of each image (n,)."""
        return np.asarray(self.contribution.sum(axis=(1, 2, 3)))


@dataclass(frozen=True)
class Concepts:
    """The concepts of a class.

    Attributes:
        model: the fitted factorisation; its components (k, C), or (k, 2 C) for signed activations,
            are of unit length.
        signed: whether the negative parts of the activations count as further channels.
    """

    model: NMF
    signed: bool

    @classmethod
    def fit(cls, activations: Tensor, seed: int) -> Concepts:
        """Fit the concepts to activations (n, C, h, w) of images of the class.

        There are N_CONCEPTS, or fewer where the layer has fewer channels.
        """
        signed = bool((activations < 0).any())
        cells = _to_cells(activations, signed=signed)
        chosen = np.random.default_rng(seed).permutation(len(cells))[:MAX_FIT_CELLS]
        model = _factorise(cells[np.sort(chosen)], seed)
        length = np.linalg.norm(model.components_, axis=1, keepdims=True)
        model.components_ = (model.components_ / np.maximum(length, TINY)).astype(np.float32)
        model.set_params(max_iter=TRANSFORM_ITERATIONS)
        return cls(model, signed)

    def strength(self, activations: Tensor) -> Floats:
        """Compute the strength (n, h, w, k) of every concept in activations (n, C, h, w)."""
        n, _, height, width = activations.shape
        if not n:
            return np.zeros((0, height, width, len(self.model.components_)), np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            strength = self.model.transform(_to_cells(activations, signed=self.signed))
        return np.asarray(strength.reshape(n, height, width, -1), np.float32)

    def maps(self, activations: Tensor, gradients: Tensor) -> ConceptMaps:
        """Compute strengths and contributions.

        Args:
            activations: (n, C, h, w) of the target layer.
            gradients: (n, C, h, w) of the logit of the class minus the mean of the other logits.
        """
        strength = self.strength(activations)
        basis = self.model.components_
        if self.signed:
            positive, negative = np.split(basis, 2, axis=1)
            basis = positive - negative
        cells = np.asarray(gradients.float().permute(0, 2, 3, 1).cpu())
        return ConceptMaps(strength, strength * (cells @ basis.T))


def _to_cells(activations: Tensor, *, signed: bool) -> Floats:
    """Convert activations (n, C, h, w) to non-negative rows (n * h * w, C or 2 C)."""
    cells = activations.float().permute(0, 2, 3, 1).flatten(0, 2)
    parts = [cells.clamp_min(0), (-cells).clamp_min(0)] if signed else [cells]
    return np.asarray(torch.cat(parts, dim=1).cpu())


def _factorise(cells: Floats, seed: int) -> NMF:
    """Fit the factorisation to cells (n, C).

    It starts from singular vectors; these do not exist where the rank of the cells is below the
    number of concepts, and random numbers take their place.
    """
    for start in ("nndsvda", "random"):
        model = NMF(
            min(N_CONCEPTS, *cells.shape),
            init=start,
            max_iter=FIT_ITERATIONS,
            tol=TOLERANCE,
            random_state=seed,
        )
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(cells)
        if np.isfinite(model.components_).all():
            break
    return model
