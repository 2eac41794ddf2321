"""Minority groups within a class, by spectral clustering of embeddings and of heatmaps."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csgraph, identity, linalg, spmatrix
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.neighbors import kneighbors_graph

from pipeline.analysis.shortcuts.regions import Floats

MIN_SHARE, MAX_SHARE = 0.03, 0.5
"""Bounds of a group's share of the class: a smaller group is noise, a larger one is the class."""
MIN_GROUP_SIZE = 6
"""Fewest images of a group."""
N_NEIGHBOURS = 10
"""Neighbours of each image in the nearest-neighbour graph."""
MAX_CLUSTERS = 6
"""Most clusters that the eigengap may choose."""
MIN_SPREAD = 1e-5
"""Standard deviation below which all images count as identical, so that there are no groups."""
MAX_COMPONENTS = 20
"""Principal components kept; in more dimensions the distances hardly differ from each other."""


def find_minority_groups(
    embeddings: Floats, heat: Floats, max_groups: int
) -> list[NDArray[np.int64]]:
    """Find groups of a class's images that are compact in the embedding or in the heatmap.

    The images are clustered twice, by embedding (what the evidence is) and by heatmap (where it
    lies), by spectral clustering of a sparse nearest-neighbour graph with the number of clusters
    from the eigengap (von Luxburg, "A tutorial on spectral clustering", Statistics and Computing
    2007, sections 4 and 8.3).

    Args:
        embeddings: (n, d), of unit length.
        heat: (n, h, w), shares of each heatmap's sum.
        max_groups: most groups to return.

    Returns:
        Positions of the images of each group, the most compact group first.
    """
    n = len(embeddings)
    groups: list[tuple[float, NDArray[np.int64]]] = []
    for features in (embeddings, heat.reshape(n, -1)):
        if n <= 2 * N_NEIGHBOURS or features.std(axis=0).max() < MIN_SPREAD:
            continue
        reduced = _principal_components(features)
        for rows in _spectral_clusters(reduced):
            if max(MIN_GROUP_SIZE, MIN_SHARE * n) <= len(rows) <= MAX_SHARE * n:
                groups.append((_relative_spread(reduced, rows), rows))
    groups.sort(key=lambda group: group[0])
    return [rows for _, rows in groups[:max_groups]]


def _spectral_clusters(features: Floats) -> list[NDArray[np.int64]]:
    """Positions of the images of every cluster of features (n, d)."""
    graph = kneighbors_graph(features, N_NEIGHBOURS, include_self=True)
    graph = (graph + graph.T) / 2
    n_clusters = _count_clusters(graph)
    spectral = SpectralClustering(
        n_clusters,
        affinity="precomputed",
        assign_labels="cluster_qr",
        eigen_solver="arpack",
        random_state=0,
    )
    with warnings.catch_warnings():  # a graph of several components only has clearer clusters
        warnings.filterwarnings("ignore", "Graph is not fully connected")
        labels = spectral.fit_predict(graph)
    return [np.flatnonzero(labels == label) for label in range(n_clusters)]


def _count_clusters(graph: spmatrix) -> int:
    """Number of clusters, at least 2, at the largest gap of the Laplacian's eigenvalues."""
    laplacian = csgraph.laplacian(graph, normed=True)
    start = np.random.default_rng(0).random(graph.shape[0])
    # The smallest eigenvalues of L are the largest of 2 - L; ARPACK finds these without factoring.
    mirrored = linalg.aslinearoperator(2 * identity(graph.shape[0], format="csr") - laplacian)
    values = linalg.eigsh(mirrored, MAX_CLUSTERS + 1, v0=start, return_eigenvectors=False)
    smallest = np.sort(2 - values)
    return 2 + int(np.diff(smallest)[1:].argmax())


def _principal_components(features: Floats) -> Floats:
    n_components = min(MAX_COMPONENTS, *features.shape)
    return np.asarray(PCA(n_components, svd_solver="full").fit_transform(features))


def _relative_spread(features: Floats, rows: NDArray[np.int64]) -> float:
    """Standard deviation of a group divided by that of all images; small for a compact group."""
    return float(features[rows].std(axis=0).sum() / features.std(axis=0).sum())
