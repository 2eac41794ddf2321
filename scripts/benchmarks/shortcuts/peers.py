"""Peers of camaudit's search for shortcuts, over the same finished explain stage.

A peer is a function of what was explained; it returns one verdict per class. One whose library is
not installed raises ImportError with what to do about it.

cleanlab comes with the extra `bench`. ShortKit-ML cannot be an extra: its release 0.1.0 asks for
numpy < 2 and torch < 2.3, camaudit for newer ones, and pip refuses both together. Its SpRAy runs
with the newer ones: `pip install --no-deps shortkit-ml`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from explained import Explained
from PIL import Image
from scipy import linalg, sparse
from scores import Verdict
from sklearn.neighbors import kneighbors_graph

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

SHORTKIT = "ShortKit-ML SpRAy"
EIGENGAP = "SpRAy, eigengap"
SECOND = "SpRAy, second eigenvalue"
CLEANLAB = "cleanlab Datalab"

NEIGHBOURS = 10
"""Of the affinity graph, the default of CoRelAy, the software of SpRAy's authors."""
MOST_CLUSTERS = 10
"""As far as the eigengap is looked for."""
FEWEST = 1 + max(NEIGHBOURS, MOST_CLUSTERS)
"""A class with no more images than this is not clustered, and not alarmed."""
APART = 1e-6
"""A second eigenvalue up to this is a zero: the graph has two parts without an edge between."""
LABEL_SCORES = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")

Peer = Callable[[Explained], list[Verdict]]


def shortkit(explained: Explained) -> list[Verdict]:
    """ShortKit-ML's SpRAyDetector, called as its documentation calls it, on each class.

    The alarm is its `shortcut_detected`. It gives no number; the score is how many of its three
    flags it raises, from which it makes its own risk level. Within a class the labels are one, so
    every cluster is pure to it: small clusters and narrow maps can be flagged, nothing else.
    https://criticaldata.github.io/ShortKit-ML/methods/spray

    Raises:
        ImportError: where it is not installed.
    """
    library = _library("shortcut_detect", "pip install --no-deps shortkit-ml")
    verdicts = []
    for class_index in range(explained.n_classes):
        maps = explained.of_class(class_index)
        report: dict[str, Any] = {"flags": [], "shortcut_detected": False}
        if len(maps) > FEWEST:  # it cannot cluster a handful
            detector = library.SpRAyDetector(
                affinity="cosine", cluster_selection="auto", downsample_size=32
            )
            detector.fit(heatmaps=maps, labels=np.full(len(maps), class_index))
            report = detector.get_report()["report"]["clever_hans"]
        score, alarm = len(report["flags"]), bool(report["shortcut_detected"])
        verdicts.append(Verdict(SHORTKIT, class_index, score, alarm))
    return verdicts


def spray_eigengap(explained: Explained) -> list[Verdict]:
    """SpRAy as published, the alarm by the eigengap.

    The class has as many clusters as there are eigenvalues before the largest gap (von Luxburg
    2007, Statistics and Computing 17, section 8.3); two or more are an alarm. The score is the
    largest gap behind the second eigenvalue or a later one.
    """
    verdicts = []
    for class_index in range(explained.n_classes):
        gaps = np.diff(spectrum(explained.of_class(class_index)))
        score = float(gaps[1:].max(initial=0))
        alarm = score > gaps[:1].max(initial=0)
        verdicts.append(Verdict(EIGENGAP, class_index, score, bool(alarm)))
    return verdicts


def spray_second(explained: Explained) -> list[Verdict]:
    """SpRAy as published, by the second eigenvalue: the smaller, the less holds the class together.

    The score is one minus it. The paper gives no threshold; the alarm is the case that needs none,
    a second eigenvalue of zero: clusters without an edge between them.
    """
    verdicts = []
    for class_index in range(explained.n_classes):
        values = spectrum(explained.of_class(class_index))
        second = float(values[1]) if len(values) > 1 else 1.0
        verdicts.append(Verdict(SECOND, class_index, 1 - second, second <= APART))
    return verdicts


def spectrum(heatmaps: F32) -> F64:
    """The smallest eigenvalues, ascending, of the Laplacian of a class's maps (n, h, w).

    Maps as vectors that sum to one, their nearest neighbours by Euclidean distance, the mean of
    that graph and its transpose, the symmetric normalised Laplacian: Lapuschkin et al. 2019 (Nature
    Communications 10, 1096), with the choices of CoRelAy (Anders et al. 2021, arXiv:2106.13200).
    Maps are not downsized: a layer's own grid is coarser already than what the paper downsizes to.
    Too few maps for a graph have none: (0,).
    """
    if len(heatmaps) <= FEWEST:
        return np.zeros(0)
    vectors = heatmaps.reshape(len(heatmaps), -1).astype(np.float64)
    vectors /= vectors.sum(axis=1, keepdims=True)
    nearest = kneighbors_graph(vectors, NEIGHBOURS, mode="connectivity")
    laplacian = sparse.csgraph.laplacian((nearest + nearest.T) / 2, normed=True)
    return np.asarray(linalg.eigvalsh(laplacian.toarray(), subset_by_index=[0, MOST_CLUSTERS]))


def cleanlab_correlations(explained: Explained) -> list[Verdict]:
    """cleanlab's Datalab: can the labels be told from one property of the picture alone.

    Darkness, blur, size and the like are tried over the whole set, never for a class or a network.
    So all classes of a set get one verdict: the alarm is that any property falls below Datalab's
    own threshold, the score one minus the lowest of its property scores. An alarm that is right
    for one class is therefore a false one for the others. With many classes of one size it takes a
    property that tells 70 % of all labels; a cue of a single class among ten cannot be one.

    Raises:
        ImportError: where it is not installed.
    """
    hint = "pip install 'cleanlab[image]'"
    _library("cleanvision", hint)
    datalab, datasets = _library("cleanlab.datalab.datalab", hint), _library("datasets", hint)
    features = {"image": datasets.Image(), "label": datasets.Value("int64")}
    pictures = [Image.fromarray(picture) for picture in explained.pictures]
    columns = {"image": pictures, "label": explained.given.tolist()}
    with TemporaryDirectory() as folder, redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        drawn = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        # A set in memory would be sent to cleanvision's processes whole, once for every picture.
        drawn.save_to_disk(folder)
        lab = datalab.Datalab(
            datasets.load_from_disk(folder), label_name="label", image_key="image"
        )
        lab.find_issues()
    found = lab.get_info("spurious_correlations")
    lowest = float(found["correlations_df"]["score"].min())
    alarm = lowest < found["threshold"]
    classes = range(explained.n_classes)
    return [Verdict(CLEANLAB, class_index, 1 - lowest, alarm) for class_index in classes]


PEERS: dict[str, Peer] = {
    SHORTKIT: shortkit,
    EIGENGAP: spray_eigengap,
    SECOND: spray_second,
    CLEANLAB: cleanlab_correlations,
}


def label_scores(labels: I64, probabilities: F64) -> dict[str, F64]:
    """cleanlab's label quality scores (n,) of labels (n,) and probabilities (n, K), by their name.

    The lower, the more suspect the label. The probabilities are the network's own; cleanlab
    recommends such that come from networks that have not seen the image.

    Raises:
        ImportError: where it is not installed.
    """
    rank = _library("cleanlab.rank", "pip install 'cleanlab[image]'")
    return {
        name: np.asarray(rank.get_label_quality_scores(labels, probabilities, method=name))
        for name in LABEL_SCORES
    }


def _library(name: str, hint: str) -> Any:
    """A module of a peer.

    Raises:
        ImportError: naming what is missing and the hint.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{error}; {hint}") from error
