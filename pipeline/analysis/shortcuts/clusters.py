"""Groups within a class that look at something of their own: numpy and scikit-learn, no files."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csgraph, identity, linalg, spmatrix
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.neighbors import kneighbors_graph

from pipeline.analysis.shortcuts.regions import Floats

LEAST_SHARE, MOST_SHARE = 0.03, 0.5
"""A group that is smaller is noise; a larger one is the class itself, which is tried anyway."""
LEAST = 6
NEIGHBOURS = 10
MOST_CLUSTERS = 6
ALIKE = 1e-5
"""Standard deviation below which all images are one."""
COMPONENTS = 20
"""Distances in more dimensions hardly differ from each other."""


def minorities(embeddings: Floats, heat: Floats, most: int) -> list[NDArray[np.int64]]:
    """Positions of the images of each group, the most compact first.

    Spectral clustering of a sparse nearest-neighbour graph, the number of clusters by the eigengap
    (von Luxburg, "A tutorial on spectral clustering", 2007, sections 4 and 8.3), of what was
    looked at and of where.

    Args:
        embeddings: (n, d) of unit length.
        heat: (n, h, w) shares of heat.
        most: groups to return.
    """
    n = len(embeddings)
    groups: list[tuple[float, NDArray[np.int64]]] = []
    for features in (embeddings, heat.reshape(n, -1)):
        if n <= 2 * NEIGHBOURS or features.std(axis=0).max() < ALIKE:
            continue
        reduced = _reduced(features)
        for rows in _clusters(reduced):
            if max(LEAST, LEAST_SHARE * n) <= len(rows) <= MOST_SHARE * n:
                groups.append((_spread(reduced, rows), rows))
    groups.sort(key=lambda group: group[0])
    return [rows for _, rows in groups[:most]]


def _clusters(features: Floats) -> list[NDArray[np.int64]]:
    graph = kneighbors_graph(features, NEIGHBOURS, include_self=True)
    graph = (graph + graph.T) / 2
    k = _eigengap(graph)
    spectral = SpectralClustering(
        k, affinity="precomputed", assign_labels="cluster_qr", eigen_solver="arpack", random_state=0
    )
    with warnings.catch_warnings():  # a graph in several pieces is one with clear groups
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        labels = spectral.fit_predict(graph)
    return [np.flatnonzero(labels == label) for label in range(k)]


def _eigengap(graph: spmatrix) -> int:
    """The number of clusters, from 2, after which the eigenvalues of the Laplacian rise most."""
    normed = csgraph.laplacian(graph, normed=True)
    start = np.random.default_rng(0).random(graph.shape[0])
    # The smallest of L are the largest of 2 - L, which ARPACK finds without factoring.
    mirrored = linalg.aslinearoperator(2 * identity(graph.shape[0], format="csr") - normed)
    values = linalg.eigsh(mirrored, MOST_CLUSTERS + 1, v0=start, return_eigenvectors=False)
    smallest = np.sort(2 - values)
    return 2 + int(np.diff(smallest)[1:].argmax())


def _reduced(features: Floats) -> Floats:
    width = min(COMPONENTS, *features.shape)
    return np.asarray(PCA(width, svd_solver="full").fit_transform(features))


def _spread(features: Floats, rows: NDArray[np.int64]) -> float:
    """Spread of a group over that of all; small where its images are alike."""
    return float(features[rows].std(axis=0).sum() / features.std(axis=0).sum())
