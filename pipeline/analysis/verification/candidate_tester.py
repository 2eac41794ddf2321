"""Screening and test of the candidates of all classes, each with its own half of the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification import image_pool, intervention_tests, interventions
from pipeline.analysis.verification.class_tester import ClassTester
from pipeline.analysis.verification.effects import Bools
from pipeline.analysis.verification.image_batch import ImageBatch, to_numpy
from pipeline.analysis.verification.image_pool import ImagePool
from pipeline.analysis.verification.intervention_runner import InterventionRunner, Ints
from pipeline.analysis.verification.intervention_tests import AddingEffect
from pipeline.analysis.verification.interventions import Intervention
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.config import AnalysisConfig
from pipeline.storage.schema import Row

ControlRun = tuple[Ints, Ints, Ints]
"""Classes (n,) of the recipients and of the sources, and predicted classes after the transplant."""

OTHER_HALF = -1
"""Class index, in a sample, of the half of a class that serves as "other class" of the null."""
MAX_TESTED = 6
"""Most candidates of a class that are tested: those with the largest screening gains."""


class CandidateTester:
    """Tests candidates class by class; memory holds the pool and the images of one class."""

    def __init__(
        self, runner: InterventionRunner, sample: ClassSample, limits: AnalysisConfig, seed: int
    ) -> None:
        """Draw the pool of recipients.

        Args:
            runner: the model.
            sample: the sample of images that discover drew.
            limits: the analysis settings.
            seed: seed of all draws.

        Raises:
            DataError: for an image that can no longer be read.
        """
        self.runner, self.sample, self.limits, self.seed = runner, sample, limits, seed
        rng = np.random.default_rng(seed)
        self.pool = ImagePool.draw(runner, sample, limits.trials, rng)
        self.null_candidates: list[TestedCandidate] = []
        """Candidates that discover finds in one half of a class compared with the other half."""
        self._control_runs: dict[str, ControlRun] = {}

    def screen(self, class_index: int, rows: list[Row]) -> list[TestedCandidate]:
        """Screen every candidate of a class, on half as many images as a test takes.

        Args:
            class_index: the class.
            rows: its rows of CANDIDATES.

        Returns:
            A tested candidate for each row; none if the class or all others have no images.
        """
        rng, own = self._rng(class_index, 0), self._load_class(class_index)
        recipients = image_pool.of_other_classes(self.pool.screening, class_index)
        if not (len(recipients) and len(own)):
            return []
        self.null_candidates += self._screen_halves(rows, own, recipients, class_index)
        return [self._screen_row(row, own, recipients, class_index, rng) for row in rows]

    def test_class(
        self, class_index: int, screened: list[TestedCandidate]
    ) -> list[TestedCandidate]:
        """Test the candidates of a class whose screening gain reaches half of min_effect.

        Args:
            class_index: the class.
            screened: its screened candidates; the tested ones are changed in place.

        Returns:
            The tested candidates, and new ones whose regions were localised.
        """
        promising = [each for each in screened if each.screening_gain >= self.limits.min_effect / 2]
        promising = sorted(promising, key=lambda each: -each.screening_gain)[:MAX_TESTED]
        if not promising:
            return []
        own, rng = self._load_class(class_index), self._rng(class_index, 1)
        tester = ClassTester(self.runner, self.limits, class_index, own, self.pool, rng)
        return tester.run(promising)

    def _screen_halves(
        self, rows: list[Row], own: ImageBatch, recipients: ImageBatch, class_index: int
    ) -> Iterator[TestedCandidate]:
        """Discover and screen candidates of each half of a class, as if it were a class."""
        rng = self._rng(class_index, 2)
        sample = self.sample.select(np.isin(self.sample.index, to_numpy(own.index)))
        for number in (0, 1):
            half, other = (
                image_pool.select_half(own, number),
                image_pool.select_half(own, 1 - number),
            )
            if min(len(half), len(other)) < candidates.MIN_IMAGES:
                continue
            inside = np.isin(sample.index, to_numpy(half.index))
            split = replace(sample, classes=np.where(inside, class_index, OTHER_HALF))
            for row in candidates.find_specific_candidates(
                rows[0]["class_name"], class_index, split, self.limits.permutations, rng
            ):
                null = self._compare_halves(row, half, other, recipients, class_index, rng)
                intervention = interventions.intervention_of(row)
                yield TestedCandidate(row, intervention, 0.0, {number: null})

    def _compare_halves(
        self,
        row: Row,
        half: ImageBatch,
        other: ImageBatch,
        recipients: ImageBatch,
        class_index: int,
        rng: np.random.Generator,
    ) -> AddingEffect:
        """Effect of a candidate of one half of a class, with the other half as control."""
        named = image_pool.select_sources(half, row)
        targets, sources = intervention_tests.draw_pairs(recipients, named, self._n_screening, rng)
        control_sources = intervention_tests.draw_images(other, self._n_screening, rng)
        intervention = interventions.intervention_of(row)
        flipped, control = (
            self.runner.predict_transplant(intervention, targets, each) == class_index
            for each in (sources, control_sources)
        )
        return intervention_tests.compare_adding(flipped, control, targets, rng)

    @property
    def _n_screening(self) -> int:
        """Number of transplants in the screening of a candidate."""
        return max(1, self.limits.trials // 2)

    def _screen_row(
        self,
        row: Row,
        own: ImageBatch,
        recipients: ImageBatch,
        class_index: int,
        rng: np.random.Generator,
    ) -> TestedCandidate:
        intervention = interventions.intervention_of(row)
        targets = intervention_tests.draw_images(recipients, self._n_screening, rng)
        flipped: list[Bools] = []
        for half in (0, 1):
            named = image_pool.select_half(image_pool.select_sources(own, row), half)
            _, sources = intervention_tests.draw_pairs(targets, named, len(targets), rng)
            predicted = self.runner.predict_transplant(intervention, targets, sources)
            flipped.append(predicted == class_index)
        null_effects = {
            half: intervention_tests.compare_adding(flipped[half], flipped[1 - half], targets, rng)
            for half in (0, 1)
        }
        gain = float(flipped[0].mean()) - self._control_rate(row, intervention, class_index)
        return TestedCandidate(row, intervention, gain, null_effects)

    def _control_rate(self, row: Row, intervention: Intervention, class_index: int) -> float:
        """Flip rate to a class when neither the recipient nor the source is of that class.

        The transplants between all classes are run once for each general intervention. A region
        belongs to one class alone; its control is left to the test, and the rate here is 0.
        """
        name = row["probe"]
        if name == candidates.REGION or name in candidates.LOCAL_KINDS:
            return 0.0
        if name not in self._control_runs:
            self._control_runs[name] = self._run_control(intervention)
        recipient_classes, source_classes, predicted = self._control_runs[name]
        others = (recipient_classes != class_index) & (source_classes != class_index)
        return float((predicted[others] == class_index).mean()) if others.any() else 0.0

    def _run_control(self, intervention: Intervention) -> ControlRun:
        rng = np.random.default_rng(self.seed)
        pool = self.pool.screening
        recipients, _ = intervention_tests.draw_pairs(pool, pool, self.limits.trials, rng)
        sources = intervention_tests.draw_of_other_class(recipients, pool, rng)
        predicted = self.runner.predict_transplant(intervention, recipients, sources)
        return to_numpy(recipients.classes), to_numpy(sources.classes), predicted

    def _load_class(self, class_index: int) -> ImageBatch:
        """Load the sampled images of a class that the model still predicts as the class."""
        images = self.runner.load_images(self.sample.index[self.sample.classes == class_index])
        return images.select(images.classes == class_index)

    def _rng(self, class_index: int, stream: int) -> np.random.Generator:
        """Random generator of one class: stream 0 screens, 1 tests, 2 screens halves."""
        return np.random.default_rng((self.seed, class_index, stream))
