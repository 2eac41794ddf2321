"""Estimate the probability that a given label is wrong, from the model and a linear probe.

The probabilities of the model and of the probe are pooled: p(y) ~ model(y)^a * probe(y)^b. The
exponents a and b and the share e of labels that were drawn at random from all K classes maximise
the likelihood of the given labels:

    p(given = y) = (1 - e) p(y) + e / K

With the share e a wrong label does not reduce the exponents. a is small if the model relies on a
shortcut. a is at most 1, and b has a lower limit: a model that predicts the labels better than its
own probabilities claim was trained on them and has memorised the wrong ones.

The second term is the probability of a label drawn at random, so

    p(wrong | given = y) = (e / K) (1 - p(y)) / p(given = y)

decreases with p(y). If labels are wrong at random, p(y) is therefore the order in which to review
images, and only a better p(y) gives a better order (Northcutt, Jiang and Chuang, "Confident
Learning", JAIR 2021, compare such orders; Guo et al., "On Calibration of Modern Neural Networks",
ICML 2017, fit exponents of probabilities).
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
LogProbs = NDArray[np.floating]
Ints = NDArray[np.int64]

COLUMNS = ["index", "label_index", "loss", "top_index", "top_prob", "features"]
"""Columns of the parts from which labels are judged."""
MIN_PROBE_RATIO = 0.1
"""Lower limit and prior of b / a. It is small because the probe is overconfident: it treats
correlated features as independent."""
MIN_PROB = 1e-12
"""Smallest probability of the model that is distinguished."""
NOISE_PRIOR = (1, 19)
"""Prior of the share e: 1 wrong and 19 right labels, 5 % with the weight of 20 images."""


@dataclass(frozen=True)
class Pool:
    """The exponents a (model) and b (probe), and the share e (noise) of labels drawn at random."""

    model: float = 1.0
    probe: float = MIN_PROBE_RATIO
    noise: float = NOISE_PRIOR[0] / sum(NOISE_PRIOR)

    def log_probs(self, model: LogProbs, probe: LogProbs) -> LogProbs:
        """Pooled log-probabilities (n, K) of those of the model and of the probe, (n, K) each."""
        pooled: LogProbs = special.log_softmax(self.model * model + self.probe * probe, axis=1)
        return pooled

    def label_log_probs(self, model: LogProbs, probe: LogProbs, labels: Ints) -> Floats:
        """Pooled log-probabilities (n,) of labels (n,)."""
        rows = np.arange(len(labels))
        return self.log_probs(model, probe)[rows, labels].astype(np.float64)

    def prob_wrong(self, given: Singles | Floats, n_classes: int) -> Floats:
        """Probability (n,) that labels with pooled log-probabilities `given` (n,) are wrong."""
        p, random = np.exp(given.astype(np.float64)), self.noise / n_classes
        wrong: Floats = random * (1 - p) / ((1 - self.noise) * p + random)
        return wrong


def prob_right(label_loss: Floats, n_classes: int) -> Floats:
    """Probability (n,) that labels with a loss (n,) of the model are right, before any fit."""
    return 1 - Pool().prob_wrong(-label_loss, n_classes)


def model_log_probs(
    top_index: Ints, top_prob: Singles, label: Ints, label_loss: Singles, n_classes: int
) -> Singles:
    """Restore the model's log-probabilities (n, K) from those that a row stores.

    A row stores the largest probabilities and that of the label; the other classes share the
    remaining probability equally.

    Args:
        top_index: (n, t) most probable classes, -1 where there are fewer than t.
        top_prob: (n, t) their probabilities.
        label: (n,) given labels.
        label_loss: (n,) negative log-probability of the label.
        n_classes: number of classes K.
    """
    is_known = top_index >= 0
    outside = ~(top_index == label[:, None]).any(axis=1)
    label_prob = np.exp(-label_loss)
    known = np.where(is_known, top_prob, 0).sum(axis=1) + outside * label_prob
    others = np.maximum(n_classes - is_known.sum(axis=1) - outside, 1)
    rest = np.log(np.maximum(1 - known, MIN_PROB) / others).astype(np.float32)
    logs = np.repeat(rest[:, None], n_classes, axis=1)
    rows, places = np.nonzero(is_known)
    logs[rows, top_index[rows, places]] = np.log(np.maximum(top_prob[rows, places], MIN_PROB))
    logs[np.arange(len(label)), label] = np.maximum(-label_loss, np.log(MIN_PROB))
    return logs


def fit(model: Singles, probe: Singles, labels: Ints) -> Pool:
    """Fit the pool that maximises the posterior probability of the given labels.

    The prior of a is 1 and that of b / a is MIN_PROBE_RATIO, both log-normal with a standard
    deviation of 1 in the logarithm; the prior of the noise is NOISE_PRIOR.

    Args:
        model: (n, K) log-probabilities of the model.
        probe: (n, K) log-probabilities of probes that were fitted without the image.
        labels: (n,) given labels.
    """
    min_ratio = np.log(MIN_PROBE_RATIO)
    # The optimiser takes gradients from differences, for which float32 is too coarse.
    log_probs = model.astype(np.float64), probe.astype(np.float64)

    def pool(parameters: Floats) -> Pool:
        power, ratio, noise = *np.exp(parameters[:2]), special.expit(parameters[2])
        return Pool(float(power), float(power * ratio), float(noise))

    def negative_log_posterior(parameters: Floats) -> float:
        tried = pool(parameters)
        given = np.exp(tried.label_log_probs(*log_probs, labels))
        random = tried.noise / model.shape[1]
        likelihood = np.log((1 - tried.noise) * given + random).sum()
        likelihood += special.xlogy(NOISE_PRIOR, (tried.noise, 1 - tried.noise)).sum()
        distance = parameters[0] ** 2 + (parameters[1] - min_ratio) ** 2
        return float(distance / 2 - likelihood)

    start = np.array([-0.5, min_ratio / 2, special.logit(Pool.noise)])
    bounds = [(-7, 0), (min_ratio, 7), (-14, 7)]
    fitted = optimize.minimize(negative_log_posterior, start, method="L-BFGS-B", bounds=bounds)
    return pool(fitted.x)


@dataclass(frozen=True)
class Judgement:
    """The judgement of n labels.

    Attributes:
        evidence: (n,) probability that the label is wrong if half of all labels were drawn at
            random. It does not depend on the noise of the run, so a label that contradicts its
            image is found in a clean dataset too. The order is that of `wrong`.
        wrong: (n,) probability that the label is wrong, at the fitted noise.
        best: (n,) most probable class.
        given: (n,) pooled probability of the label.
    """

    evidence: Floats
    wrong: Floats
    best: Ints
    given: Floats


@dataclass(frozen=True)
class LabelJudge:
    """Judges given labels with a pool, the probe of each fold and the fold of each image."""

    pool: Pool
    probes: list[LinearProbe]
    fold: NDArray[np.int8]
    class_names: list[str]
    embedding_dim: int

    def log_probs(self, rows: pa.Table) -> tuple[Singles, Singles]:
        """Log-probabilities of the model and of the probe, (n, K) each, before they are pooled.

        All rows must have labels. A row without features gets equal probabilities of the probe.
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

    def fit_pool(self, rows: pa.Table) -> LabelJudge:
        """Return a judge whose pool is fitted to a sample of labelled rows."""
        labels = arrays.classes(rows, "label_index")
        return replace(self, pool=fit(*self.log_probs(rows), labels))

    def judge(self, rows: pa.Table) -> Judgement:
        """Judge the labels of all rows; a row without a label has evidence 0."""
        labels = arrays.classes(rows, "label_index")
        best, given = labels.copy(), np.zeros(len(labels))
        labelled = np.flatnonzero(labels != NO_CLASS)
        if len(labelled):
            log_probs = self.pool.log_probs(*self.log_probs(rows.take(labelled)))
            best[labelled] = log_probs.argmax(axis=1)
            given[labelled] = log_probs[np.arange(len(labelled)), labels[labelled]]
        n_classes = len(self.class_names)
        evidence = replace(self.pool, noise=0.5).prob_wrong(given, n_classes)
        return Judgement(evidence, self.pool.prob_wrong(given, n_classes), best, np.exp(given))
