"""Candidates, interventions, tests, verdicts and tables, on a model known exactly."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from pipeline.analysis import local_features
from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.catalogue import INTERVENTIONS, PLACE, STATISTICS
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.shortcuts import candidate_rows, candidates
from pipeline.analysis.shortcuts.candidate_rows import ClassImages, OtherImages
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification import (
    description,
    effects,
    findings,
    illustration,
    image_pool,
    random_head,
    reliance,
    trials,
    verdicts,
    wording,
)
from pipeline.analysis.verification.candidate_tests import (
    N_SCREENING,
    CandidateTester,
    TestedCandidate,
)
from pipeline.analysis.verification.description import Description
from pipeline.analysis.verification.effects import Effect
from pipeline.analysis.verification.findings import Finding
from pipeline.analysis.verification.image_pool import SCREENING, TEST, ImagePool, SourceLoader
from pipeline.analysis.verification.verdicts import Decision
from pipeline.analysis.verification.verifier import Verifier
from pipeline.cam.graph import CHANNELS_FIRST, TOKENS, Layout
from pipeline.config import AnalysisConfig
from pipeline.data.source import DecodedImage
from pipeline.engine import inference
from pipeline.errors import DataError
from pipeline.model.classifier import Classifier
from pipeline.model.outputs import MULTICLASS, LogitsModule
from pipeline.model.preprocess import Preprocess
from pipeline.storage.schema import concepts_schema
from pipeline.storage.values import Verdict

SIZE, GRID, PER_CLASS, WITH_CUE = 32, 8, 40, 30
CLASSES = ["red", "green", "blue"]
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
CUE = np.array([255, 0, 255], np.uint8)
LIMITS = AnalysisConfig(trials=60, permutations=6)
Pixels = np.ndarray[Any, Any]


class Counter(nn.Module):
    """Counts the cells of a pure colour; red, green and blue are classes, magenta is for blue."""

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


def draw_images(n: int = PER_CLASS) -> Pixels:
    """(3 n, 32, 32, 3): squares around the middle; 30 of 40 blue images have a cue in a corner."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(60, 120, (3 * n, SIZE, SIZE, 1), np.uint8).repeat(3, axis=3)
    for index, picture in enumerate(drawn):
        y, x = 4 * rng.integers(2, 4, 2)
        picture[y : y + 12, x : x + 12] = COLOURS[index // n]
        if index // n == 2 and index % n < WITH_CUE:
            picture[-4:, :4] = CUE
    return drawn


def make_model(cue: float = 200.0) -> AuditedModel:
    """A network that weights the cue by `cue`, with the images."""
    drawn = draw_images()
    classifier = Classifier(
        module=LogitsModule(Counter(cue), MULTICLASS).eval(),
        layer_name="relu",
        layout=Layout(CHANNELS_FIRST, GRID, GRID),
        preprocess=Preprocess((SIZE, SIZE), (SIZE, SIZE), (0.0,) * 3, (1.0,) * 3),
        class_names=CLASSES,
        n_outputs=3,
        channels=4,
        fingerprint="",
        warnings=[],
    )
    return AuditedModel(classifier, lambda index: DecodedImage(drawn[index]))


def sample_of(model: AuditedModel) -> ClassSample:
    """All images as a sample, with the labels that they were drawn with."""
    index = np.arange(3 * PER_CLASS)
    probability = model.probabilities(model.load_images(index)[0])
    return ClassSample(index, probability.argmax(1), index // PER_CLASS)


def found_candidates(model: AuditedModel) -> tuple[list[dict[str, Any]], pa.Table]:
    """Candidates of all classes, and their rows of concepts."""
    sample = sample_of(model)
    pixels, _ = model.load_images(sample.index)
    features = local_features.pixel_features(pixels)
    others = OtherImages(sample, *model.activations(pixels), features)
    rows, tables = [], []
    for number, name in enumerate(CLASSES):
        own = sample.images_of(number, 100, np.random.default_rng(0))
        pixels, _ = model.load_images(own.index)
        evidence = model.evidence(pixels, number)
        features = local_features.pixel_features(pixels)
        activity = model.activity(pixels, evidence.activations)
        images = ClassImages(number, name, own, evidence, activity, model.is_local, features)
        for row, table in candidates.find_candidates(images, others, 0):
            rows.append(row)
            tables.append(table)
    empty = concepts_schema((GRID, GRID)).empty_table()
    return rows, pa.concat_tables([empty, *tables])


def verification_of(model: AuditedModel, concepts: pa.Table) -> Verifier:
    pool = ImagePool.draw(model, sample_of(model), LIMITS.trials, np.random.default_rng(0))

    def rows_of(identifier: str) -> pa.Table:
        return concepts.filter(pc.equal(concepts["candidate_id"], identifier))

    return Verifier(model, pool, LIMITS, (GRID, GRID), rows_of, 0)


@pytest.fixture(scope="module")
def verified() -> tuple[AuditedModel, Verifier, list[Decision], list[dict[str, Any]]]:
    """A model that relies on the cue: verification and decisions, without candidates of a place."""
    model = make_model()
    rows, concepts = found_candidates(model)
    rows = [row for row in rows if row["kind"] != candidate_rows.AT_PLACE]
    verification = verification_of(model, concepts)
    return model, verification, verification.run(rows), rows


def claimed(decisions: list[Decision]) -> list[Decision]:
    return [each for each in decisions if each.verdict]


def test_the_images_with_the_cue_are_the_first_candidate_of_their_class() -> None:
    rows, concepts = found_candidates(make_model())
    first = next(row for row in rows if row["class_name"] == "blue")
    assert first["donor_index"] == list(range(80, 80 + WITH_CUE))
    assert first["without_index"] == list(range(80 + WITH_CUE, 120))
    assert first["contribution"] == pytest.approx(100)  # half of the cue's weight
    own = concepts.filter(pc.equal(concepts["candidate_id"], first["candidate_id"])).to_pylist()
    for row in own:
        assert row["has_cue"] == (row["index"] < 80 + WITH_CUE)
        if row["has_cue"]:
            assert int(np.argmax(row["presence"])) == (GRID - 1) * GRID


def test_large_activations_stay_finite() -> None:
    """Beyond 65,504 float16 would be infinite."""
    model = make_model()
    with torch.no_grad():
        for parameter in model.classifier.module.parameters():
            parameter.mul_(1e6)
    images, _ = model.load_images(np.arange(80, 84))
    evidence = model.evidence(images, 2)
    assert float(evidence.activations.max()) > 65_504
    assert bool(evidence.activations.isfinite().all())
    assert bool(evidence.gradients.isfinite().all())


def test_the_group_table_counts_and_rates_all_four_groups() -> None:
    rows, _ = found_candidates(make_model())
    first = next(row for row in rows if row["class_name"] == "blue")
    table = {row["group"]: (row["n_images"], row["accuracy"]) for row in first["groups"]}
    assert table == {
        "class, with the cue": (30, 1.0),
        "class, without the cue": (10, 1.0),
        "other classes, with the cue": (0, None),
        "other classes, without the cue": (80, 1.0),
    }


def test_an_unreadable_image_is_named() -> None:
    def read(index: int) -> DecodedImage:
        raise OSError("no such file")

    with pytest.raises(DataError, match=r"image 7 of the plan: .*no such file"):
        replace(make_model(), read=read).load_images(np.array([7]))


def test_the_cue_is_confirmed_with_its_place_and_nothing_else(
    verified: tuple[AuditedModel, Verifier, list[Decision], list[dict[str, Any]]],
) -> None:
    _, verification, decisions, _ = verified
    (decision,) = claimed(decisions)
    assert decision.tested.candidate["class_name"] == "blue"
    assert decision.verdict is Verdict.CONFIRMED
    assert decision.effect is not None
    assert (decision.effect.flip_rate, decision.effect.control_rate) == (1.0, 0.0)
    found = verification.describe(decision, decision.verdict)
    assert (found.cue.kind, found.cue.place) == ("patch", "bottom left")
    assert found.cue.region is not None
    assert found.cue.region["x1"] <= 0.25
    assert found.cue.region["y0"] >= 0.75
    assert found.removal is not None
    assert sorted(found.removal.index.tolist()) == list(range(80, 80 + WITH_CUE))


def test_objects_are_sought_in_the_pixels_where_the_layer_is_not_local() -> None:
    """Tokens mix all of the image: concepts have no place, and saliency takes their place."""
    model = make_model()
    pixels, _ = model.load_images(np.arange(8))
    assert model.is_local
    energy = model.activations(pixels)[0].float().square().sum(dim=1)
    torch.testing.assert_close(model.activity(pixels), energy)
    tokens = replace(model.classifier, layout=Layout(TOKENS, GRID, GRID))
    mixing = AuditedModel(tokens, model.read)
    activity = mixing.activity(pixels)
    assert not mixing.is_local
    torch.testing.assert_close(activity, inference.saliency(tokens, pixels))
    evidence = model.evidence(pixels, 2)
    sample = sample_of(model).select(np.arange(8))
    features = local_features.pixel_features(pixels)
    ones, shown = np.ones((8, GRID, GRID), np.float32), np.ones(8, bool)
    for is_local in (True, False):
        images = ClassImages(2, "blue", sample, evidence, activity, is_local, features)
        columns = candidate_rows.map_columns(images, ones, ones, ones, shown)
        assert np.any(columns["presence"]) == np.any(columns["evidence"]) == is_local
        same = np.array_equal(columns["other_evidence"], columns["activity"])
        assert same != is_local


def test_an_unused_cue_is_no_finding() -> None:
    rows, concepts = found_candidates(make_model(0.0))
    assert claimed(verification_of(make_model(0.0), concepts).run(rows)) == []


@pytest.mark.parametrize("weight", [200.0, 0.0])
@pytest.mark.parametrize(
    ("kind", "told"), [(candidate_rows.COMMON, "patch"), (candidate_rows.CONTEXT, "background")]
)
def test_a_cue_that_all_images_of_a_class_have_is_found(
    monkeypatch: pytest.MonkeyPatch, weight: float, kind: str, told: str
) -> None:
    """No image of the class lacks it, so that only other classes show the difference."""
    monkeypatch.setattr(sys.modules[__name__], "WITH_CUE", PER_CLASS)
    model = make_model(weight)
    rows, concepts = found_candidates(model)
    verification = verification_of(model, concepts)
    decisions = claimed(verification.run([row for row in rows if row["kind"] == kind]))
    assert len(decisions) == (1 if weight else 0)
    for decision in decisions:
        assert (decision.tested.class_index, decision.verdict) == (2, Verdict.CONFIRMED)
        found = verification.describe(decision, Verdict.CONFIRMED)
        assert found.cue.kind == told
        assert found.removal is not None
        assert found.removal.index.tolist() == list(range(80, 120))
    if kind == candidate_rows.CONTEXT:
        assert verification.count_false_alarms() == (0, LIMITS.permutations)


@pytest.mark.parametrize("weight", [200.0, 0.0])
def test_a_cue_in_one_place_is_found_by_its_pixels_alone(weight: float) -> None:
    """The cue fills the lower left corner of 30 of 40 blue images."""
    model = make_model(weight)
    rows, concepts = found_candidates(model)
    rows = [row for row in rows if row["kind"] == candidate_rows.AT_PLACE]
    assert {row["class_name"] for row in rows} == {"blue"}
    assert set(rows[0]["donor_index"]) == set(range(80, 80 + WITH_CUE))
    verification = verification_of(model, concepts)
    decisions = claimed(verification.run(rows))
    assert len(decisions) == (1 if weight else 0)
    for decision in decisions:
        assert (decision.intervention, decision.verdict) == (PLACE, Verdict.CONFIRMED)
        assert decision.gain == 1
        found = verification.describe(decision, Verdict.CONFIRMED)
        assert (found.cue.kind, found.cue.place) == ("patch", "bottom left")
        one_cell_more = {"x0": 0.0, "y0": 0.875 - 1 / 16, "x1": 0.125 + 1 / 16, "y1": 1.0}
        assert found.cue.region == one_cell_more  # colours are means of 3 x 3 pixels
        assert found.removal is not None
        assert sorted(found.removal.index.tolist()) == list(range(80, 80 + WITH_CUE))
        assert {each.change for each in found.illustrations} == {"added", "removed"}


@pytest.mark.parametrize("weight", [200.0, 0.0])
def test_a_tint_of_the_whole_picture_is_found_by_its_pixels_alone(
    monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    """30 of 40 blue squares stand before magenta, all others before grey.

    The layer is active on magenta, so that the object cannot be told from it: a property.
    """

    def draw_tinted(n: int = PER_CLASS) -> Pixels:
        drawn = untinted(n)
        for picture in drawn[2 * n : 2 * n + WITH_CUE]:
            is_grey = picture[..., 0] == picture[..., 1]
            picture[is_grey] = CUE - (picture[is_grey] // 20)
        return drawn

    untinted = draw_images
    monkeypatch.setattr(sys.modules[__name__], "draw_images", draw_tinted)
    model = make_model(weight)
    rows, concepts = found_candidates(model)
    rows = [row for row in rows if row["kind"] == candidate_rows.STYLE]
    assert [row["class_name"] for row in rows] == ["blue"]
    assert set(rows[0]["donor_index"]) == set(range(80, 80 + WITH_CUE))
    assert set(rows[0]["without_index"]) <= set(range(80 + WITH_CUE, 120))
    decisions = claimed(verification_of(model, concepts).run(rows))
    assert len(decisions) == (1 if weight else 0)
    assert all(each.gain > 0.4 for each in decisions)


def test_where_objects_stand_is_no_place_of_a_cue() -> None:
    """Content of images without the cue changes half of the predictions, so it covers objects."""
    decision = decision_of({PLACE: 0.6})
    assert decision.verdict == Verdict.CONFIRMED
    effects_of = decision.tested.effects
    effects_of[PLACE] = replace(effects_of[PLACE], disturbed=0.5)
    again = verdicts.decide(decision.tested, {PLACE: 0.0}, LIMITS)
    assert (again.verdict, again.reason) == (
        None,
        "what images without the cue hold at its place changes predictions, too",
    )


def test_what_is_not_claimed_is_kept_with_its_reason(
    verified: tuple[AuditedModel, Verifier, list[Decision], list[dict[str, Any]]],
) -> None:
    *_, decisions, rows = verified
    kept = list(findings.trial_rows(decisions))
    assert {row["candidate_id"] for row in kept} == {row["candidate_id"] for row in rows}
    assert all(row["verdict"] or row["reason"] for row in kept)
    tested = [row for row in kept if row["verdict"]]
    assert {row["intervention"] for row in tested} == set(INTERVENTIONS) - {PLACE}


def test_random_divisions_of_the_images_confirm_nothing(
    verified: tuple[AuditedModel, Verifier, list[Decision], list[dict[str, Any]]],
) -> None:
    _, verification, *_ = verified
    assert verification.count_false_alarms() == (0, LIMITS.permutations)
    keys = [each.key for each in verification.null_tests]
    assert len(set(keys)) == LIMITS.permutations


def test_the_same_seed_gives_the_same_decisions(
    verified: tuple[AuditedModel, Verifier, list[Decision], list[dict[str, Any]]],
) -> None:
    *_, decisions, rows = verified
    model = make_model()
    _, concepts = found_candidates(model)
    again = verification_of(model, concepts).run(rows)
    assert list(findings.trial_rows(again)) == list(findings.trial_rows(decisions))


def test_illustrations_hold_the_models_predictions_and_support_the_finding(
    verified: tuple[AuditedModel, Verifier, list[Decision], list[dict[str, Any]]],
) -> None:
    model, verification, decisions, _ = verified
    (decision,) = claimed(decisions)
    found = verification.describe(decision, Verdict.CONFIRMED)
    ids = {index: f"{index}.png" for index in findings.named_images([found])}
    tables = findings.build_tables([found], ids, CLASSES)
    shown = tables["interventions"]
    assert {row["change"] for row in shown} == {"added", "removed"}
    for row in shown:
        own, source = (int(row[name].removesuffix(".png")) for name in ("image_id", "source_id"))
        added = row["change"] == "added"
        assert (own < 2 * PER_CLASS) == added  # blue ones lose it, others get it
        assert source >= 2 * PER_CLASS
        assert (row["prob_after"] > row["prob_before"]) == added
        before, after = (
            np.asarray(cv2.imdecode(np.frombuffer(row[name], np.uint8), cv2.IMREAD_COLOR_RGB))
            for name in ("before", "after")
        )
        np.testing.assert_array_equal(before, draw_images()[own])  # small ones are kept exactly
        assert (np.abs(after.astype(int) - before).sum(axis=2) > 0)[-2:, :2].all()
        pixels = torch.from_numpy(np.stack([before, after])).permute(0, 3, 1, 2)
        probs = model.probabilities(pixels)
        np.testing.assert_allclose(probs[:, 2], [row["prob_before"], row["prob_after"]], atol=1e-5)
    (finding,) = tables["findings"]
    assert finding["n_images"] == WITH_CUE == len(tables["members"])
    assert "adding the patch flips 100% of other images to blue" in finding["summary"]


@pytest.mark.parametrize(
    ("moved", "rows"),
    [
        ([0.1, 0.9, 0.5, 0.3, 0.7], [4, 3]),
        ([0.2], [0]),
        ([0.4, 0.1], [0, 1]),
        ([-0.4, 0.1, 0.0], [1]),
        ([-0.1], []),
    ],
)
def test_only_changes_that_support_the_finding_are_shown_and_not_the_largest(
    moved: list[float], rows: list[int]
) -> None:
    assert illustration.rows_at_ranks(np.array(moved, np.float32)) == rows


def batch(n: int = 4, seed: int = 0) -> Scenes:
    """Random images with an object in the middle; the cue is in the upper left corner."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, SIZE, SIZE), generator=generator).float()
    objects = torch.zeros(n, 1, SIZE, SIZE)
    objects[..., 12:20, 12:20] = 1
    presence = torch.zeros(n, 1, SIZE, SIZE)
    presence[..., :16, :16] = 1
    index = torch.arange(n)
    return Scenes(index, index, pixels, objects, objects, presence, presence)


@pytest.mark.parametrize("name", [n for n, each in INTERVENTIONS.items() if each.leaves_object_out])
def test_the_sources_objects_are_left_out(name: str) -> None:
    """Whatever the objects of the sources look like, the result is nearly the same."""
    recipients, with_cue, without_cue = (batch(seed=seed) for seed in (1, 2, 3))
    repainted = [
        replace(
            each,
            pixels=torch.where(each.objects > 0, torch.full_like(each.pixels, 9.0), each.pixels),
        )
        for each in (with_cue, without_cue)
    ]
    once = INTERVENTIONS[name].apply(recipients, with_cue, without_cue)
    again = INTERVENTIONS[name].apply(recipients, *repainted)
    for one, other in zip(once, again, strict=True):
        assert (one.int() - other.int()).abs().float().mean() < 3


def test_both_changes_of_a_region_concern_the_same_pixels() -> None:
    recipients, with_cue, without_cue = (batch(seed=seed) for seed in (1, 2, 3))
    changed = INTERVENTIONS["region"].apply(recipients, with_cue, without_cue)
    for pixels in changed:
        differs = (pixels != recipients.pixels.byte()).any(dim=1)
        assert differs[:, :12, :12].float().mean() > 0.95
        assert not differs[:, 16:].any()
        assert not differs[:, 12:, 12:].any()  # the object, which the region overlaps


def test_a_new_background_keeps_the_recipients_object() -> None:
    recipients, with_cue, without_cue = (batch(seed=seed) for seed in (1, 2, 3))
    changed, _ = INTERVENTIONS["background"].apply(recipients, with_cue, without_cue)
    inside = recipients.objects.expand_as(recipients.pixels) > 0
    assert torch.equal(changed[inside], recipients.pixels.byte()[inside])
    outside = ~inside
    assert torch.equal(changed[outside], with_cue.pixels.byte()[outside])


def test_a_trial_counts_flips_of_the_same_recipients() -> None:
    model = make_model()
    rows, concepts = found_candidates(model)
    row = next(row for row in rows if row["class_name"] == "blue")
    own = concepts.filter(pc.equal(concepts["candidate_id"], row["candidate_id"]))
    sources = SourceLoader(model, (GRID, GRID)).sources(row, own, TEST, 0)
    other = SourceLoader(model, (GRID, GRID)).sources(row, own, SCREENING, 0)
    assert sources is not None
    assert other is not None
    for one, two in ((sources.with_cue, other.with_cue), (sources.without_cue, other.without_cue)):
        assert not set(one.index.tolist()) & set(two.index.tolist())
    pool = ImagePool.draw(model, sample_of(model), 20, np.random.default_rng(0))
    before = model.n_predicted
    trial = trials.run_trial(
        model,
        INTERVENTIONS["region"],
        pool.of_other_classes(2, TEST),
        sources,
        2,
        50,
        np.random.default_rng(0),
    )
    assert model.n_predicted - before == 100
    assert (trial.predicted == 2).all()
    assert (trial.predicted_control == trial.classes).all()
    assert trial.gain == 1
    assert trial.effect(np.random.default_rng(0)).sharing == ()
    assert set(trial.classes.tolist()) == {0, 1}


@pytest.mark.parametrize(("name", "gain"), [("region", 0.5), ("colour", 0.1)])
def test_a_statistic_counts_only_if_other_classes_do_not_have_it(
    monkeypatch: pytest.MonkeyPatch, name: str, gain: float
) -> None:
    """Sources of the class give a gain of 0.5; of other classes nearly the same flips, 0.1."""
    recipients = batch(50)
    sources = image_pool.Sources(batch(seed=1), batch(seed=2))

    def run_trial(*arguments: Any) -> trials.Trial:
        used, n = arguments[3], arguments[5]
        share = 0.1 if used.without_cue is recipients else 0.5
        number = np.arange(n)
        predicted = np.where(number < share * n, 0, 1)
        ones = np.ones(n, np.int64)
        return trials.Trial(0, predicted, ones, np.zeros(n), number, number, ones)

    monkeypatch.setattr(trials, "run_trial", run_trial)
    model = make_model()
    pool = ImagePool((recipients, recipients))
    tester = CandidateTester(model, pool, AnalysisConfig(), 0)
    tested = TestedCandidate({"class_index": 0}, (0, 0))
    rng = np.random.default_rng(0)
    effect = tester.measure(tested, sources, INTERVENTIONS[name], rng, recipients)
    assert effect.gain == pytest.approx(gain, abs=0.01)


def test_a_change_that_is_the_same_with_and_without_the_cue_is_predicted_once() -> None:
    model, images = make_model(), batch(8)
    plain = replace(images, pixels=torch.full_like(images.pixels, 90))  # without any noise
    sources = image_pool.Sources(plain, plain)
    before = model.n_predicted
    trial = trials.run_trial(
        model, INTERVENTIONS["noise"], images, sources, 0, 8, np.random.default_rng(0)
    )
    assert model.n_predicted - before == 8
    assert trial.gain == 0
    np.testing.assert_array_equal(trial.predicted, trial.predicted_control)


def test_a_screening_without_effect_ends_after_half_of_the_recipients() -> None:
    model = make_model()
    sources = image_pool.Sources(batch(8, 1), batch(8, 2))
    tester = verification_of(model, found_candidates(model)[1]).tester
    before = model.n_predicted
    tested = TestedCandidate({"class_index": 2}, (2, 0))
    tester.test(tested, lambda _: sources, ["sharpness"])
    assert tested.screened == {"sharpness": 0.0}
    assert model.n_predicted - before == N_SCREENING


def candidate_of_blue(model: AuditedModel) -> tuple[dict[str, Any], pa.Table]:
    rows, concepts = found_candidates(model)
    row = next(each for each in rows if each["class_name"] == "blue")
    return row, concepts.filter(pc.equal(concepts["candidate_id"], row["candidate_id"]))


def put_on_the_cue(concepts: pa.Table, name: str, index: list[int]) -> pa.Table:
    """The maps of a column, in some of the images, replaced by those of the cue."""
    chosen = np.isin(concepts["index"], index)
    maps, presence = concepts[name].to_pylist(), concepts["presence"].to_pylist()
    moved = [new if put else old for old, new, put in zip(maps, presence, chosen, strict=True)]
    place = concepts.schema.get_field_index(name)
    field = concepts.schema.field(place)
    return concepts.set_column(place, field, pa.array(moved, field.type))


def test_sources_have_the_cue_away_from_other_evidence() -> None:
    model = make_model()
    row, concepts = candidate_of_blue(model)
    far, near = row["donor_index"][:20], row["donor_index"][20:]
    changed = put_on_the_cue(concepts, "other_evidence", near)
    loader = SourceLoader(model, (GRID, GRID))
    found = [loader.sources(row, changed, half, seed=0) for half in (SCREENING, TEST)]
    taken = {int(index) for each in found if each for index in each.with_cue.index}
    assert taken == set(far)


def objects_of_sources(model: AuditedModel, row: dict[str, Any], concepts: pa.Table) -> Tensor:
    """Masks (n, SIZE, SIZE) of the objects in the images with a cue."""
    found = SourceLoader(model, (GRID, GRID)).sources(row, concepts, TEST, seed=0)
    assert found is not None
    return found.with_cue.objects[:, 0]


def test_a_cue_beside_the_object_does_not_belong_to_it_wherever_the_layer_is_active() -> None:
    """A strong cue draws the activity away from the object, which is there without it, too."""
    model = make_model()
    row, concepts = candidate_of_blue(model)
    for activity in (concepts, put_on_the_cue(concepts, "activity", row["donor_index"])):
        objects = objects_of_sources(model, row, activity)
        assert not objects[:, -4:, :4].any()
        assert objects[:, 13:19, 13:19].all()


def test_a_cue_that_is_the_object_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filled in, it takes the object away; only an annotation tells that it is elsewhere."""
    model = make_model()
    row, concepts = candidate_of_blue(model)
    nothing_else = {**row, "donor_index": row["without_index"], "without_index": row["donor_index"]}
    names = list(concepts.schema.names)
    one, other = (names.index(name) for name in ("presence", "other_evidence"))
    names[one], names[other] = names[other], names[one]
    on_object = concepts.rename_columns(names).select(concepts.schema.names)
    monkeypatch.setattr(image_pool, "MIN_SOURCES", 1)
    assert objects_of_sources(model, nothing_else, on_object)[:, 13:19, 13:19].all()

    outline = np.zeros((SIZE, SIZE), np.uint8)
    outline[:6, -6:] = 255
    annotated = replace(model, read=lambda index: DecodedImage(model.read(index).pixels, outline))
    objects = objects_of_sources(annotated, nothing_else, on_object)
    assert not objects[:, 13:19, 13:19].any()


def test_the_reliance_on_a_cue_that_cannot_be_removed_is_estimated() -> None:
    """Two classes: the margin is the log-odds, and the contribution is taken from it."""
    rows = pa.table({"index": [4, 7], "margin": [2.0, 1.0], "contribution": [2.0, -1.0]})
    removal = reliance.estimate_reliance(rows, 0.5)
    before, after = 1 / (1 + np.exp(-2.0)), 0.5
    np.testing.assert_allclose(removal.reliance, [1 - after / before, 0])
    assert removal.index.tolist() == [4, 7]
    assert removal.flipped is None


@pytest.mark.parametrize("gain", [0.2, 0.7])
def test_the_reliance_on_a_cue_without_concepts_is_on_average_its_gain(gain: float) -> None:
    """The images with the smallest margin lose most."""
    margin = np.linspace(0, 6, 9)
    rows = pa.table({"index": range(9), "margin": margin, "contribution": np.zeros(9)})
    found = reliance.estimate_reliance(rows, gain).reliance
    assert found.mean() == pytest.approx(gain, abs=1e-3)
    assert (np.diff(found) < 0).all()
    everything = reliance.estimate_reliance(rows, 1.0).reliance
    np.testing.assert_allclose(everything, 1, atol=1e-6)


def test_images_with_a_cue_that_cannot_be_removed_show_its_trace() -> None:
    model = make_model()
    _, concepts = found_candidates(model)
    verification = verification_of(model, concepts)
    own = concepts.filter(pc.is_in(concepts["index"], pa.array([80, 95, 110]))).slice(0, 3)

    def trace(pixels: Tensor) -> np.ndarray[Any, Any]:
        return np.array([bool((image[:, -1, 0] == torch.tensor(CUE)).all()) for image in pixels])

    assert verification._showing(own, trace)["index"].to_pylist() == [80, 95]
    nothing = verification._showing(own, lambda pixels: np.zeros(len(pixels), bool))
    assert nothing.equals(own.filter(own["has_cue"]))


def test_a_candidate_with_too_few_images_is_not_tested() -> None:
    model = make_model()
    rows, concepts = found_candidates(model)
    row = next(row for row in rows if row["class_name"] == "blue")
    few = {**row, "without_index": row["without_index"][:2]}
    verification = verification_of(model, concepts)
    (decision,) = verification.run([few])
    assert decision.verdict is None
    assert decision.reason == "too few images with or without the cue"
    assert verification.count_false_alarms() == (0, 0)


def test_the_paired_comparison_is_mcnemars_exact_test() -> None:
    rng = np.random.default_rng(0)
    flipped = np.array([True] * 9 + [False] * 11)
    control = np.array([False] * 8 + [True] * 2 + [False] * 10)
    each = np.arange(20)
    effect = effects.compare_flips(flipped, control, each, each, each, rng)
    assert (effect.flip_rate, effect.control_rate) == (0.45, 0.1)
    assert effect.p_value == pytest.approx(sum(stats.binom.pmf(k, 9, 0.5) for k in (8, 9)))
    assert effect.ci_low < effect.gain < effect.ci_high
    assert effects.compare_flips(flipped, flipped, each, each, each, rng).p_value == 1


def test_the_interval_is_wide_where_few_source_images_decide() -> None:
    flipped = np.tile([True, True, True, False], 30)
    control = np.zeros(120, bool)
    many, few = np.arange(120), np.tile([0, 1, 2, 3], 30)

    def width(sources: np.ndarray[Any, Any]) -> float:
        effect = effects.compare_flips(
            flipped, control, sources, many, many, np.random.default_rng(0)
        )
        return effect.ci_high - effect.ci_low

    assert width(few) > 3 * width(many)


def test_the_interval_of_equal_outcomes_is_students() -> None:
    sources = np.repeat(np.arange(16), 10)
    flipped, never = np.isin(sources, range(10)), np.zeros(160, bool)
    rng = np.random.default_rng(0)
    effect = effects.compare_flips(flipped, never, sources, sources, sources % 2, rng)
    error = np.sqrt(10 / 16 * 6 / 16 / 16) * np.sqrt(32 / 30)
    expected = 10 / 16 - stats.t.ppf(0.975, 30) * error
    assert effect.ci_low == pytest.approx(expected, abs=0.03)


def test_flips_to_classes_that_share_a_cue_count() -> None:
    n = np.arange(100)
    classes = 3 + n % 4
    predicted = np.where(n < 30, 0, np.where(n < 55, 1, np.where(n < 60, 2, classes)))
    trial = trials.Trial(0, predicted, classes, np.zeros(100), n, n, classes)
    effect = trial.effect(np.random.default_rng(0))
    assert trial.gain == pytest.approx(0.30)
    assert effect.sharing == (1,)  # class 2 has too few
    assert effect.flip_rate == pytest.approx(0.55)
    other = replace(trial, class_index=2).effect(np.random.default_rng(0))
    assert other.sharing == ()
    assert other.flip_rate == pytest.approx(0.05)
    text = wording.summarise(
        "red", Description("moving"), Verdict.CONFIRMED, effect, 0.001, 9, None, ["green"]
    )
    assert "flips 55% of other images to red or to classes that share it (green)" in text


def effect_of(gain: float, *, p: float = 1e-6, median: float | None = None) -> Effect:
    return Effect(120, gain, 0.0, gain - 0.05, gain + 0.05, p, gain if median is None else median)


def decision_of(gains: dict[str, float], **more: Any) -> Decision:
    """The decision on a candidate with effects of these gains."""
    row = {"class_index": 0, "candidate_id": "c", "kind": candidate_rows.CONCEPT}
    tested = TestedCandidate(row, (0, 0))
    tested.screened = dict.fromkeys(INTERVENTIONS, 0.0)
    tested.effects = {name: effect_of(gain, **more) for name, gain in gains.items()}
    return verdicts.decide_all([tested], AnalysisConfig())[0]


@pytest.mark.parametrize(
    ("gains", "verdict", "intervention"),
    [
        ({"region": 0.5, "background": 0.3}, Verdict.CONFIRMED, "region"),
        ({"region": 0.5, "part": 0.25}, None, "region"),
        ({"region": 0.5, "part": 0.1, "background": 0.1}, None, "region"),
        ({"region": 0.5, "part": 0.35, "background": 0.1}, Verdict.PROPERTY, "part"),
        ({"region": 0.5, "part": 0.35, "background": 0.2}, Verdict.CONFIRMED, "region"),
        ({"region": 0.45, "background": 0.19}, None, "region"),
        ({"region": 0.5}, None, "region"),
        ({"region": 0.1}, None, "region"),
        ({"part": 0.6, "region": 0.02}, Verdict.PROPERTY, "part"),
        ({"part": 0.25}, None, "part"),
        ({"part": 0.6, "object colour": 0.55}, Verdict.PROPERTY, "object colour"),
        ({"part": 0.6, "object colour": 0.25}, Verdict.PROPERTY, "object colour"),
        ({"part": 0.9, "object colour": 0.25}, Verdict.PROPERTY, "part"),
        ({"part": 0.6, "region": 0.5}, Verdict.PROPERTY, "part"),
        ({"part": 0.6, "region": 0.5, "background": 0.3}, Verdict.CONFIRMED, "region"),
        ({"compression": 0.5, "texture": 0.6}, Verdict.CONFIRMED, "compression"),
        ({"part": 0.9, "region": 0.25}, Verdict.PROPERTY, "part"),
        ({"colour": 0.5, "lighting": 0.55, "region": 0.3}, Verdict.CONFIRMED, "colour"),
        ({"background": 0.8, "region": 0.3}, Verdict.CONFIRMED, "background"),
        ({"background": 0.8, "region": 0.7}, Verdict.CONFIRMED, "region"),
        ({"background": 0.8, "texture": 0.55}, Verdict.CONFIRMED, "background"),
        ({"background": 0.8, "lighting": 0.55}, Verdict.CONFIRMED, "lighting"),
        ({}, None, ""),
    ],
)
def test_verdicts(gains: dict[str, float], verdict: Verdict | None, intervention: str) -> None:
    decision = decision_of(gains)
    assert (decision.verdict, decision.intervention) == (verdict, intervention)
    assert bool(decision.reason) == (verdict is None and bool(gains))


def test_reasons_name_what_is_missing() -> None:
    assert "only the region has a sure effect" in decision_of({"region": 0.5}).reason
    assert "of region, is 10%, less than 20%" in decision_of({"region": 0.1}).reason
    assert "of part, is 25%, less than 30%" in decision_of({"part": 0.25}).reason
    assert "may be chance" in decision_of({"region": 0.5, "part": 0.5}, p=0.2).reason


def test_an_effect_on_few_classes_is_suspected_and_chance_is_nothing() -> None:
    assert decision_of({"region": 0.5, "part": 0.5}, median=0.02).verdict is Verdict.SUSPECTED
    assert decision_of({"region": 0.5, "part": 0.5}, p=0.2).verdict is None


def test_one_cue_of_the_whole_picture_is_claimed_once() -> None:
    first, second = decision_of({"colour": 0.5}), decision_of({"colour": 0.4})
    kept = verdicts.merge_same([first, second])
    assert [each.verdict for each in kept] == [Verdict.CONFIRMED, None]
    assert "same cue" in kept[1].reason
    both = verdicts.merge_same([decision_of({"region": gain, "part": gain}) for gain in (0.5, 0.4)])
    assert all(each.verdict for each in both)


@pytest.mark.parametrize("kind", [candidate_rows.COMMON, candidate_rows.CONTEXT])
def test_what_all_images_of_a_class_have_is_claimed_only_without_another_finding(kind: str) -> None:
    first, second = (
        decision_of({"region": 0.5, "background": 0.3}),
        decision_of({"background": 0.4}),
    )
    second.tested.candidate["kind"] = kind
    assert [bool(each.verdict) for each in verdicts.merge_same([first, second])] == [True, False]
    lost = replace(first, verdict=None, reason="it may be chance")
    assert [bool(each.verdict) for each in verdicts.merge_same([lost, second])] == [False, True]


def describe(name: str, images: Scenes) -> Description:
    return description.describe_cue(name, images, batch(32, 1))


def test_a_cue_is_described_by_its_place() -> None:
    images = batch()
    assert describe("region", images).kind in ("patch", "region")
    everywhere = replace(
        images, presence=torch.ones_like(images.presence), evidence=torch.ones_like(images.evidence)
    )
    assert describe("background", images).kind == "region"
    assert describe("region", everywhere).kind == "background"
    assert describe("part", everywhere).kind == "object"
    context = replace(images, presence=torch.zeros_like(images.presence))
    assert describe("background", context) == Description("background")
    for name in (*STATISTICS, "object colour"):
        assert describe(name, images) == Description(name)
    moving = torch.zeros_like(images.evidence)
    for number, start in enumerate((0, 8, 16, 24)):
        moving[number, :, start : start + 6, start : start + 6] = 1
    scattered = replace(images, evidence=moving, objects=torch.zeros_like(images.objects))
    assert describe("region", scattered) == Description("moving")
    found = description.describe_cue("background", scattered, batch(32, 1), is_local=False)
    assert found == Description("background")


def test_the_place_of_a_cue_that_does_not_move_is_seen_in_the_pixels() -> None:
    images, others = batch(32), batch(32, 1)
    marked = images.pixels.clone()
    marked[..., :6, 2:10] = 250
    free = torch.ones_like(images.evidence)
    compared = (others.pixels, torch.ones_like(others.evidence))
    cells = description.distinct_cells((marked, free), compared, images.evidence)
    assert cells is not None
    expected = torch.nn.functional.adaptive_avg_pool2d(
        (marked != images.pixels).any(dim=(0, 1)).float()[None], local_features.GRID
    )
    assert cells.sum() > 0
    assert (np.asarray(expected[0])[cells] > 0).mean() > 0.7
    assert description.distinct_cells((images.pixels, free), compared, images.evidence) is None
    elsewhere = images.evidence.flip(2, 3)  # the concepts are not where the pixels differ
    assert description.distinct_cells((marked, free), compared, elsewhere) is None
    # An object that covers the place in most images is no cue beside it.
    covered = free.clone()
    covered[..., :8, :12] = 0
    assert description.distinct_cells((marked, covered), compared, images.evidence) is None
    # Pixels that objects cover in the other images cannot be compared.
    hidden = (others.pixels, covered)
    assert description.distinct_cells((marked, free), hidden, images.evidence) is None
    few = images.evidence[:4]
    assert description.distinct_cells((marked[:4], free[:4]), compared, few) is None


def test_colours_of_the_background_alone_are_no_colours_of_the_picture() -> None:
    def painted(inside: float, outside: float, seed: int) -> Scenes:
        images = batch(16, seed)
        shift = torch.where(images.objects > 0, inside, outside)
        return replace(images, pixels=(images.pixels / 4 + shift))

    plain = painted(0.0, 0.0, 1)
    whole = image_pool.Sources(painted(60.0, 60.0, 2), plain)
    behind = image_pool.Sources(painted(0.0, 60.0, 2), plain)
    assert description.changes_objects("colour", whole)
    assert not description.changes_objects("colour", behind)
    assert description.changes_objects("region", behind)


def finding_with(cue: Description) -> Finding:
    tested = TestedCandidate(
        {"class_index": 0, "class_name": "red", "candidate_id": "c", "groups": None}, (0, 0)
    )
    tested.effects = {"region": effect_of(0.5)}
    decision = Decision(tested, Verdict.CONFIRMED, "region", {"region": 0.001}, is_local=True)
    return Finding(decision, Verdict.CONFIRMED, cue)


def test_two_cues_of_a_class_at_one_rough_place_have_ids_of_their_own() -> None:
    cue = Description("patch", "top left", {"x0": 0.0, "y0": 0.0, "x1": 0.1, "y1": 0.1})
    tables = findings.build_tables([finding_with(cue), finding_with(cue)], {}, CLASSES)
    first, second = (row["finding_id"] for row in tables["findings"])
    assert second == f"{first}-2"


@pytest.mark.parametrize("verdict", list(Verdict))
@pytest.mark.parametrize(
    "cue", [Description("edge", "top edge"), Description("patch", "centre")]
    + [Description(kind) for kind in wording.NAMES]
)  # fmt: skip
def test_the_summary_is_a_sentence_for_every_kind(cue: Description, verdict: Verdict) -> None:
    text = wording.summarise("red", cue, verdict, effect_of(0.5), 0.04, 12, 0.3, [])
    assert text.startswith("red relies on" if verdict != Verdict.SUSPECTED else "red may rely on")
    assert text.endswith(".")
    assert "q = 0.040" in text
    assert "None" not in text


def test_heatmaps_that_ignore_the_head_are_detected() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 32, 4, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    module = LogitsModule(nn.Sequential(*layers, nn.Linear(32, 3)), MULTICLASS).eval()
    model = make_model()
    deep = replace(model, classifier=replace(model.classifier, module=module, layer_name="1"))
    images, _ = deep.load_images(np.arange(0, 120, 3))
    before = [parameter.clone() for parameter in module.parameters()]
    moved = random_head.heatmap_similarity(deep, images, "gradcam", 0)
    assert moved is not None
    assert moved < random_head.MAX_SIMILARITY
    assert all(map(torch.equal, before, module.parameters()))
    unmoved = random_head.heatmap_similarity(deep, images, "eigencam", 0)
    assert unmoved is not None
    assert unmoved > random_head.MAX_SIMILARITY


def test_only_weights_behind_the_layer_are_drawn_anew() -> None:
    classifier = make_model().classifier
    random = random_head.randomise_head(classifier, 0)
    assert random is not None
    before, after = classifier.module.named_parameters(), random.module.named_parameters()
    changed = {
        name
        for (name, one), (_, other) in zip(before, after, strict=True)
        if not torch.equal(one, other)
    }
    assert changed == {"network.head.weight"}  # biases are all alike, and stay so


def test_a_pool_has_images_of_every_class_in_both_halves_and_none_twice() -> None:
    model = make_model()
    pool = ImagePool.draw(model, sample_of(model), 20, np.random.default_rng(0))
    for half in pool.halves:
        assert set(half.classes.tolist()) == {0, 1, 2}
    first, second = (set(half.index.tolist()) for half in pool.halves)
    assert not first & second


def test_screening_and_test_share_no_image_if_classes_have_one_image() -> None:
    model = make_model()
    drawn = replace(sample_of(model), predicted=np.arange(3 * PER_CLASS))
    pool = ImagePool.draw(model, drawn, 20, np.random.default_rng(0))
    first, second = (set(half.index.tolist()) for half in pool.halves)
    assert first
    assert second
    assert not first & second


def test_an_annotated_object_is_loaded_with_its_image() -> None:
    model = make_model()
    outline = np.zeros((SIZE, SIZE), np.uint8)
    outline[4:20, 4:20] = 255
    outline[4, 4] = 0
    drawn = draw_images()
    annotated = replace(model, read=lambda index: DecodedImage(drawn[index], outline))
    recipients = image_pool.load_recipients(annotated, sample_of(model), np.arange(3))
    inside = recipients.objects[:, 0, 5:19, 5:19]
    assert (inside == 1).all()
    assert recipients.objects[:, 0, 24:].sum() == 0


def test_rows_are_drawn_in_turn() -> None:
    rows = scenes.draw_rows(5, 12, np.random.default_rng(0))
    counts = np.bincount(rows, minlength=5)
    assert counts.sum() == 12
    assert counts.max() - counts.min() <= 1
