"""The parts of the ranking: probe, pool, what is usual, leaders, against independent references."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from scipy import special, stats
from sklearn.covariance import oas
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import average_precision_score

from pipeline.analysis.ranking import focus_outliers, label_errors, linear_probe, members
from pipeline.analysis.ranking.label_errors import Pool
from pipeline.analysis.ranking.suspects import TopSuspects
from pipeline.storage import arrays
from pipeline.storage.sample import draw_per_group
from pipeline.storage.schema import FINDINGS, MEMBERS

Ints = NDArray[np.int64]
Singles = NDArray[np.float32]


def clusters(
    n: int, n_classes: int, dimensions: int = 8, apart: float = 2.0
) -> tuple[Singles, Ints]:
    """Embeddings (n, d) around a mean per class, and their classes."""
    rng = np.random.default_rng(0)
    classes = rng.integers(0, n_classes, n)
    means = rng.normal(size=(n_classes, dimensions)) * apart
    within = rng.normal(size=(n, dimensions)) @ rng.normal(size=(dimensions, dimensions)) / 2
    return (means[classes] + within).astype(np.float32), classes


def opinions(embeddings: Singles, labels: Ints, n_classes: int) -> Singles:
    """What the probe says of each image, by the folds that do not hold it."""
    fold = linear_probe.folds(len(labels), 0)
    moments = linear_probe.Moments(n_classes, embeddings.shape[1])
    for rows in np.array_split(np.arange(len(labels)), 3):
        moments.add(embeddings[rows], labels[rows], np.ones(len(rows)), fold[rows])
    said = np.zeros((len(labels), n_classes), np.float32)
    for number, fitted in enumerate(moments.probes()):
        said[fold == number] = fitted.log_probs(embeddings[fold == number])
    return said


def flipped(classes: Ints, n_classes: int, share: float = 0.08) -> tuple[Ints, NDArray[np.bool_]]:
    """Labels of which a share is wrong, and which are."""
    rng = np.random.default_rng(1)
    wrong = rng.random(len(classes)) < share
    moved = (classes + rng.integers(1, n_classes, len(classes))) % n_classes
    return np.where(wrong, moved, classes), wrong


def test_the_probe_is_the_linear_discriminant_of_scikit_learn() -> None:
    embeddings, labels = clusters(4000, 5)
    fold = np.ones(len(labels), np.int8)  # fold 0 is empty: its probe has seen all
    moments = linear_probe.Moments(5, 8)
    moments.add(embeddings, labels, np.ones(len(labels)), fold)
    mine = moments.probes()[0].log_probs(embeddings)
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(
        linear_probe.signed_root(embeddings), labels
    )
    expected = theirs.decision_function(linear_probe.signed_root(embeddings))
    mine -= mine.mean(axis=1, keepdims=True)
    expected -= expected.mean(axis=1, keepdims=True)
    assert np.allclose(mine, expected, atol=0.02 * np.abs(expected).max())


def test_shrinkage_is_that_of_scikit_learn() -> None:
    data = np.random.default_rng(0).normal(size=(30, 12))
    covariance = np.cov(data, rowvar=False, bias=True)
    assert np.allclose(linear_probe.shrink(covariance, 30), oas(data)[0])


def test_no_image_is_judged_by_a_probe_that_saw_its_label() -> None:
    embeddings, labels = clusters(300, 3)
    other = labels.copy()
    other[7] = (labels[7] + 1) % 3
    assert np.array_equal(opinions(embeddings, labels, 3)[7], opinions(embeddings, other, 3)[7])


@pytest.mark.parametrize(
    ("n", "n_classes"), [(1, 2), (2, 2), (6, 5), (30, 30)], ids=["one", "two", "few", "singles"]
)
def test_a_handful_of_images_is_judged_too(n: int, n_classes: int) -> None:
    embeddings = clusters(n, n_classes)[0]
    labels = np.arange(n) % n_classes
    said = opinions(embeddings, labels, n_classes)
    assert np.isfinite(said).all()
    pool = label_errors.fit(np.log(np.full_like(said, 1 / n_classes)), said, labels)
    assert 0 < pool.noise < 1
    assert 0 < pool.model <= 1
    assert pool.probe >= label_errors.MIN_PROBE_RATIO * pool.model * 0.999


def test_embeddings_that_do_not_vary_tell_nothing() -> None:
    labels = np.arange(50) % 2
    said = opinions(np.ones((50, 4), np.float32), labels, 2)
    assert (
        len(np.unique(said, axis=0)) == linear_probe.FOLDS
    )  # how frequent the classes are, no more


def test_no_labels_leave_the_pool_as_it_is_a_priori() -> None:
    none = np.zeros((0, 3), np.float32)
    pool = label_errors.fit(none, none, np.zeros(0, np.int64))
    assert pool.model == pytest.approx(1, rel=0.01)
    assert pool.probe == pytest.approx(0.1, rel=0.01)
    assert pool.noise == pytest.approx(0.05, rel=0.05)


def test_pool_and_wrong_by_their_formulas() -> None:
    rng = np.random.default_rng(0)
    model, said = (np.log(rng.dirichlet(np.ones(4), 6)).astype(np.float32) for _ in range(2))
    pool = Pool(0.8, 0.3, 0.1)
    expected = special.softmax(0.8 * model + 0.3 * said, axis=1)
    assert np.allclose(np.exp(pool.log_probs(model, said)), expected, atol=1e-6)
    p = expected[:, 2]
    blind = 0.1 / 4
    by_bayes = blind * (1 - p) / (0.9 * p + blind)
    assert np.allclose(pool.prob_wrong(np.log(p).astype(np.float32), 4), by_bayes, atol=1e-6)


def test_the_models_probabilities_from_what_a_row_keeps() -> None:
    probs = np.array([[0.5, 0.2, 0.12, 0.08, 0.05, 0.03, 0.02]])
    for label in (1, 6):
        logs = label_errors.model_log_probs(
            np.arange(5)[None],
            probs[:, :5].astype(np.float32),
            np.array([label]),
            -np.log(probs[:, label]).astype(np.float32),
            7,
        )
        expected = probs.copy()
        if label == 1:
            expected[0, 5:] = 0.025
        assert np.allclose(np.exp(logs), expected, atol=1e-6)


def test_two_classes_leave_three_places_of_the_top_list_empty() -> None:
    logs = label_errors.model_log_probs(
        np.array([[1, 0, -1, -1, -1]]),
        np.array([[0.75, 0.25, 0, 0, 0]], np.float32),
        np.array([0]),
        np.array([-np.log(0.25)], np.float32),
        2,
    )
    assert np.allclose(np.exp(logs), [[0.25, 0.75]])


@pytest.mark.parametrize("n_classes", [2, 10])
def test_wrong_labels_are_found_better_than_by_a_bent_model_and_as_well_as_by_a_good_one(
    n_classes: int,
) -> None:
    embeddings, classes = clusters(3000, n_classes, apart=1.0)
    labels, wrong = flipped(classes, n_classes)
    rng = np.random.default_rng(2)
    said = opinions(embeddings, labels, n_classes)
    place = np.arange(len(labels))
    logits = 3.0 * np.eye(n_classes)[classes] + rng.gumbel(size=(len(labels), n_classes))
    bent = logits.copy()
    bent[:, 0] += 4 * (rng.random(len(labels)) < 0.3)  # a cue of class 0 on images of any class
    gains = []
    for scores in (logits, bent):
        model = special.log_softmax(scores, axis=1).astype(np.float32)
        pool = label_errors.fit(model, said, labels)
        joined = pool.prob_wrong(pool.log_probs(model, said)[place, labels], n_classes)
        by_model = average_precision_score(wrong, -model[place, labels])
        gains.append(average_precision_score(wrong, joined) - by_model)
        # The first model is less sure than it is right, which hides some of the noise.
        assert 1 / 3 < pool.noise / (0.08 * n_classes / (n_classes - 1)) < 1.5
    assert gains[0] > -0.01
    assert gains[1] > 0.03


def test_labels_that_a_model_has_learned_by_heart_are_still_found_by_the_probe() -> None:
    embeddings, classes = clusters(3000, 10, apart=1.0)
    labels, wrong = flipped(classes, 10)
    said = opinions(embeddings, labels, 10)
    rng = np.random.default_rng(2)
    scores = 6.0 * np.eye(10)[labels] + rng.gumbel(size=(len(labels), 10))
    model, place = special.log_softmax(scores, axis=1).astype(np.float32), np.arange(len(labels))
    pool = label_errors.fit(model, said, labels)
    joined = average_precision_score(wrong, -pool.label_log_probs(model, said, labels))
    assert joined > average_precision_score(wrong, -model[place, labels]) + 0.1


def test_what_is_usual_by_median_and_robust_deviation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(90, 2))
    values[:, 1] = np.nan
    classes = np.repeat([0, 1, 2], [40, 40, 10])
    usual = focus_outliers.learn(values, classes, 4, 1000)
    for index in (0, 1):
        own = values[classes == index, 0]
        assert usual.median[index, 0] == pytest.approx(np.median(own))
        deviation = stats.median_abs_deviation(own, scale="normal")
        assert usual.deviation[index, 0] == pytest.approx(deviation)
    assert np.isinf(usual.deviation[2]).all()  # too few images
    assert np.isinf(usual.deviation[:, 1]).all()  # a statistic that no image has
    assert usual.limit == pytest.approx(stats.norm.isf(0.05 / 2 / 2000))
    far = np.array([[usual.median[0, 0] + 8 * usual.deviation[0, 0], np.nan]])
    assert usual.strength(far, np.array([0]))[0] == pytest.approx(1 - usual.limit / 8)
    assert usual.strength(values, classes).max() == 0


def test_leaders_do_not_depend_on_how_rows_come() -> None:
    rng = np.random.default_rng(0)
    index, score = np.arange(500), np.round(rng.random(500), 1)  # ties, and zeros
    loss = np.where(rng.random(500) < 0.1, np.nan, np.round(rng.random(500), 1))
    whole = TopSuspects(40)
    whole.add(index, score, loss)
    pieces = TopSuspects(40)
    for rows in np.array_split(rng.permutation(500), 7):
        pieces.add(index[rows], score[rows], loss[rows])
    order = sorted(range(500), key=lambda i: (-score[i], -np.nan_to_num(loss[i]), i))
    assert whole.index.tolist() == pieces.index.tolist() == order[:40]


def test_members_take_their_strongest_finding_and_tell_all() -> None:
    findings = [
        {
            "finding_id": "a",
            "class_name": "cat",
            "kind": "patch",
            "verdict": "confirmed",
            "score": 0.5,
        },
        {
            "finding_id": "b",
            "class_name": "cat",
            "kind": "tint",
            "verdict": "suspected",
            "score": 0.8,
        },
    ]
    pairs = [("b", 3, None), ("a", 3, 0.3), ("b", 9, 0.6), ("a", 5, None)]
    rows = [{"finding_id": f, "index": i, "image_id": str(i), "reliance": r} for f, i, r in pairs]
    joined = members.join_members(
        pa.Table.from_pylist(rows, MEMBERS), pa.Table.from_pylist(findings, FINDINGS)
    )
    found = joined.strongest(np.array([0, 3, 5, 9, 10]))
    assert found == pytest.approx([0, 0.4, 0.5, 0.3, 0])
    told = {finding: words for _, words, finding in joined.findings_of(3)}
    assert told.keys() == {"a", "b"}
    assert told["a"].endswith("without the cue the prediction loses 30% of its probability")


def test_a_sample_is_bounded_per_group_and_the_same_again() -> None:
    groups = np.repeat([0, 5, 2], [100, 3, 50])
    drawn = draw_per_group(groups, 10, 0)
    assert np.unique(groups[drawn], return_counts=True)[1].tolist() == [10, 10, 3]
    assert np.array_equal(drawn, draw_per_group(groups, 10, 0))
    assert not np.array_equal(drawn, draw_per_group(groups, 10, 1))


def test_null_lists_are_zeros_and_short_ones_are_filled() -> None:
    half = pa.list_(pa.float16(), 2)
    table = pa.table({"embedding": pa.array([[1, 2], None, [0.5, 4]], half)})
    assert arrays.vectors(table, "embedding", 2).tolist() == [[1, 2], [0, 0], [0.5, 4]]
    assert arrays.vectors(table.slice(1), "embedding", 2).tolist() == [[0, 0], [0.5, 4]]
    lists = {
        "top_index": [[1, 0, None, None, None], None],
        "top_prob": [[0.75, 0.25, None, None, None], None],
    }
    table = pa.table(
        {
            "top_index": pa.array(lists["top_index"], pa.list_(pa.int32(), 5)),
            "top_prob": pa.array(lists["top_prob"], pa.list_(pa.float16(), 5)),
        }
    )
    index, probs = arrays.top(table)
    assert index.tolist() == [[1, 0, -1, -1, -1], [-1] * 5]
    assert probs.tolist() == [[0.75, 0.25, 0, 0, 0], [0] * 5]
