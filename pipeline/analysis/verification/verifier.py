"""Verification of all candidates of a run: tests, claims, and what removing a claimed cue shows."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.catalogue import (
    INTERVENTIONS,
    PLACE,
    STATISTICS,
    Intervention,
    Trace,
)
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.shortcuts.candidate_rows import AT_PLACE, COMMON, CONCEPT, CONTEXT, STYLE
from pipeline.analysis.verification import description, illustration, image_pool, reliance, verdicts
from pipeline.analysis.verification.candidate_tests import CandidateTester, TestedCandidate
from pipeline.analysis.verification.description import Description
from pipeline.analysis.verification.findings import Finding
from pipeline.analysis.verification.image_pool import (
    SCREENING,
    TEST,
    ImagePool,
    SourceLoader,
    Sources,
)
from pipeline.analysis.verification.reliance import Removal
from pipeline.analysis.verification.verdicts import Decision
from pipeline.config import AnalysisConfig
from pipeline.storage.schema import Row
from pipeline.storage.values import Verdict

MIN_NEW_SHARE = 0.3
"""Share of a candidate's images with the cue that no claimed candidate of the class explains; a
candidate with a smaller share is not tested."""
MIN_NEW_IMAGES = 6
"""Fewest such images."""
MIN_RECIPIENTS = 8
"""Fewest recipients of a repeated test."""

REMOVAL, REPEAT = 1_000_001, 1_000_002
"""Seeds of further draws for a candidate, beyond all numbers of random divisions."""
CONCEPT_CHANGES = [name for name in INTERVENTIONS if name != PLACE]
"""Names of the interventions on concepts that divide the images of a class."""
OUTSIDE = [name for name in CONCEPT_CHANGES if INTERVENTIONS[name].leaves_object_out]
"""Names of those that can confirm a shortcut."""
CHANGES = {
    CONCEPT: CONCEPT_CHANGES,
    AT_PLACE: [PLACE],
    STYLE: ["background", *STATISTICS, "object colour"],
    COMMON: ["region", "background"],
    CONTEXT: ["background", "colour", "compression", "resolution", "noise"],
}
"""Names of the interventions on each kind of candidate. On the context of a class, other statistics
of the whole picture are those of its objects, too, and every class has its own objects."""

Concepts = Callable[[str], pa.Table]
"""From a candidate's id to its rows of concepts_schema."""


@dataclass
class Verifier:
    """Tests candidates, and collects the decisions.

    Attributes:
        model: the audited model.
        pool: recipients of all classes.
        limits: the analysis settings.
        grid: rows and columns of the concept maps.
        concepts: the concept maps of each candidate.
        seed: seed of all draws.
        null_tests: candidates whose images were divided at random.
    """

    model: AuditedModel
    pool: ImagePool
    limits: AnalysisConfig
    grid: tuple[int, int]
    concepts: Concepts
    seed: int
    null_tests: list[TestedCandidate] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loader = SourceLoader(self.model, self.grid)
        self.tester = CandidateTester(self.model, self.pool, self.limits, self.seed)

    def run(self, candidates: list[Row]) -> list[Decision]:
        """Test all candidates, class by class, and decide on them."""
        by_class: dict[int, list[Row]] = {}
        for row in candidates:
            by_class.setdefault(row["class_index"], []).append(row)
        # Random divisions are spread evenly over the classes.
        ends = np.arange(len(by_class) + 1) * self.limits.permutations // max(1, len(by_class))
        tested = [
            each
            for rows, n_null in zip(by_class.values(), np.diff(ends).tolist(), strict=True)
            for each in self._test_class(rows, n_null)
        ]
        for each in sorted(self._claimed(tested), key=_largest_gain, reverse=True):
            self._repeat_without_other_cues(each, self._claimed(tested))
        decisions = verdicts.decide_all(tested, self.limits)
        return verdicts.merge_same([self._locate(each) for each in decisions])

    def count_false_alarms(self) -> tuple[int, int]:
        """Divisions at random with a confirmed finding, which is false, and all of them."""
        decisions = verdicts.decide_all(self.null_tests, self.limits)
        confirmed = sum(each.verdict == Verdict.CONFIRMED for each in decisions)
        return confirmed, len(decisions)

    def describe(self, decision: Decision, verdict: Verdict) -> Finding:
        """Describe the cue of a claimed candidate, and remove it from the images that have it."""
        tested = decision.tested
        sources = self._tested_sources(tested)
        recipients = self.pool.of_other_classes(tested.class_index, TEST)
        shown = illustration.illustrate(
            self.model,
            _removing(decision),
            recipients,
            sources,
            tested.class_index,
        )
        removal = self._remove(decision, sources.without_cue, recipients)
        cue = _describe_cue(decision, sources.with_cue, recipients)
        return Finding(decision, verdict, cue, removal, shown)

    def _locate(self, decision: Decision) -> Decision:
        """Name a statistic that differs outside the objects only by its place."""
        if decision.intervention not in STATISTICS or not decision.in_place:
            return decision
        sources = self._tested_sources(decision.tested)
        recipients = self.pool.of_other_classes(decision.tested.class_index, TEST)
        lacking = scenes.concatenate(sources.without_cue, recipients)
        compared = Sources(sources.with_cue, lacking)
        if description.changes_objects(decision.intervention, compared):
            return decision
        return replace(decision, intervention=decision.in_place)

    def _remove(self, decision: Decision, without_cue: Scenes, recipients: Scenes) -> Removal:
        """Remove the cue from the images that are predicted as the class.

        A statistic of the whole picture is replaced by that of images of other classes, in all
        images of the class: groups do not divide it sharply. What cannot be removed is estimated in
        the images that show its trace. Content is replaced by that of images
        of the class without the cue, so that a removal does not add another object.
        """
        tested = decision.tested
        rows = self.concepts(tested.candidate["candidate_id"])
        rows = rows.filter(pc.equal(rows["pred_index"], tested.class_index))
        trace = INTERVENTIONS[decision.intervention].trace
        if trace is not None:
            return reliance.estimate_reliance(self._showing(rows, trace), decision.gain)
        is_statistic = decision.intervention in STATISTICS
        if not is_statistic:
            rows = image_pool.has_maps(rows.filter(rows["has_cue"]))
        having_cue = self.loader.having_cue
        if decision.intervention == PLACE:
            having_cue = partial(self.loader.images_at_place, tested.candidate)
        rng = np.random.default_rng((self.seed, *tested.key, REMOVAL))
        removal = reliance.join(
            [
                reliance.remove_cue(
                    self.model,
                    _removing(decision),
                    having_cue(rows.slice(start, image_pool.MAX_SOURCES)),
                    recipients if is_statistic else without_cue,
                    tested.class_index,
                    rng,
                )
                for start in range(0, len(rows), image_pool.MAX_SOURCES)
            ]
        )
        if not is_statistic:
            return removal
        has_cue = rows["has_cue"].to_numpy(zero_copy_only=False)
        return removal.select(has_cue | (removal.reliance >= reliance.RELIES))

    def _showing(self, rows: pa.Table, trace: Trace) -> pa.Table:
        """The rows of images that show the trace of a change; those with the cue if none does."""
        index = rows["index"].to_numpy()
        parts = np.split(index, range(image_pool.MAX_SOURCES, len(index), image_pool.MAX_SOURCES))
        shown = [trace(self.model.load_images(part)[0].float()) for part in parts]
        found = rows.filter(pa.array(np.concatenate(shown)))
        return found if len(found) else rows.filter(rows["has_cue"])

    def _load(self, tested: TestedCandidate, half: int) -> Sources | None:
        """Load one half of the source images of a candidate, the same ones each time.

        A cue that all images of a class have is compared with images of other classes; those that
        are no recipients of the half are the sources without the cue.
        """
        concepts = self.concepts(tested.candidate["candidate_id"])
        if tested.candidate["kind"] in (AT_PLACE, STYLE):
            return self.loader.by_pixels(tested.candidate, concepts, half, self.seed)
        if tested.candidate["kind"] in (COMMON, CONTEXT):
            elsewhere = self.pool.of_other_classes(tested.class_index, 1 - half)
            return self.loader.whole_class(tested.candidate, concepts, elsewhere, half, self.seed)
        return self.loader.sources(tested.candidate, concepts, half, self.seed)

    def _tested_sources(self, tested: TestedCandidate) -> Sources:
        """The source images that a candidate was tested with."""
        sources = self._load(tested, TEST) or self._load(tested, SCREENING)
        assert sources is not None  # it was tested
        return sources

    def _test_class(self, rows: list[Row], n_null: int) -> list[TestedCandidate]:
        """Test the candidates of a class.

        Those of a place come before those of concepts: they need one intervention only, and tell
        the place of a cue to the pixel. What all images of a class have contains every other cue.
        """
        places, concepts, styles, others = (
            [row for row in rows if row["kind"] in kinds]
            for kinds in ((AT_PLACE,), (CONCEPT,), (STYLE,), (COMMON, CONTEXT))
        )
        concepts.sort(key=lambda row: -row["statistic"] * row["contribution"])
        tested = list(self._test_divisions(places + concepts, n_null))
        is_explained = bool(self._claimed(tested))
        first = len(tested)
        for position, row in enumerate(styles + others, start=first):
            each = TestedCandidate(row, (row["class_index"], position))
            load = cache(partial(self._load, each))
            if is_explained and row["kind"] != STYLE:
                each.reason = "all images have the cue of another finding of the class"
            else:
                self.tester.test(each, load, CHANGES[row["kind"]])
            if row["kind"] == COMMON and not each.screened and not each.reason:
                each.reason = "the concept cannot be told from the object"
            if row["kind"] == CONTEXT and not concepts:
                self._test_at_random(each, load, n_null, CHANGES[CONTEXT])
            tested.append(each)
        return tested

    def _test_divisions(self, rows: list[Row], n_null: int) -> Iterator[TestedCandidate]:
        """Test divisions of a class, without images that the claimed ones before them explain."""
        explained: set[int] = set()
        to_permute = next((row for row in rows if row["kind"] == CONCEPT), None)
        for position, row in enumerate(rows):
            whole = TestedCandidate(row, (row["class_index"], position))
            load = cache(partial(self._load, whole))
            if row is to_permute:
                self._test_at_random(whole, load, n_null, OUTSIDE)
            new = [index for index in row["donor_index"] if index not in explained]
            tested = replace(whole, candidate={**row, "donor_index": new})
            if len(new) < max(MIN_NEW_IMAGES, MIN_NEW_SHARE * len(row["donor_index"])):
                tested.reason = "its images have the cue of another finding"
                yield tested
                continue
            if len(new) < len(row["donor_index"]):
                load = cache(partial(self._load, tested))
            self.tester.test(tested, load, CHANGES[row["kind"]])
            if self._claimed([tested]):
                explained.update(row["donor_index"])
            yield tested

    def _test_at_random(
        self,
        tested: TestedCandidate,
        load: Callable[[int], Sources | None],
        n_times: int,
        names: Collection[str],
    ) -> None:
        """Test random divisions of a candidate's images, with interventions that can confirm."""
        if not n_times:
            return
        halves = [load(half) for half in (SCREENING, TEST)]
        if None in halves:
            return
        for repeat in range(1, n_times + 1):
            null = TestedCandidate(tested.candidate, (*tested.key, repeat))
            rng = np.random.default_rng((self.seed, *null.key))
            permuted = [half.permute(rng) for half in halves if half]
            self.null_tests.append(self.tester.test(null, permuted.__getitem__, names))

    def _claimed(self, tested: list[TestedCandidate]) -> list[TestedCandidate]:
        """Those candidates that would be claimed if no others had been tested."""
        return [
            each
            for each in tested
            if verdicts.decide(
                each, {name: effect.p_value for name, effect in each.effects.items()}, self.limits
            ).verdict
        ]

    def _repeat_without_other_cues(
        self, tested: TestedCandidate, claimed: list[TestedCandidate]
    ) -> None:
        """Repeat a test without recipients that have a stronger claimed cue of their own class.

        An intervention may destroy the cue of a recipient, whose prediction then changes although
        nothing was added.
        """
        gain = _largest_gain(tested)
        stronger = [
            each
            for each in claimed
            if each.class_index != tested.class_index and _largest_gain(each) > gain
        ]
        having = {index for each in stronger for index in self._images_with_cue(each)}
        recipients = self.pool.of_other_classes(tested.class_index, TEST)
        has_cue = np.isin(recipients.index.cpu().numpy(), sorted(having))
        if not has_cue.any():
            return
        free = recipients.select(scenes.to_tensor(np.flatnonzero(~has_cue), recipients.pixels))
        if len(free) < MIN_RECIPIENTS:
            lacking = [self._tested_sources(each).without_cue for each in stronger]
            extra = scenes.concatenate(free, *lacking)
            free = extra.select(extra.classes != tested.class_index)
        rng = np.random.default_rng((self.seed, *tested.key, REPEAT))
        if len(free) < MIN_RECIPIENTS:
            tested.effects.clear()
            tested.reason = "all images of other classes have cues of their own"
            return
        sources = self._tested_sources(tested)
        for name in list(tested.effects):
            tested.effects[name] = self.tester.measure(
                tested, sources, INTERVENTIONS[name], rng, free
            )

    def _images_with_cue(self, tested: TestedCandidate) -> list[int]:
        rows = self.concepts(tested.candidate["candidate_id"])
        return [int(index) for index in rows.filter(rows["has_cue"])["index"].to_pylist()]


def _describe_cue(decision: Decision, with_cue: Scenes, others: Scenes) -> Description:
    name = decision.intervention
    if name == PLACE:
        return description.describe_place(np.array(decision.tested.candidate["cells"]))
    is_local = name != "background" or decision.is_local
    return description.describe_cue(name, with_cue, others, is_local=is_local)


def _removing(decision: Decision) -> Intervention:
    """The intervention that removes a claimed cue and changes the least.

    A cue with a place that was proven by a new background is removed from its place alone.
    """
    is_part = decision.is_local and decision.intervention == "background"
    return INTERVENTIONS["part" if is_part else decision.intervention]


def _largest_gain(tested: TestedCandidate) -> float:
    return max((effect.gain for effect in tested.effects.values()), default=0.0)
