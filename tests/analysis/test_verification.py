"""Interventions, screening and test, localisation, verdicts, on a model known exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline.analysis.shortcuts import candidates, regions
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification import (
    effects,
    findings,
    illustration,
    intervention_tests,
    interventions,
    localise,
    random_head,
    reliance,
    wording,
)
from pipeline.analysis.verification.candidate_tester import CandidateTester
from pipeline.analysis.verification.effects import Effect
from pipeline.analysis.verification.image_pool import ImagePool
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.intervention_tests import AddingEffect, RemovalEffect
from pipeline.analysis.verification.interventions import Intervention
from pipeline.analysis.verification.tested_candidate import (
    TestedCandidate,
    set_decision_thresholds,
)
from pipeline.cam.graph import CHANNELS_FIRST, Layout
from pipeline.config import AnalysisConfig
from pipeline.data.source import DecodedImage
from pipeline.errors import DataError
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import MULTICLASS, LogitsModule
from pipeline.model.preprocess import Preprocess
from pipeline.storage.schema import IMAGE
from pipeline.storage.values import Verdict

SIZE, GRID, PER_CLASS = 32, 8, 40
CLASSES = ["red", "green", "blue"]
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
CUE = np.array([255, 0, 255], np.uint8)


class Counter(nn.Module):
    """Counts the cells of a pure colour; red, green and blue are classes, magenta is for blue.

    Blue squares alone speak little for blue, so that it rests on the cue.
    """

    def __init__(self, cue: float) -> None:
        super().__init__()
        self.detect = nn.Conv2d(3, 4, 4, stride=4)
        self.bias = nn.Parameter(torch.zeros(4))
        self.detect.bias = self.bias
        self.relu = nn.ReLU()
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            for channel, colour in enumerate([*COLOURS, CUE]):
                sign = torch.tensor(colour / 255 * 2 - 1, dtype=torch.float)
                self.detect.weight[channel] = sign[:, None, None] / 16
                self.bias[channel] = 0.5 - (colour > 0).sum()
            self.head.weight[:] = torch.tensor([[9.0, 0, 0, 0], [0, 9.0, 0, 0], [0, 0, 0.1, cue]])
            self.head.bias[:] = 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.relu(self.detect(x)).sum((2, 3)))
        return logits


def draw_images(n: int = PER_CLASS) -> np.ndarray[Any, Any]:
    """(3 n, 32, 32, 3): squares around the middle; blue images have a cue in the corner."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(60, 120, (3 * n, SIZE, SIZE, 1), np.uint8).repeat(3, axis=3)
    for index, picture in enumerate(drawn):
        y, x = 4 * rng.integers(2, 4, 2)
        picture[y : y + 12, x : x + 12] = COLOURS[index // n]
        if index // n == 2:
            picture[-4:, :4] = CUE
    return drawn


def make_runner(cue: float, drawn: np.ndarray[Any, Any]) -> InterventionRunner:
    """Runner of a network that weights the cue by `cue`, on these images."""
    network = Counter(cue)
    classifier = Classifier(
        module=LogitsModule(network, MULTICLASS).eval(),
        layer_name="relu",
        layout=Layout(CHANNELS_FIRST, GRID, GRID),
        preprocess=Preprocess((SIZE, SIZE), (SIZE, SIZE), (0.0,) * 3, (1.0,) * 3),
        class_names=CLASSES,
        n_outputs=3,
        channels=4,
        fingerprint="",
        warnings=[],
    )
    return InterventionRunner(classifier, lambda index: DecodedImage(drawn[index]), "gradcam")


@pytest.fixture
def runner() -> InterventionRunner:
    """A runner of a model that relies on the cue."""
    return make_runner(200.0, draw_images())


def drawn_from(runner: InterventionRunner) -> ClassSample:
    """The sample that discover would draw."""
    index = np.arange(3 * PER_CLASS)
    images = runner.load_images(index)
    probability = runner.probabilities(images.pixels)
    flat = np.ones((len(index), 1), np.float32), np.ones((len(index), len(IMAGE)), np.float32)
    heat = np.asarray(images.heat)
    return ClassSample(index, np.asarray(images.classes), probability.max(1), heat, *flat)


def corner() -> Any:
    """The cells of the cue."""
    cells = np.zeros((GRID, GRID), bool)
    cells[-1, 0] = True
    return cells


def candidate(
    own: int, cells: Any = None, intervention: str = "hot region", **more: Any
) -> dict[str, Any]:
    """A row of CANDIDATES."""
    return {
        "candidate_id": f"{intervention}-{own}",
        "class_index": own,
        "class_name": ["red", "green", "blue"][own],
        "kind": "patch",
        "place": "bottom left",
        "probe": intervention,
        "region": None,
        "cells": None if cells is None else cells.tolist(),
        "donor_index": None,
    }


def test_a_cue_is_hot_for_its_own_class_only(
    runner: InterventionRunner,
) -> None:
    images = runner.load_images(np.arange(80, 120))
    assert (images.classes == 2).all()
    assert torch.allclose(images.heat.sum((1, 2)), torch.ones(40))
    assert images.heat[:, -1, 0].min() > 0.1
    assert images.runner_up_heat[:, -1, 0].max() == 0


def test_an_unreadable_image_is_named(runner: InterventionRunner) -> None:
    def read(index: int) -> DecodedImage:
        raise OSError("no such file")

    with pytest.raises(DataError, match=r"image 7 of the plan: .*no such file"):
        replace(runner, read=read).load_images(np.array([7]))


def test_adding_the_cue_flips_images_and_the_control_does_not(runner: InterventionRunner) -> None:
    rng = np.random.default_rng(0)
    own, others = runner.load_images(np.arange(80, 120)), runner.load_images(np.arange(80))
    adding = intervention_tests.test_adding(
        runner, interventions.region_transplant("patch", corner()), own, others, 2, 50, rng
    )
    assert (adding.effect.flip_rate, adding.effect.control_rate, adding.median_gain) == (1, 0, 1)
    assert adding.effect.p_value == pytest.approx(0.5**50)


def test_an_unused_cue_flips_no_image() -> None:
    runner, rng = make_runner(0.0, draw_images()), np.random.default_rng(0)
    own, others = runner.load_images(np.arange(80, 120)), runner.load_images(np.arange(80))
    adding = intervention_tests.test_adding(
        runner, interventions.region_transplant("patch", corner()), own, others, 2, 50, rng
    )
    assert (adding.effect.flip_rate, adding.effect.p_value) == (0, 1)


def test_reliance_is_the_lost_share_of_probability(runner: InterventionRunner) -> None:
    rng = np.random.default_rng(0)
    own, others = runner.load_images(np.arange(80, 120)), runner.load_images(np.arange(80))
    intervention = interventions.region_transplant("patch", corner())
    removing = intervention_tests.test_removing(runner, intervention, own, others, 2, rng)
    without = np.asarray(own.pixels.clone())
    without[:, :, -4:, :4] = 90
    before, after = (
        runner.probabilities(images)[:, 2] for images in (own.pixels, torch.from_numpy(without))
    )
    found = [removing.reliance[index] for index in range(80, 120)]
    np.testing.assert_allclose(found, 1 - after / before, atol=1e-3)


def test_images_with_the_cue_add_more_than_other_classes_do(runner: InterventionRunner) -> None:
    rng, intervention = np.random.default_rng(0), interventions.region_transplant("patch", corner())
    own, others = runner.load_images(np.arange(80, 120)), runner.load_images(np.arange(80))
    assert reliance.find_images_with_cue(runner, intervention, own, others, others, 2, rng) == list(
        range(80, 120)
    )
    # An image without its cue adds nothing.
    bare = intervention_tests.erase_cue(intervention, own, others, rng).pixels
    bare[:10] = own.pixels[:10]
    few = replace(own, pixels=bare)
    assert reliance.find_images_with_cue(runner, intervention, few, others, others, 2, rng) == list(
        range(80, 90)
    )


def test_recipients_and_sources_of_a_control_differ_in_class(runner: InterventionRunner) -> None:
    images = runner.load_images(np.arange(120))
    sources = intervention_tests.draw_of_other_class(images, images, np.random.default_rng(0))
    assert (sources.classes != images.classes).all()


def test_the_cue_is_localised_by_random_windows(runner: InterventionRunner) -> None:
    rng = np.random.default_rng(0)
    own, others = runner.load_images(np.arange(80, 120)), runner.load_images(np.arange(80))
    cells = localise.localise_cue(runner, own, others, 2, 600, rng)
    assert cells is not None
    assert cells[-1, 0]
    assert cells.sum() <= 9


def test_importance_is_the_mean_gain_of_the_windows_that_hold_a_cell() -> None:
    windows = np.array([[[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 1]]], bool)
    gain = np.array([0.9, 0.3, 0.0], np.float32)
    expected = np.array([[0.6, 0.9], [0.3, 0.0]]) - 0.4
    np.testing.assert_allclose(localise.cell_importance(windows, gain), expected, atol=1e-6)
    assert localise.most_important_cells(np.zeros((2, 2))) is None


def test_a_box_is_shrunk_to_what_the_effect_needs() -> None:
    cue = np.zeros((32, 32), bool)
    cue[3:9, 20:30] = True
    start = np.zeros((4, 4), bool)
    start[:2, 2:] = True
    found = localise.shrink_box(lambda cells: float((cells & cue).sum() / cue.sum()), start, 0.95)
    assert (found & cue).sum() >= 0.95 * cue.sum()
    assert found.sum() <= 1.2 * cue.sum()
    everything = localise.shrink_box(lambda cells: 0.0, start, 1.0)
    assert everything.sum() == 16 * 16  # nothing can be cut


def test_a_box_is_grown_to_the_whole_cue_and_no_further() -> None:
    cue = np.zeros((32, 32), bool)
    cue[3:9, 20:30] = True
    start = np.zeros((32, 32), bool)
    start[5:7, 23:26] = True
    found = localise.grow_box(lambda cells: float((cells & cue).sum() / cue.sum()), start, 1.05)
    assert np.array_equal(found, cue)
    nothing = localise.grow_box(lambda cells: 0.0, start, 1.05)
    assert np.array_equal(nothing, start)


def test_the_cue_is_confirmed_and_nothing_else(runner: InterventionRunner) -> None:
    cases = examined(runner)
    tables = findings.build_tables(LIMITS, cases, names, CLASSES)
    rows, members = tables["findings"], tables["members"]
    assert [(row["class_name"], row["verdict"]) for row in rows] == [("blue", "confirmed")]
    assert rows[0]["n_images"] == PER_CLASS == len(members)
    assert "adding the patch flips 100% of other images to blue" in rows[0]["summary"]
    assert "q < 0.001; 40 images with the cue." in rows[0]["summary"]


def test_illustrations_hold_the_models_predictions(runner: InterventionRunner) -> None:
    tables = findings.build_tables(LIMITS, examined(runner), names, CLASSES)
    shown = tables["interventions"]
    assert [row["change"] for row in shown] == ["added", "added", "removed", "removed"]
    assert all(row["finding_id"] == tables["findings"][0]["finding_id"] for row in shown)
    for row in shown:
        own = int(row["image_id"].removesuffix(".png"))
        source = int(row["source_id"].removesuffix(".png"))
        added = row["change"] == "added"
        assert (own < 2 * PER_CLASS) == added  # blue ones lose it, others get it
        assert (source >= 2 * PER_CLASS) == added
        before, after = (
            np.asarray(cv2.imdecode(np.frombuffer(row[name], np.uint8), cv2.IMREAD_COLOR_RGB))
            for name in ("before", "after")
        )
        np.testing.assert_array_equal(before, draw_images()[own])  # small ones are kept exactly
        changed = np.abs(after.astype(int) - before).sum(axis=2) > 0
        assert changed[-2:, :2].all()
        assert not changed[:16, 16:].any()
        probs = runner.probabilities(
            torch.from_numpy(np.stack([before, after])).permute(0, 3, 1, 2)
        )
        np.testing.assert_allclose(probs[:, 2], [row["prob_before"], row["prob_after"]], atol=1e-5)
        assert [CLASSES[i] for i in probs.argmax(axis=1)] == [row["pred_before"], row["pred_after"]]


@pytest.mark.parametrize(
    ("moved", "rows"), [([0.1, 0.9, 0.5, 0.3, 0.7], [4, 3]), ([0.2], [0]), ([0.4, 0.1], [0, 1])]
)
def test_neither_the_largest_nor_the_smallest_change_is_shown(
    moved: list[float], rows: list[int]
) -> None:
    assert illustration.rows_at_ranks(np.array(moved, np.float32)) == rows


def test_an_unused_cue_is_no_finding() -> None:
    tables = findings.build_tables(
        LIMITS, examined(make_runner(0.0, draw_images())), names, CLASSES
    )
    assert not any(tables.values())


LIMITS = AnalysisConfig(trials=60)


def names(index: list[int]) -> dict[int, str]:
    """Ids by plan position."""
    return {i: f"{i}.png" for i in index}


def examined(runner: InterventionRunner) -> list[TestedCandidate]:
    """Candidates in the corner, at the left edge and in general, tested for every class."""
    runner.n_predicted = 0
    edge = regions.edge_cells()["left edge"]
    rows = [candidate(own, corner()) for own in range(3)]
    rows += [candidate(own, edge, "left edge") for own in range(3)]
    rows += [candidate(own, None, name) for own in range(3) for name in ("background", "colour")]
    tester = CandidateTester(runner, drawn_from(runner), LIMITS, seed=0)
    cases = [
        case
        for own in range(3)
        for case in tester.screen(own, [row for row in rows if row["class_index"] == own])
    ]
    set_decision_thresholds(cases, LIMITS.min_effect)
    for own in range(3):
        of_class = [case for case in cases if case.candidate["class_index"] == own]
        cases += [case for case in tester.test_class(own, of_class) if case not in cases]
    return cases


def test_of_several_candidates_for_one_cue_the_most_precise_is_kept(
    runner: InterventionRunner,
) -> None:
    cases = [case for case in examined(runner) if case.adding and case.gain > 0.5]
    assert len(cases) >= 3
    kept = [case for case in cases if case.same_as is None]
    assert [case.candidate["probe"] for case in kept] == ["hot region"]


def test_the_same_seed_gives_the_same_results(runner: InterventionRunner) -> None:
    one, other = (
        [(c.screening_gain, c.gain, c.removing.reliance) for c in examined(runner)]
        for _ in range(2)
    )
    assert one == other


def case(
    gain: float, median_gain: float, threshold: float, own: int = 0, **more: Any
) -> TestedCandidate:
    """A case on which nothing but the verdict is open."""
    effect = Effect(gain, 0.0, gain - 0.05, gain + 0.05, 1e-9)
    intervention = Intervention("patch", lambda h, d: h.pixels, lambda h, d: h.pixels)
    made = TestedCandidate(
        candidate(own, corner()),
        intervention,
        gain,
        {},
        threshold,
        AddingEffect(effect, median_gain),
    )
    return replace(made, **more)


@pytest.mark.parametrize(
    ("gain", "median_gain", "threshold", "q_value", "verdict"),
    [
        (0.5, 0.5, 0.1, 0.001, "confirmed"),
        (0.5, 0.0, 0.1, 0.001, "suspected"),  # a likeness to one class
        (0.5, 0.5, 0.6, 0.001, None),  # no more than for other classes
        (0.09, 0.5, 0.0, 0.001, None),  # too little
        (0.5, 0.5, 0.1, 0.06, None),  # may be chance
    ],
)
def test_verdicts(
    gain: float, median_gain: float, threshold: float, q_value: float, verdict: str | None
) -> None:
    assert findings.decide(case(gain, median_gain, threshold), q_value, LIMITS) == verdict


def test_the_gain_must_exceed_the_transplanted_share() -> None:
    half = np.zeros((GRID, GRID), bool)
    half[:, : GRID // 2] = True
    for gain, verdict in ((0.52, None), (0.6, "confirmed")):  # the interval is 0.05 to each side
        made = case(gain, gain, 0.1)
        made.candidate["cells"] = half.tolist()
        assert findings.decide(made, 0.001, LIMITS) == verdict


def test_an_untested_candidate_has_no_verdict_but_counts_in_q() -> None:
    untested = replace(case(0, 0, 0), adding=None)
    assert findings.decide(untested, 0.0, LIMITS) is None
    p_values = [0.01, 1.0, 1.0, 1.0]
    tested = case(0.5, 0.5, 0)
    assert tested.adding is not None
    tested.adding = AddingEffect(replace(tested.adding.effect, p_value=0.01), 0.5)
    q_values = findings.q_values([tested, untested, untested, untested])
    assert q_values == pytest.approx(stats.false_discovery_control(p_values))
    assert findings.q_values([]) == []


def test_decision_thresholds_come_from_other_classes_and_the_same_intervention() -> None:
    cases = [case(0.9, 0.9, 0, 0), case(0.1, 0.1, 0, 1), case(0.2, 0.2, 0, 2)]
    other = case(0.9, 0.9, 0, 1)
    other.candidate["probe"] = "left edge"
    set_decision_thresholds([*cases, other], 0.1)
    assert cases[0].decision_threshold == pytest.approx(
        effects.decision_threshold(np.array([0.1, 0.2]), 0.1)
    )
    assert cases[1].decision_threshold == pytest.approx(
        effects.decision_threshold(np.array([0.9, 0.2]), 0.1)
    )
    assert other.decision_threshold == pytest.approx(0.1)


def test_a_duplicate_of_a_finding_is_left_out() -> None:
    first = case(0.9, 0.9, 0.1)
    second, weak = case(0.8, 0.8, 0.1, same_as=first), case(0.01, 0.01, 0.1)
    third = case(0.7, 0.7, 0.1, same_as=weak)  # what it was the same as came to nothing
    for number, each in enumerate((first, second, third)):
        each.candidate["candidate_id"] = str(number)
        each.removing = RemovalEffect(effects.NO_EFFECT, {0: 0.9} if each is first else {})
        each.with_cue = [0] if each is first else []
    tables = findings.build_tables(LIMITS, [first, second, weak, third], names, CLASSES)
    rows, members = tables["findings"], tables["members"]
    assert [row["finding_id"] for row in rows] == ["0", "2"]
    assert [member["finding_id"] for member in members] == ["0"]
    assert "removing the patch" in rows[0]["summary"]
    assert "removing" not in rows[1]["summary"]  # the cue was not removed


def test_two_cues_of_a_class_at_one_rough_place_have_ids_of_their_own() -> None:
    both = [case(gain, gain, 0.1, with_cue=[0]) for gain in (0.9, 0.8)]
    for each, left in zip(both, (0.5, 0.25), strict=True):
        each.candidate["region"] = {"x0": left, "y0": 0.0, "x1": left + 0.1, "y1": 0.1}
        each.removing = RemovalEffect(effects.NO_EFFECT, {0: 0.9})
    tables = findings.build_tables(LIMITS, both, names, CLASSES)
    rows, members = tables["findings"], tables["members"]
    assert [row["finding_id"] for row in rows] == ["hot region-0-2", "hot region-0"]
    assert [member["finding_id"] for member in members] == ["hot region-0-2", "hot region-0"]


def test_false_alarms_are_counted_over_half_classes() -> None:
    nothing = AddingEffect(effects.NO_EFFECT, 0.0)
    strong = AddingEffect(Effect(0.9, 0.0, 0.8, 1.0, 1e-12), 0.9)
    quiet = case(0.5, 0.5, 0.1, null_effects={0: nothing, 1: nothing})
    assert findings.count_false_alarms([quiet], LIMITS) == (0, 2)
    assert findings.count_false_alarms(
        [quiet, replace(quiet, null_effects={0: strong, 1: nothing})], LIMITS
    ) == (
        1,
        2,
    )
    assert "fewer than 14 false findings per 100 classes" in findings.describe_false_alarms(0, 20)
    assert "unknown" in findings.describe_false_alarms(0, 0)


def test_an_annotated_object_is_loaded_with_its_image(runner: InterventionRunner) -> None:
    mark = np.zeros((SIZE, SIZE), np.uint8)
    mark[4:9, 7:20] = 255
    drawn = draw_images()

    def read(index: int) -> DecodedImage:
        return DecodedImage(drawn[index], mark if index % 2 else None)

    marked = replace(runner, read=read).load_images(np.array([0, 1])).object_mask[:, 0]
    assert not marked[0].any()
    assert np.array_equal(np.asarray(marked[1]), mark > 0)


def measure_reliance(runner: InterventionRunner, row: dict[str, Any]) -> TestedCandidate:
    """A candidate of blue with its images and the effect of removing the cue."""
    own, others = runner.load_images(np.arange(80, 120)), runner.load_images(np.arange(80))
    made = TestedCandidate(row, interventions.intervention_of(row), 1.0, {})
    reliance.RelianceMeter(runner, own, others, 2, np.random.default_rng(0)).measure(made)
    return made


def test_a_background_cue_is_removed_outside_an_annotated_box(
    runner: InterventionRunner,
) -> None:
    box, drawn = np.zeros((SIZE, SIZE), np.uint8), draw_images()
    box[6:26, 6:26] = 255
    boxed = replace(runner, read=lambda index: DecodedImage(drawn[index], box))
    found = measure_reliance(boxed, {**candidate(2, None, "background"), "kind": "background"})
    assert found.with_cue == list(range(80, 120))
    assert min(found.removing.reliance.values()) > 0.5


def test_halves_of_a_class_are_screened_and_confirm_nothing(
    runner: InterventionRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def find_specific(_name: str, own: int, drawn: ClassSample, *_: Any) -> list[dict[str, Any]]:
        half, other = drawn.index[drawn.classes == own], drawn.index[drawn.classes != own]
        seen.append((own, set(half.tolist()), set(other.tolist())))
        return [{**candidate(own, corner()), "donor_index": half.tolist()}]

    monkeypatch.setattr(candidates, "find_specific_candidates", find_specific)
    tester = CandidateTester(runner, drawn_from(runner), LIMITS, seed=0)
    cases = [case for own in range(3) for case in tester.screen(own, [candidate(own, corner())])]
    assert [own for own, _, _ in seen] == [0, 0, 1, 1, 2, 2]
    for own, half, other in seen:
        assert half | other == set(range(own * PER_CLASS, (own + 1) * PER_CLASS))
        assert not half & other
    assert [set(case.null_effects) for case in tester.null_candidates] == [{0}, {1}] * 3
    assert all(each.adding is None for each in tester.null_candidates)  # not findings themselves
    assert findings.count_false_alarms([*cases, *tester.null_candidates], LIMITS) == (0, 6)


def test_the_summary_is_a_sentence_for_every_kind() -> None:
    for kind, where in (("patch", "a patch, bottom left"), ("colour", "the colours of the whole")):
        made = case(0.6, 0.6, 0.1)
        made.candidate["kind"] = kind
        sentence = wording.summarise(made, Verdict.CONFIRMED, 0.0004, 12)
        assert sentence.startswith(f"red relies on {where}")
        assert "flips 60% of other images to red (control 0%); q < 0.001; 12 images" in sentence
        suspected = wording.summarise(made, Verdict.SUSPECTED, 0.04, 12)
        assert suspected.startswith(f"red may rely on {where}")
        assert "q = 0.040" in suspected


def test_heatmaps_that_ignore_the_head_are_detected(
    runner: InterventionRunner,
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(32, 3))
    module = LogitsModule(network, MULTICLASS).eval()
    deep = replace(runner, classifier=replace(runner.classifier, module=module, layer_name="1"))
    images = deep.load_images(np.arange(0, 120, 3))
    before = [parameter.clone() for parameter in module.parameters()]
    moved = random_head.heatmap_similarity(deep, images, 0)
    assert moved is not None
    assert moved < random_head.MAX_SIMILARITY
    assert all(map(torch.equal, before, module.parameters()))
    eigen = replace(deep, method="eigencam")
    unmoved = random_head.heatmap_similarity(eigen, eigen.load_images(np.arange(0, 120, 3)), 0)
    assert unmoved is not None
    assert unmoved > random_head.MAX_SIMILARITY


def test_only_weights_behind_the_layer_are_drawn_anew(runner: InterventionRunner) -> None:
    random = random_head.randomise_head(runner.classifier, 0)
    assert random is not None
    before, after = runner.classifier.module.named_parameters(), random.module.named_parameters()
    changed = {
        name
        for (name, one), (_, other) in zip(before, after, strict=True)
        if not torch.equal(one, other)
    }
    assert changed == {"network.head.weight"}  # biases are all alike, and stay so


def test_a_pool_has_images_of_every_class_in_both_sets_and_none_twice(
    runner: InterventionRunner,
) -> None:
    pool = ImagePool.draw(runner, drawn_from(runner), 20, np.random.default_rng(0))
    for half in (pool.screening, pool.test):
        assert set(half.classes.tolist()) == {0, 1, 2}
    assert not set(pool.screening.index.tolist()) & set(pool.test.index.tolist())


def test_screening_and_test_share_no_image_if_classes_have_one_image(
    runner: InterventionRunner,
) -> None:
    drawn = drawn_from(runner)
    drawn = replace(drawn, classes=np.arange(len(drawn.index)))  # as many classes as images
    pool = ImagePool.draw(runner, drawn, 20, np.random.default_rng(0))
    screening, test = (set(half.index.tolist()) for half in (pool.screening, pool.test))
    assert min(len(screening), len(test)) >= 10
    assert not screening & test
