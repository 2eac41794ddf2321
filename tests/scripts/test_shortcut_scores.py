"""What the benchmark of shortcuts counts, against closed forms; a peer on maps of two kinds."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from helpers.small_data import write_images
from pipeline.config import Config
from pipeline.stages.audit import audit
from pipeline.storage import run_folder

if TYPE_CHECKING:
    from explained import Explained
    from scores import Verdict

PEER = "peer"


def verdicts(scores: list[float], threshold: float, peer: str = PEER) -> list[Verdict]:
    """One verdict for each score, of the classes 0, 1, ..."""
    from scores import Verdict

    return [Verdict(peer, i, score, score > threshold) for i, score in enumerate(scores)]


def cue(class_index: int, *, relied: bool) -> dict[str, Any]:
    """A pair as truth.json has it."""
    return {"class_index": class_index, "cue": "patch", "relied": relied}


def test_pairs_are_counted_and_ranked() -> None:
    from scores import measure, wilson

    found = measure(
        {"one": verdicts([0.9, 0.1, 0.6], 0.5), "two": verdicts([0.2, 0.7, 0.3], 0.5)},
        {"one": [cue(0, relied=True)], "two": [cue(0, relied=True), cue(1, relied=False)]},
    )
    assert found.peer == PEER
    assert (found.recall.count, found.recall.total, found.recall.value) == (1, 2, 0.5)
    assert (found.false_alarms.count, found.false_alarms.total) == (2, 4)
    assert (found.control_alarms.count, found.control_alarms.total) == (1, 1)
    assert (found.recall.low, found.recall.high) == wilson(1, 2)
    # 0.9 is true, 0.7, 0.6 and 0.3 are not, 0.2 is: precision 1 and then 2/5
    assert found.average_precision == pytest.approx((1 + 2 / 5) / 2)
    assert found.chance == pytest.approx(2 / 6)
    assert 0 <= found.low <= found.average_precision <= found.high <= 1


def test_a_class_with_two_cues_relies_on_either() -> None:
    from scores import measure

    truth = {"set": [cue(1, relied=False), cue(1, relied=True)]}
    found = measure({"set": verdicts([0.0, 1.0], 0.5)}, truth)
    assert (found.recall.count, found.recall.total) == (1, 1)
    assert (found.false_alarms.count, found.control_alarms.total) == (0, 0)
    assert (found.average_precision, found.low, found.high) == (1, 1, 1)


def test_without_a_shortcut_there_is_no_ranking() -> None:
    from scores import measure

    found = measure({"clean": verdicts([0.0, 1.0], 0.5)}, {"clean": []})
    assert math.isnan(found.recall.value)
    assert (found.recall.low, found.recall.high) == (0, 1)
    assert found.false_alarms.value == 0.5
    assert math.isnan(found.average_precision) and math.isnan(found.low) and math.isnan(found.high)


def test_sets_without_a_shortcut_widen_no_interval() -> None:
    """A draw of nothing but such sets has no average precision and is left out."""
    from scores import measure

    some = verdicts([1.0, 0.0], 0.5)
    found = measure({"cue": some, "clean": some}, {"cue": [cue(0, relied=True)], "clean": []})
    assert 0 < found.low <= found.average_precision == 0.5 <= found.high == 1


@pytest.mark.parametrize(
    ("given", "truth"),
    [
        ([], []),
        ([("peer", 0), ("other", 1)], []),
        ([("peer", 0), ("peer", 0)], []),
        ([("peer", 0)], [{"class_index": 1, "relied": True}]),
    ],
)
def test_verdicts_that_do_not_fit_are_refused(
    given: list[tuple[str, int]], truth: list[dict[str, Any]]
) -> None:
    from scores import Verdict, measure

    with pytest.raises(ValueError, match="verdict"):
        measure(
            {"set": [Verdict(peer, index, 0.0, False) for peer, index in given]}, {"set": truth}
        )


@pytest.mark.parametrize(("count", "total"), [(0, 10), (3, 10), (10, 10), (45, 143)])
def test_wilson(count: int, total: int) -> None:
    from scores import wilson

    z, share = 1.959963984540054, count / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / (1 + z**2 / total)
    assert wilson(count, total) == pytest.approx((middle - half, middle + half), abs=1e-12)


def test_average_precision() -> None:
    from scores import average_precision

    assert average_precision([1, 0, 1, 0], [4, 3, 2, 1]) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([1, 0, 0, 0], [1, 1, 1, 1]) == 0.25
    assert math.isnan(average_precision([0, 0], [1, 2]))


def test_iou_counts_the_part_of_a_pixel() -> None:
    from scores import iou

    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    assert iou(mask, (0, 0, 0.5, 0.5)) == 1
    assert iou(mask, (0.5, 0.5, 1, 1)) == 0
    assert iou(mask, (0, 0, 1, 1)) == pytest.approx(4 / 16)
    assert iou(mask, (0, 0, 0.375, 0.5)) == pytest.approx(3 / 4)
    assert iou(mask, (-1, -1, 0.5, 0.5)) == 1  # what lies outside the picture is no area
    assert iou(np.zeros((4, 4), bool), (0.2, 0.2, 0.2, 0.2)) == 0


def test_the_centre_of_a_box() -> None:
    from scores import centre_inside

    mask = np.zeros((2, 4), bool)
    mask[0, 3] = True
    assert centre_inside((0.7, 0, 1, 0.8), mask)
    assert not centre_inside((0, 0, 1, 0.8), mask)
    assert not centre_inside((0.7, 0.2, 1, 1), mask)
    assert centre_inside((1, 0, 1, 0), mask)  # on the edge


def maps(corners: list[int], seed: int = 0) -> NDArray[np.float32]:
    """Noisy maps (n, 8, 8), each with a peak in one of two corners or, for -1, nowhere."""
    rng = np.random.default_rng(seed)
    noise = rng.uniform(0, 0.3, (len(corners), 8, 8))
    for heatmap, corner in zip(noise, corners, strict=True):
        if corner >= 0:
            heatmap[(slice(0, 2), slice(6, 8))[corner], :2] += 1
    return noise.astype(np.float32)


def explained(heatmaps: NDArray[np.float32], given: NDArray[np.int64]) -> Explained:
    """What was explained, as far as SpRAy needs it."""
    from explained import Explained

    nothing = np.zeros((len(given), 0), np.float32)
    chances = np.eye(int(given.max()) + 1)[given]
    pictures = np.zeros((len(given), 1, 1, 3), np.uint8)
    return Explained(heatmaps, nothing, given, given, nothing, chances, pictures)


def test_spray_tells_two_kinds_of_maps_from_one() -> None:
    """Class 0 has two kinds, class 1 one kind, class 2 a dead map and too few others."""
    import peers

    heatmaps = np.concatenate([maps([0] * 40 + [1] * 30), maps([-1] * 70, 1), maps([0] * 12, 2)])
    heatmaps[-1] = 0
    given = np.repeat([0, 1, 2], [70, 70, 12])
    inputs = explained(heatmaps, given)
    eigengap, second = peers.spray_eigengap(inputs), peers.spray_second(inputs)
    for found, name in ((eigengap, peers.EIGENGAP), (second, peers.SECOND)):
        assert [(each.peer, each.class_index) for each in found] == [(name, i) for i in range(3)]
        assert [each.alarm for each in found] == [True, False, False]
        assert found[0].score > found[1].score >= found[2].score == 0
    assert second[0].score == pytest.approx(1)


def test_the_spectrum_of_separate_kinds_begins_with_zeros() -> None:
    """As many zeros as parts (von Luxburg 2007, proposition 4); all within [0, 2], ascending."""
    from peers import MOST_CLUSTERS, spectrum

    one, two = spectrum(maps([-1] * 50)), spectrum(maps([0] * 25 + [1] * 25))
    for values in (one, two):
        assert values.shape == (MOST_CLUSTERS + 1,)
        assert (np.diff(values) >= 0).all() and values[0] > -1e-9 and values[-1] < 2
    assert two[:2] == pytest.approx([0, 0], abs=1e-9) and two[2] > 0.05
    assert one[0] == pytest.approx(0, abs=1e-9) and one[1] > 0.05
    assert len(spectrum(maps([0] * 11))) == 0


def test_a_run_is_read_with_the_maps_of_the_given_class(
    configure: Callable[..., Config], tmp_path: Path, small_model: list[str]
) -> None:
    from explained import read

    write_images(tmp_path / "photos", 10)
    config = configure(f"dataset.root={tmp_path}/photos", *small_model, "stages=[explain]")
    audit(config)
    folder = run_folder.RunFolder(config.folder)
    rows = run_folder.rows(folder, run_folder.read_plan(folder).setup).to_table().to_pylist()
    found = read(config.folder, np.arange(30, dtype=np.uint8)[:, None, None, None])
    assert found.pictures.ravel().tolist() == list(range(30)) and found.n_classes == 3
    assert found.probabilities.sum(axis=1) == pytest.approx(1)
    assert found.statistics[:, 0] == pytest.approx([row["image_mean_r"] for row in rows])
    assert any(row["heatmap_label"] is not None for row in rows)
    for i, row in enumerate(rows):
        expected = row["heatmap"] if row["heatmap_label"] is None else row["heatmap_label"]
        assert found.heatmaps[i].ravel().tolist() == [float(value) for value in expected]
        assert found.embeddings[i].tolist() == [float(value) for value in row["embedding"]]
        assert (found.predicted[i], found.given[i]) == (row["pred_index"], row["label_index"])
        assert found.probabilities[i, found.given[i]] == pytest.approx(row["label_prob"], abs=2e-3)
        assert found.probabilities[i].max() == pytest.approx(row["confidence"], abs=2e-3)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import peers

    for name in ("shortcut_detect", "cleanvision", "cleanlab.rank"):
        monkeypatch.setitem(sys.modules, name, None)
    inputs = explained(maps([0]), np.zeros(1, np.int64))
    with pytest.raises(ImportError, match="shortkit-ml"):
        peers.shortkit(inputs)
    with pytest.raises(ImportError, match="cleanlab"):
        peers.cleanlab_correlations(inputs)
    with pytest.raises(ImportError, match="cleanlab"):
        peers.label_scores(inputs.given, inputs.probabilities)
