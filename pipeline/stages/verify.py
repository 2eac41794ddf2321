"""verify: each candidate put to the test by changing pictures and asking the model again.

The sample of a class is split in two. With one half every candidate is screened on a few pictures
of other classes; what turns some of them is put on trial with the other half and other pictures
(proof/trial.py), so that the trial does not repeat the chance that led to it.

A candidate is a *suspected* shortcut where the trial's gain (effect minus control)
- reaches analysis.min_effect, with Benjamini-Hochberg q over all candidates below analysis.fdr,
- exceeds what the same intervention does for other classes (effects.hurdle): parts of objects, and
  small objects as a whole, carry over too, but then for every class,
- and surely (97.5 %) exceeds the share of the picture that was pasted: a cue is small against its
  effect,
and *confirmed* where it is half as large as analysis.min_effect in the median target class, so that
it is no likeness of two classes. Else it is dropped. Of several findings about one cue the one that
says most precisely where it is stays.

What this cannot tell apart: a part of the object that is carried over whole, and alone of all
classes outweighs the whole objects of most others, looks like a shortcut. Not found: a cue that
several classes share, one in more than a quarter of the classes, one that does not outweigh an
object, and, where objects are so small that they are moved as a whole, one that moves.
"""

from __future__ import annotations

import itertools
import logging
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.analysis.shortcuts import class_sample
from pipeline.analysis.shortcuts.candidates import METADATA
from pipeline.analysis.verification import findings, random_head
from pipeline.analysis.verification.candidate_tester import CandidateTester
from pipeline.analysis.verification.intervention_runner import InterventionRunner
from pipeline.analysis.verification.tested_candidate import TestedCandidate, set_hurdles
from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.engine import precision
from pipeline.errors import ConfigError
from pipeline.model.classifier import load_classifier
from pipeline.model.device import pick_device
from pipeline.run.state import Journal
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import FINDINGS, INTERVENTIONS, MEMBERS

log = logging.getLogger(__name__)

SCHEMAS = {"findings": FINDINGS, "members": MEMBERS, "interventions": INTERVENTIONS}


def run(config: Config, journal: Journal) -> None:
    """Write findings.parquet, members.parquet and interventions.parquet.

    Raises:
        ConfigError: a model other than the one that was explained.
        DataError: a picture that can be read no more.
        NotFinished: where discover has not run.
    """
    folder = RunFolder(config.folder)
    candidates = parquet.read(folder.analysis("candidates")).to_pylist()
    setup = run_folder.read_plan(folder, []).setup
    images = run_folder.rows(folder, setup)
    cases = _cases(config, setup, images, candidates, journal)
    about = (partial(_names, images), setup.class_names)
    told = findings.tables(config.analysis, cases, *about)
    told["findings"] += findings.of_metadata(candidates)
    for name, schema in SCHEMAS.items():
        parquet.write(pa.Table.from_pylist(told[name], schema), folder.analysis(name))


def _cases(
    config: Config, setup: Setup, images: Rows, rows: list[dict[str, Any]], journal: Journal
) -> list[TestedCandidate]:
    """Every candidate, screened, and tried where that is worth it."""
    by_class: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        if row["kind"] != METADATA:
            by_class.setdefault(row["class_index"], []).append(row)
    if not by_class:
        return []
    drawn = class_sample.draw(images, setup, config.analysis.sample_per_class, config.seed)
    examiner = CandidateTester(_bench(config, setup), drawn, config.analysis, config.seed)
    _check_maps(examiner, config.seed, journal)
    screened = {own: examiner.screen(own, candidates) for own, candidates in by_class.items()}
    cases = list(itertools.chain.from_iterable(screened.values()))
    set_hurdles(cases, config.analysis.min_effect)
    for own, of_class in screened.items():
        cases += [case for case in examiner.try_class(own, of_class) if case not in of_class]
    _tell(cases, examiner, config, journal)
    return cases


def _check_maps(examiner: CandidateTester, seed: int, journal: Journal) -> None:
    """Warn where the maps would be nearly the same, were the model's head another one."""
    alike = random_head.similarity(examiner.bench, examiner.pool.screening, seed)
    journal.verification["map_similarity_random_head"] = alike
    if alike is not None and alike > random_head.HARDLY:
        journal.warn(
            f"the heatmaps hardly depend on the model's head (rank correlation {alike:.2f} with "
            "those of a random one): they show where the layer is active, not what it decides by"
        )


def _tell(
    cases: list[TestedCandidate], examiner: CandidateTester, config: Config, journal: Journal
) -> None:
    """Log and keep what this run's verdicts are worth, and what they cost."""
    found, tried = findings.false_alarms([*cases, *examiner.chance], config.analysis)
    expected = findings.expectation(found, tried)
    log.info("%s", expected)
    log.info("%d pictures were changed and asked about", examiner.bench.asked)
    journal.verification |= {
        "pseudo_classes": tried,
        "pseudo_classes_confirmed": found,
        "false_findings": expected,
        "pictures_asked": examiner.bench.asked,
    }


def _names(images: Rows, index: list[int]) -> dict[int, str]:
    """Image ids by plan position."""
    table = images.at(np.array(index, np.int64), ["index", "image_id"])
    return dict(zip(table["index"].to_pylist(), table["image_id"].to_pylist(), strict=True))


def _bench(config: Config, setup: Setup) -> InterventionRunner:
    device = pick_device(config.device)
    classifier = load_classifier(config.model, device, config.seed)
    if classifier.fingerprint != setup.decided["model.fingerprint"]:
        raise ConfigError(
            "the model is not the one that was explained; run the explain stage first"
        )
    source = open_source(config.dataset, config.data.max_pixels)
    ready = precision.as_decided(classifier, setup.decided)
    return InterventionRunner(ready, source.read, config.cam.method)
