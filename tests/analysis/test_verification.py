"""Trials, examiner, localising, verdicts and sanity of the maps on a model known exactly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification import (
    effects,
    findings,
    illustration,
    interventions,
    localise,
    random_head,
    reliance,
    trial,
)
from pipeline.analysis.verification.candidate_tester import CandidateTester
from pipeline.analysis.verification.effects import Effect
from pipeline.analysis.verification.image_pool import ImagePool
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.interventions import Intervention
from pipeline.analysis.verification.tested_candidate import TestedCandidate, set_hurdles
from pipeline.analysis.verification.trial import Added, Removed
from pipeline.cam.graph import CHANNELS_FIRST, Layout
from pipeline.config import AnalysisConfig
from pipeline.data.source import Picture
from pipeline.errors import DataError
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import MULTICLASS, LogitsModule
from pipeline.model.preprocess import Preprocess
from pipeline.storage.schema import IMAGE

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


def pictures(n: int = PER_CLASS) -> np.ndarray[Any, Any]:
    """(3 n, 32, 32, 3): squares around the middle; blue ones wear a cue at the corner."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(60, 120, (3 * n, SIZE, SIZE, 1), np.uint8).repeat(3, axis=3)
    for index, picture in enumerate(drawn):
        y, x = 4 * rng.integers(2, 4, 2)
        picture[y : y + 12, x : x + 12] = COLOURS[index // n]
        if index // n == 2:
            picture[-4:, :4] = CUE
    return drawn


def make_bench(cue: float, drawn: np.ndarray[Any, Any]) -> InterventionRunner:
    """A bench on such pictures."""
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
    return InterventionRunner(classifier, lambda index: Picture(drawn[index]), "gradcam")


@pytest.fixture
def bench() -> InterventionRunner:
    """A model that falls for the cue."""
    return make_bench(200.0, pictures())


def drawn_from(bench: InterventionRunner) -> ClassSample:
    """The sample that discover would draw."""
    index = np.arange(3 * PER_CLASS)
    scenes = bench.scenes(index)
    probability = bench.probabilities(scenes.pictures)
    flat = np.ones((len(index), 1), np.float32), np.ones((len(index), len(IMAGE)), np.float32)
    heat = np.asarray(scenes.heat)
    return ClassSample(index, np.asarray(scenes.classes), probability.max(1), heat, *flat)


def corner() -> Any:
    """The cells of the cue."""
    cells = np.zeros((GRID, GRID), bool)
    cells[-1, 0] = True
    return cells


def candidate(
    own: int, cells: Any = None, probe: str = "hot region", **more: Any
) -> dict[str, Any]:
    """A row of CANDIDATES."""
    return {
        "candidate_id": f"{probe}-{own}",
        "class_index": own,
        "class_name": ["red", "green", "blue"][own],
        "kind": "patch",
        "place": "bottom left",
        "probe": probe,
        "region": None,
        "cells": None if cells is None else cells.tolist(),
        "donor_index": None,
    }


def test_scenes_hold_two_heats_and_a_cue_is_hot_for_its_class_alone(
    bench: InterventionRunner,
) -> None:
    scenes = bench.scenes(np.arange(80, 120))
    assert (scenes.classes == 2).all()
    assert torch.allclose(scenes.heat.sum((1, 2)), torch.ones(40))
    assert scenes.heat[:, -1, 0].min() > 0.1
    assert scenes.runner_up[:, -1, 0].max() == 0


def test_a_picture_that_is_gone_is_named(bench: InterventionRunner) -> None:
    def read(index: int) -> Picture:
        raise OSError("no such file")

    with pytest.raises(DataError, match=r"image 7 of the plan: .*no such file"):
        replace(bench, read=read).scenes(np.array([7]))


def test_adding_the_cue_turns_pictures_and_the_control_does_not(bench: InterventionRunner) -> None:
    rng = np.random.default_rng(0)
    own, others = bench.scenes(np.arange(80, 120)), bench.scenes(np.arange(80))
    added = trial.add(bench, interventions.fixed("patch", corner()), own, others, 2, 50, rng)
    assert (added.effect.hit, added.effect.control, added.typical) == (1, 0, 1)
    assert added.effect.p_value == pytest.approx(0.5**50)


def test_what_the_model_does_not_use_turns_nothing() -> None:
    bench, rng = make_bench(0.0, pictures()), np.random.default_rng(0)
    own, others = bench.scenes(np.arange(80, 120)), bench.scenes(np.arange(80))
    added = trial.add(bench, interventions.fixed("patch", corner()), own, others, 2, 50, rng)
    assert (added.effect.hit, added.effect.p_value) == (0, 1)


def test_reliance_is_what_the_prediction_loses(bench: InterventionRunner) -> None:
    rng = np.random.default_rng(0)
    own, others = bench.scenes(np.arange(80, 120)), bench.scenes(np.arange(80))
    probe = interventions.fixed("patch", corner())
    removed = trial.remove(bench, probe, own, others, 2, rng)
    without = np.asarray(own.pictures.clone())
    without[:, :, -4:, :4] = 90
    before, after = (
        bench.probabilities(images)[:, 2] for images in (own.pictures, torch.from_numpy(without))
    )
    found = [removed.reliance[index] for index in range(80, 120)]
    np.testing.assert_allclose(found, 1 - after / before, atol=1e-3)


def test_wearers_are_those_that_carry_more_than_other_classes_do(bench: InterventionRunner) -> None:
    rng, probe = np.random.default_rng(0), interventions.fixed("patch", corner())
    own, others = bench.scenes(np.arange(80, 120)), bench.scenes(np.arange(80))
    assert reliance.wearers(bench, probe, own, others, others, 2, rng) == list(range(80, 120))
    # A picture whose cue is gone carries nothing.
    bare = trial.without(probe, own, others, rng).pictures
    bare[:10] = own.pictures[:10]
    few = replace(own, pictures=bare)
    assert reliance.wearers(bench, probe, few, others, others, 2, rng) == list(range(80, 90))


def test_hosts_and_donors_of_a_control_are_of_different_classes(bench: InterventionRunner) -> None:
    scenes = bench.scenes(np.arange(120))
    donors = trial.other_class(scenes, scenes, np.random.default_rng(0))
    assert (donors.classes != scenes.classes).all()


def test_the_cue_is_found_where_it_lies_by_windows_alone(bench: InterventionRunner) -> None:
    rng = np.random.default_rng(0)
    own, others = bench.scenes(np.arange(80, 120)), bench.scenes(np.arange(80))
    cells = localise.localise(bench, own, others, 2, 600, rng)
    assert cells is not None
    assert cells[-1, 0]
    assert cells.sum() <= 9


def test_importance_is_the_mean_gain_of_the_windows_that_hold_a_cell() -> None:
    windows = np.array([[[1, 1], [0, 0]], [[1, 0], [1, 0]], [[0, 0], [0, 1]]], bool)
    gain = np.array([0.9, 0.3, 0.0], np.float32)
    expected = np.array([[0.6, 0.9], [0.3, 0.0]]) - 0.4
    np.testing.assert_allclose(localise.importance(windows, gain), expected, atol=1e-6)
    assert localise.hottest(np.zeros((2, 2))) is None


def test_a_place_is_cut_back_to_what_the_effect_needs() -> None:
    cue = np.zeros((32, 32), bool)
    cue[3:9, 20:30] = True
    start = np.zeros((4, 4), bool)
    start[:2, 2:] = True
    found = localise.shrunk(lambda cells: float((cells & cue).sum() / cue.sum()), start, 0.95)
    assert (found & cue).sum() >= 0.95 * cue.sum()
    assert found.sum() <= 1.2 * cue.sum()
    everything = localise.shrunk(lambda cells: 0.0, start, 1.0)
    assert everything.sum() == 16 * 16  # nothing can be cut


def test_a_place_is_widened_to_all_that_counts_and_no_further() -> None:
    cue = np.zeros((32, 32), bool)
    cue[3:9, 20:30] = True
    start = np.zeros((32, 32), bool)
    start[5:7, 23:26] = True
    found = localise.grown(lambda cells: float((cells & cue).sum() / cue.sum()), start, 1.05)
    assert np.array_equal(found, cue)
    nothing = localise.grown(lambda cells: 0.0, start, 1.05)
    assert np.array_equal(nothing, start)


def test_the_examiner_confirms_the_cue_and_nothing_else(bench: InterventionRunner) -> None:
    cases = examined(bench)
    told = findings.tables(LIMITS, cases, names, CLASSES)
    rows, members = told["findings"], told["members"]
    assert [(row["class_name"], row["verdict"]) for row in rows] == [("blue", "confirmed")]
    assert rows[0]["n_images"] == PER_CLASS == len(members)
    assert "Removing it turns" in rows[0]["summary"]
    assert "q < 0.001, 40 images." in rows[0]["summary"]


def test_interventions_are_shown_with_what_the_model_said(bench: InterventionRunner) -> None:
    told = findings.tables(LIMITS, examined(bench), names, CLASSES)
    shown = told["interventions"]
    assert [row["change"] for row in shown] == ["added", "added", "removed", "removed"]
    assert all(row["finding_id"] == told["findings"][0]["finding_id"] for row in shown)
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
        np.testing.assert_array_equal(before, pictures()[own])  # small ones are kept exactly
        changed = np.abs(after.astype(int) - before).sum(axis=2) > 0
        assert changed[-2:, :2].all()
        assert not changed[:16, 16:].any()
        probs = bench.probabilities(torch.from_numpy(np.stack([before, after])).permute(0, 3, 1, 2))
        np.testing.assert_allclose(probs[:, 2], [row["prob_before"], row["prob_after"]], atol=1e-5)
        assert [CLASSES[i] for i in probs.argmax(axis=1)] == [row["pred_before"], row["pred_after"]]


@pytest.mark.parametrize(
    ("moved", "rows"), [([0.1, 0.9, 0.5, 0.3, 0.7], [4, 3]), ([0.2], [0]), ([0.4, 0.1], [0, 1])]
)
def test_neither_the_best_nor_the_worst_is_shown(moved: list[float], rows: list[int]) -> None:
    assert illustration.at_ranks(np.array(moved, np.float32)) == rows


def test_an_unused_cue_is_no_finding() -> None:
    told = findings.tables(LIMITS, examined(make_bench(0.0, pictures())), names, CLASSES)
    assert not any(told.values())


LIMITS = AnalysisConfig(trials=60)


def names(index: list[int]) -> dict[int, str]:
    """Ids by plan position."""
    return {i: f"{i}.png" for i in index}


def examined(bench: InterventionRunner) -> list[TestedCandidate]:
    """All cases of the corner and the left edge, for every class."""
    bench.asked = 0
    edge = interventions.edge_cells()["left edge"]
    rows = [candidate(own, corner()) for own in range(3)]
    rows += [candidate(own, edge, "left edge") for own in range(3)]
    rows += [candidate(own, None, name) for own in range(3) for name in ("background", "colour")]
    judge = CandidateTester(bench, drawn_from(bench), LIMITS, seed=0)
    cases = [
        case
        for own in range(3)
        for case in judge.screen(own, [row for row in rows if row["class_index"] == own])
    ]
    set_hurdles(cases, LIMITS.min_effect)
    for own in range(3):
        of_class = [case for case in cases if case.candidate["class_index"] == own]
        cases += [case for case in judge.try_class(own, of_class) if case not in cases]
    return cases


def test_one_cue_in_several_guises_is_told_once_and_most_precisely(
    bench: InterventionRunner,
) -> None:
    cases = [case for case in examined(bench) if case.added and case.gain > 0.5]
    assert len(cases) >= 3
    kept = [case for case in cases if case.same_as is None]
    assert [case.candidate["probe"] for case in kept] == ["hot region"]


def test_the_same_seed_gives_the_same_cases(bench: InterventionRunner) -> None:
    one, other = (
        [(c.screened, c.gain, c.removed.reliance) for c in examined(bench)] for _ in range(2)
    )
    assert one == other


def case(gain: float, typical: float, hurdle: float, own: int = 0, **more: Any) -> TestedCandidate:
    """A case on which nothing but the verdict is open."""
    effect = Effect(gain, 0.0, gain - 0.05, gain + 0.05, 1e-9)
    probe = Intervention("patch", lambda h, d: h.pictures, lambda h, d: h.pictures)
    made = TestedCandidate(
        candidate(own, corner()), probe, gain, {}, hurdle, Added(effect, typical)
    )
    return replace(made, **more)


@pytest.mark.parametrize(
    ("gain", "typical", "hurdle", "q_value", "said"),
    [
        (0.5, 0.5, 0.1, 0.001, "confirmed"),
        (0.5, 0.0, 0.1, 0.001, "suspected"),  # a likeness to one class
        (0.5, 0.5, 0.6, 0.001, None),  # no more than for other classes
        (0.09, 0.5, 0.0, 0.001, None),  # too little
        (0.5, 0.5, 0.1, 0.06, None),  # may be chance
    ],
)
def test_verdicts(
    gain: float, typical: float, hurdle: float, q_value: float, said: str | None
) -> None:
    assert findings.verdict(case(gain, typical, hurdle), q_value, LIMITS) == said


def test_a_large_place_must_surely_turn_more_than_its_share() -> None:
    half = np.zeros((GRID, GRID), bool)
    half[:, : GRID // 2] = True
    for gain, said in ((0.52, None), (0.6, "confirmed")):  # the interval is 0.05 to each side
        made = case(gain, gain, 0.1)
        made.candidate["cells"] = half.tolist()
        assert findings.verdict(made, 0.001, LIMITS) == said


def test_a_candidate_that_was_not_tried_has_no_verdict_but_counts_in_q() -> None:
    untried = replace(case(0, 0, 0), added=None)
    assert findings.verdict(untried, 0.0, LIMITS) is None
    p_values = [0.01, 1.0, 1.0, 1.0]
    tried = case(0.5, 0.5, 0)
    assert tried.added is not None
    tried.added = Added(replace(tried.added.effect, p_value=0.01), 0.5)
    q_values = findings.q_values([tried, untried, untried, untried])
    assert q_values == pytest.approx(stats.false_discovery_control(p_values))
    assert findings.q_values([]) == []


def test_hurdles_come_from_the_other_classes_under_the_same_probe() -> None:
    cases = [case(0.9, 0.9, 0, 0), case(0.1, 0.1, 0, 1), case(0.2, 0.2, 0, 2)]
    other = case(0.9, 0.9, 0, 1)
    other.candidate["probe"] = "left edge"
    set_hurdles([*cases, other], 0.1)
    assert cases[0].hurdle == pytest.approx(effects.hurdle(np.array([0.1, 0.2]), 0.1))
    assert cases[1].hurdle == pytest.approx(effects.hurdle(np.array([0.9, 0.2]), 0.1))
    assert other.hurdle == pytest.approx(0.1)


def test_what_is_the_same_as_a_finding_is_none_of_its_own() -> None:
    first = case(0.9, 0.9, 0.1)
    second, weak = case(0.8, 0.8, 0.1, same_as=first), case(0.01, 0.01, 0.1)
    third = case(0.7, 0.7, 0.1, same_as=weak)  # what it was the same as came to nothing
    for number, each in enumerate((first, second, third)):
        each.candidate["candidate_id"] = str(number)
        each.removed = Removed(effects.NO_EFFECT, {0: 0.9} if each is first else {})
        each.wearers = [0] if each is first else []
    told = findings.tables(LIMITS, [first, second, weak, third], names, CLASSES)
    rows, members = told["findings"], told["members"]
    assert [row["finding_id"] for row in rows] == ["0", "2"]
    assert [member["finding_id"] for member in members] == ["0"]
    assert "Removing it" in rows[0]["summary"]
    assert "Removing" not in rows[1]["summary"]  # it was not tried


def test_two_cues_of_a_class_at_one_rough_place_have_ids_of_their_own() -> None:
    both = [case(gain, gain, 0.1, wearers=[0]) for gain in (0.9, 0.8)]
    for each, left in zip(both, (0.5, 0.25), strict=True):
        each.candidate["region"] = {"x0": left, "y0": 0.0, "x1": left + 0.1, "y1": 0.1}
        each.removed = Removed(effects.NO_EFFECT, {0: 0.9})
    told = findings.tables(LIMITS, both, names, CLASSES)
    rows, members = told["findings"], told["members"]
    assert [row["finding_id"] for row in rows] == ["hot region-0-2", "hot region-0"]
    assert [member["finding_id"] for member in members] == ["hot region-0-2", "hot region-0"]


def test_pseudo_classes_that_differ_by_chance_raise_no_alarm_and_real_ones_would() -> None:
    nothing = Added(effects.NO_EFFECT, 0.0)
    strong = Added(Effect(0.9, 0.0, 0.8, 1.0, 1e-12), 0.9)
    quiet = case(0.5, 0.5, 0.1, pseudo={0: nothing, 1: nothing})
    assert findings.false_alarms([quiet], LIMITS) == (0, 2)
    assert findings.false_alarms(
        [quiet, replace(quiet, pseudo={0: strong, 1: nothing})], LIMITS
    ) == (
        1,
        2,
    )
    assert "fewer than 14 false findings per 100 classes" in findings.expectation(0, 20)
    assert "not known" in findings.expectation(0, 0)


def test_a_marked_object_comes_with_its_picture(bench: InterventionRunner) -> None:
    mark = np.zeros((SIZE, SIZE), np.uint8)
    mark[4:9, 7:20] = 255
    drawn = pictures()

    def read(index: int) -> Picture:
        return Picture(drawn[index], mark if index % 2 else None)

    marked = replace(bench, read=read).scenes(np.array([0, 1])).object[:, 0]
    assert not marked[0].any()
    assert np.array_equal(np.asarray(marked[1]), mark > 0)


def told(bench: InterventionRunner, row: dict[str, Any]) -> TestedCandidate:
    """A candidate of blue, with its wearers and what removing it does."""
    own, others = bench.scenes(np.arange(80, 120)), bench.scenes(np.arange(80))
    made = TestedCandidate(row, candidates.probe_of(row), 1.0, {})
    reliance.Reliance(bench, own, others, 2, np.random.default_rng(0)).examine(made)
    return made


def test_a_cue_behind_an_object_whose_box_is_known_is_lost_with_all_around_it(
    bench: InterventionRunner,
) -> None:
    box, drawn = np.zeros((SIZE, SIZE), np.uint8), pictures()
    box[6:26, 6:26] = 255
    boxed = replace(bench, read=lambda index: Picture(drawn[index], box))
    found = told(boxed, {**candidate(2, None, "background"), "kind": "background"})
    assert found.wearers == list(range(80, 120))
    assert min(found.removed.reliance.values()) > 0.5


def test_halves_of_a_class_go_through_discover_and_confirm_nothing(
    bench: InterventionRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def raised(_name: str, own: int, drawn: ClassSample, *_: Any) -> list[dict[str, Any]]:
        half, other = drawn.index[drawn.classes == own], drawn.index[drawn.classes != own]
        seen.append((own, set(half.tolist()), set(other.tolist())))
        return [{**candidate(own, corner()), "donor_index": half.tolist()}]

    monkeypatch.setattr(candidates, "raised", raised)
    judge = CandidateTester(bench, drawn_from(bench), LIMITS, seed=0)
    cases = [case for own in range(3) for case in judge.screen(own, [candidate(own, corner())])]
    assert [own for own, _, _ in seen] == [0, 0, 1, 1, 2, 2]
    for own, half, other in seen:
        assert half | other == set(range(own * PER_CLASS, (own + 1) * PER_CLASS))
        assert not half & other
    assert [set(case.pseudo) for case in judge.chance] == [{0}, {1}] * 3
    assert all(case.added is None for case in judge.chance)  # none is a finding of its own
    assert findings.false_alarms([*cases, *judge.chance], LIMITS) == (0, 6)


def test_every_kind_reads_like_a_sentence() -> None:
    for kind, where in (("patch", "a patch, bottom left"), ("colour", "the colours of the whole")):
        made = case(0.6, 0.6, 0.1)
        made.candidate["kind"] = kind
        told = findings.sentence(made, 0.0004, 12)
        assert told.startswith(f"red: {where}")
        assert "turns 60% of other images into red (control 0%), q < 0.001, 12 images." in told


def test_maps_that_do_not_look_at_the_head_are_told_from_those_that_do(
    bench: InterventionRunner,
) -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(32, 3))
    module = LogitsModule(network, MULTICLASS).eval()
    deep = replace(bench, classifier=replace(bench.classifier, module=module, layer_name="1"))
    scenes = deep.scenes(np.arange(0, 120, 3))
    before = [parameter.clone() for parameter in module.parameters()]
    moved = random_head.similarity(deep, scenes, 0)
    assert moved is not None
    assert moved < random_head.HARDLY
    assert all(map(torch.equal, before, module.parameters()))
    eigen = replace(deep, method="eigencam")
    unmoved = random_head.similarity(eigen, eigen.scenes(np.arange(0, 120, 3)), 0)
    assert unmoved is not None
    assert unmoved > random_head.HARDLY


def test_only_weights_behind_the_layer_are_drawn_anew(bench: InterventionRunner) -> None:
    random = random_head.randomised(bench.classifier, 0)
    assert random is not None
    before, after = bench.classifier.module.named_parameters(), random.module.named_parameters()
    changed = {
        name
        for (name, one), (_, other) in zip(before, after, strict=True)
        if not torch.equal(one, other)
    }
    assert changed == {"network.head.weight"}  # biases are all alike, and stay so


def test_a_pool_has_both_halves_of_every_class_and_no_picture_twice(
    bench: InterventionRunner,
) -> None:
    pool = ImagePool.draw(bench, drawn_from(bench), 20, np.random.default_rng(0))
    for half in (pool.screening, pool.trial):
        assert set(half.classes.tolist()) == {0, 1, 2}
    assert not set(pool.screening.index.tolist()) & set(pool.trial.index.tolist())


def test_screening_and_trial_share_no_picture_where_each_class_has_one_to_spare(
    bench: InterventionRunner,
) -> None:
    drawn = drawn_from(bench)
    drawn = replace(drawn, classes=np.arange(len(drawn.index)))  # as many classes as images
    pool = ImagePool.draw(bench, drawn, 20, np.random.default_rng(0))
    screening, trial_ = (set(half.index.tolist()) for half in (pool.screening, pool.trial))
    assert min(len(screening), len(trial_)) >= 10
    assert not screening & trial_
