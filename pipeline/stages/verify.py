"""The verify stage: tests every candidate by interventions on images and the model's predictions.

The sample of each class is split into two halves. With one half, every candidate is screened on a
few images of other classes. A candidate whose screening gain is large enough is tested with the
other half of the class and with other recipient images (analysis/verification/intervention_tests),
so that the test does not repeat the chance that selected the candidate.

A candidate is a *suspected* shortcut if the gain of the test (flip rate of adding the cue minus
that of the control)
- reaches analysis.min_effect, with a Benjamini-Hochberg q-value over all candidates below
  analysis.fdr,
- reaches the decision threshold from the gains of the same intervention for other classes
  (effects.decision_threshold): parts of objects, and whole small objects, are transplanted too, but
  for every class,
- and, by the lower bound of its 95 % confidence interval, reaches the share of the image that is
  transplanted: a cue is small compared with its effect.
The shortcut is *confirmed* if the median gain over the recipients' classes reaches half of
analysis.min_effect, so that the candidate is no mere likeness of two classes. All other candidates
are dropped. Of several findings about one cue, the one with the most precise region is kept.

Limits: a part of the object that is transplanted whole, and that for this class alone outweighs the
whole objects of most other classes, looks like a shortcut. Not found are a cue that several classes
share, a kind of cue in more than a quarter of the classes, a cue that does not outweigh an object,
and a moving cue where objects are so small that windows hold them whole.
"""

from __future__ import annotations

import itertools
import logging
from functools import partial

import numpy as np
import pyarrow as pa

from pipeline.analysis.shortcuts import class_sample
from pipeline.analysis.shortcuts.candidates import METADATA
from pipeline.analysis.verification import findings, random_head
from pipeline.analysis.verification.candidate_tester import CandidateTester
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.tested_candidate import (
    TestedCandidate,
    set_decision_thresholds,
)
from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.engine import precision
from pipeline.model.device import pick_device
from pipeline.run.state import Journal
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import FINDINGS, INTERVENTIONS, MEMBERS, Row

log = logging.getLogger(__name__)

SCHEMAS = {"findings": FINDINGS, "members": MEMBERS, "interventions": INTERVENTIONS}


def run(config: Config, journal: Journal) -> None:
    """Write findings.parquet, members.parquet and interventions.parquet.

    Raises:
        ConfigError: if the model is not the one that the explain stage used.
        DataError: for an image that can no longer be read.
        NotFinished: if discover has not run.
    """
    folder = RunFolder(config.folder)
    candidates = parquet.read(folder.analysis("candidates")).to_pylist()
    setup = run_folder.read_plan(folder, []).setup
    images = run_folder.rows(folder, setup)
    tested = _test_candidates(config, setup, images, candidates, journal)
    image_ids = partial(_image_ids, images)
    tables = findings.build_tables(config.analysis, tested, image_ids, setup.class_names)
    tables["findings"] += findings.findings_of_metadata(candidates)
    for name, schema in SCHEMAS.items():
        parquet.write(pa.Table.from_pylist(tables[name], schema), folder.analysis(name))


def _test_candidates(
    config: Config, setup: Setup, images: Rows, candidates: list[Row], journal: Journal
) -> list[TestedCandidate]:
    """Screen every candidate with an intervention, and test those with a gain in the screening."""
    by_class: dict[int, list[Row]] = {}
    for row in candidates:
        if row["kind"] != METADATA:
            by_class.setdefault(row["class_index"], []).append(row)
    if not by_class:
        return []
    per_class = config.analysis.sample_per_class
    sample = class_sample.draw_sample(images, setup, per_class, config.seed)
    runner = _make_runner(config, setup)
    tester = CandidateTester(runner, sample, config.analysis, config.seed)
    _check_heatmaps(tester, config.seed, journal)
    screened = {label: tester.screen(label, rows) for label, rows in by_class.items()}
    tested = list(itertools.chain.from_iterable(screened.values()))
    set_decision_thresholds(tested, config.analysis.min_effect)
    for label, of_class in screened.items():
        tested += [each for each in tester.test_class(label, of_class) if each not in of_class]
    _report_reliability(tested, tester, config, journal)
    return tested


def _check_heatmaps(tester: CandidateTester, seed: int, journal: Journal) -> None:
    """Warn if the heatmaps stay nearly the same when the model's head is randomised."""
    similarity = random_head.heatmap_similarity(tester.runner, tester.pool.screening, seed)
    journal.verification["map_similarity_random_head"] = similarity
    if similarity is not None and similarity > random_head.MAX_SIMILARITY:
        journal.warn(
            f"the heatmaps hardly depend on the model's head (rank correlation {similarity:.2f} "
            "with the heatmaps of a randomised head): they show where the target layer is active, "
            "not which evidence the prediction rests on"
        )


def _report_reliability(
    tested: list[TestedCandidate], tester: CandidateTester, config: Config, journal: Journal
) -> None:
    """Log the bound on false findings and the number of predictions; keep both in the journal."""
    everything = [*tested, *tester.null_candidates]
    found, comparisons = findings.count_false_alarms(everything, config.analysis)
    reliability = findings.describe_false_alarms(found, comparisons)
    n_predicted = tester.runner.n_predicted
    log.info("%s", reliability)
    log.info("the interventions took the model's predictions for %d images", n_predicted)
    journal.verification |= {
        "pseudo_classes": comparisons,
        "pseudo_classes_confirmed": found,
        "false_findings": reliability,
        "pictures_asked": n_predicted,
    }


def _image_ids(images: Rows, index: list[int]) -> dict[int, str]:
    """Read the image ids at positions in the plan."""
    table = images.at(np.array(index, np.int64), ["index", "image_id"])
    return dict(zip(table["index"].to_pylist(), table["image_id"].to_pylist(), strict=True))


def _make_runner(config: Config, setup: Setup) -> InterventionRunner:
    """Load the model and open the source.

    Raises:
        ConfigError: if the model is not the one that the explain stage used.
    """
    device = pick_device(config.device)
    classifier = precision.load_audited(config.model, setup.resolved, device, config.seed)
    source = open_source(config.dataset, config.data.max_pixels)
    ready = precision.prepare_as_resolved(classifier, setup.resolved)
    return InterventionRunner(ready, source.read, config.cam.method)
