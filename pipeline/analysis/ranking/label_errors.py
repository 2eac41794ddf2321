"""How likely a given label is wrong, from the model and a probe of its features.

Both are pooled: p(y) ~ model(y)^a * probe(y)^b, with a and b such that the given labels of the run,
of which a share e was drawn blindly from all classes, are most likely:

    p(given = y) = (1 - e) p(y) + e / K

The share lets a wrong label be surprising without making the model and the probe look worse than
they are. a is small where a shortcut bends the model. It is 1 at most, and the probe always heard:
a model that foretells the labels even better than it claims to was trained on them, and knows the
wrong ones by heart.

The second term is the label that was drawn blindly, so

    p(wrong | given = y) = (e / K) (1 - p(y)) / p(given = y)

falls with p(y) alone: with labels wrong at random, self-confidence is the order to look at images
in, and a better p(y) the one way to a better order (Northcutt, Jiang and Chuang, "Confident
Learning", JAIR 2021, compare the orders; Guo et al., "On Calibration of Modern Neural Networks",
ICML 2017, fit powers of probabilities).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy import optimize, special

from pipeline.analysis.ranking.linear_probe import LinearProbe
from pipeline.storage import arrays
from pipeline.storage.arrays import NO_CLASS

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Opinion = NDArray[np.floating]
Ints = NDArray[np.int64]

COLUMNS = ["index", "label_index", "loss", "top_index", "top_prob", "features"]
"""What labels are judged from."""
LEAST_HEARD = 0.1
"""Least power of the probe over that of the model, and what it is before any label is seen: its
many features do not vary apart as it takes them to, so that it is surer than it should be."""
SMALLEST = 1e-12
"""Probability below which the model's are not told apart."""
USUAL_NOISE = (1, 19)
"""Labels seen wrong and right before any is seen: a share of 5 %, known as if from 20 images."""


@dataclass(frozen=True)
class Pool:
    """The powers a and b of model and probe, and the share e of labels drawn blindly."""

    model: float = 1.0
    probe: float = LEAST_HEARD
    noise: float = USUAL_NOISE[0] / sum(USUAL_NOISE)

    def log_probs(self, model: Opinion, probe: Opinion) -> Opinion:
        """Pooled log-probabilities (n, K)."""
        pooled: Opinion = special.log_softmax(self.model * model + self.probe * probe, axis=1)
        return pooled

    def of_labels(self, model: Opinion, probe: Opinion, labels: Ints) -> Floats:
        """Pooled log-probabilities (n,) of labels (n,)."""
        rows = np.arange(len(labels))
        return self.log_probs(model, probe)[rows, labels].astype(np.float64)

    def wrong(self, given: Singles | Floats, n_classes: int) -> Floats:
        """Probability (n,) that labels of pooled log-probability `given` (n,) are wrong."""
        p, blind = np.exp(given.astype(np.float64)), self.noise / n_classes
        wrong: Floats = blind * (1 - p) / ((1 - self.noise) * p + blind)
        return wrong


def trust(label_loss: Floats, n_classes: int) -> Floats:
    """How likely labels of a loss (n,) under the model are right, before anything is fitted."""
    return 1 - Pool().wrong(-label_loss, n_classes)


def model_log_probs(
    top_index: Ints, top_prob: Singles, label: Ints, label_loss: Singles, n_classes: int
) -> Singles:
    """The model's log-probabilities (n, K), of which a row keeps the largest and the label's.

    Args:
        top_index: (n, t) classes, -1 where there are fewer than t.
        top_prob: (n, t) their probabilities.
        label: (n,) given labels.
        label_loss: (n,) minus the log-probability of the label.
        n_classes: K; those of which nothing is known share what is left.
    """
    is_known = top_index >= 0
    outside = ~(top_index == label[:, None]).any(axis=1)
    label_prob = np.exp(-label_loss)
    known = np.where(is_known, top_prob, 0).sum(axis=1) + outside * label_prob
    others = np.maximum(n_classes - is_known.sum(axis=1) - outside, 1)
    rest = np.log(np.maximum(1 - known, SMALLEST) / others).astype(np.float32)
    logs = np.repeat(rest[:, None], n_classes, axis=1)
    rows, places = np.nonzero(is_known)
    logs[rows, top_index[rows, places]] = np.log(np.maximum(top_prob[rows, places], SMALLEST))
    logs[np.arange(len(label)), label] = np.maximum(-label_loss, np.log(SMALLEST))
    return logs


def fit(model: Singles, probe: Singles, labels: Ints) -> Pool:
    """The pool under which the given labels (n,) are most likely.

    A priori the model is taken at its word and the probe for LEAST_HEARD of it, give or take a
    factor of e; the noise is USUAL_NOISE.

    Args:
        model: (n, K) log-probabilities.
        probe: (n, K) log-probabilities, by probes that have not seen the image's label.
        labels: (n,) given.
    """
    least = np.log(LEAST_HEARD)
    # Slopes are taken from differences, which single precision would not resolve.
    opinions = model.astype(np.float64), probe.astype(np.float64)

    def pool(parameters: Floats) -> Pool:
        power, ratio, noise = *np.exp(parameters[:2]), special.expit(parameters[2])
        return Pool(float(power), float(power * ratio), float(noise))

    def surprise(parameters: Floats) -> float:
        tried = pool(parameters)
        given, blind = np.exp(tried.of_labels(*opinions, labels)), tried.noise / model.shape[1]
        likelihood = np.log((1 - tried.noise) * given + blind).sum()
        likelihood += special.xlogy(USUAL_NOISE, (tried.noise, 1 - tried.noise)).sum()
        far = parameters[0] ** 2 + (parameters[1] - least) ** 2
        return float(far / 2 - likelihood)

    start = np.array([-0.5, least / 2, special.logit(Pool.noise)])
    bounds = [(-7, 0), (least, 7), (-14, 7)]
    return pool(optimize.minimize(surprise, start, method="L-BFGS-B", bounds=bounds).x)


@dataclass(frozen=True)
class Judged:
    """Of n labels: how strongly the image alone speaks against it, the probability that it is
    wrong, the most probable class, and the pooled probability of the label, (n,) each.

    The evidence is the probability at even odds: a half where a label drawn blindly would be as
    likely. Unlike the probability it does not fall as wrong labels become rare in a run, for a
    label that the model is sure to be wrong is worth a look there too. Both give one order.
    """

    evidence: Floats
    wrong: Floats
    best: Ints
    given: Floats


@dataclass(frozen=True)
class Labels:
    """Judges given labels: the pool, the probe of each fold, the fold of each planned image."""

    pool: Pool
    probes: list[LinearProbe]
    fold: NDArray[np.int8]
    class_names: list[str]
    embedding_dim: int

    def opinions(self, rows: pa.Table) -> tuple[Singles, Singles]:
        """Log-probabilities of the model and of the probe, (n, K) each, before they are pooled.

        Rows must have labels. Where there are no features, all classes are equal to the probe.
        """
        features = arrays.vectors(rows, "features", self.embedding_dim)
        fold = self.fold[arrays.classes(rows, "index")]
        probed = np.zeros((len(fold), len(self.class_names)), np.float32)
        for number, probe in enumerate(self.probes):
            chosen = (fold == number) & features.any(axis=1)
            probed[chosen] = probe.log_probs(features[chosen])
        model = model_log_probs(
            *arrays.top(rows),
            arrays.classes(rows, "label_index"),
            arrays.numbers(rows, "loss").astype(np.float32),
            len(self.class_names),
        )
        return model, probed

    def fitted(self, rows: pa.Table) -> Labels:
        """These with the pool that suits a sample of labelled rows."""
        labels = arrays.classes(rows, "label_index")
        return replace(self, pool=fit(*self.opinions(rows), labels))

    def judge(self, rows: pa.Table) -> Judged:
        """All rows; nothing speaks against the label of one that has none."""
        labels = arrays.classes(rows, "label_index")
        best, given = labels.copy(), np.zeros(len(labels))
        labelled = np.flatnonzero(labels != NO_CLASS)
        if len(labelled):
            log_probs = self.pool.log_probs(*self.opinions(rows.take(labelled)))
            best[labelled] = log_probs.argmax(axis=1)
            given[labelled] = log_probs[np.arange(len(labelled)), labels[labelled]]
        n_classes = len(self.class_names)
        evidence = replace(self.pool, noise=0.5).wrong(given, n_classes)
        return Judged(evidence, self.pool.wrong(given, n_classes), best, np.exp(given))
