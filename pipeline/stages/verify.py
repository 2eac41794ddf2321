"""The verify stage: tests every candidate by interventions on images and the model's predictions.

A candidate divides the sampled images of a class into those with and those without a possible cue.
Content of an image with the cue, and of an image without it, is put into the same image of another
class in the same way; the gain is the difference of the two flip rates. What all objects of the
class do, both do. Every intervention is screened with one half of the images, and tested with the
other half (analysis/verification/candidate_tests).

A cue that all images of a class have divides it by nothing. Concepts that only this class has, and
its context, which is all that surrounds its objects, are compared with images of other classes.

The verdicts are decided in analysis/verification/verdicts: *confirmed* if an intervention that
leaves the objects out has the effect, *property* if only content of the object has it, *suspected*
if the effect is limited to recipients of few classes.

Limits: a cue that all images of a class have is not found where it covers the object. A cue on the
object cannot be told from a property of the object. Where the layer does not hold a cue at its own
place, as in a vision transformer's last blocks, it cannot be transplanted.
"""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa

from pipeline.analysis.audited_model import AuditedModel
from pipeline.analysis.shortcuts import class_sample
from pipeline.analysis.shortcuts.candidate_rows import METADATA
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.analysis.verification import findings, random_head
from pipeline.analysis.verification.image_pool import SCREENING, ImagePool
from pipeline.analysis.verification.verdicts import Decision
from pipeline.analysis.verification.verifier import Verifier
from pipeline.config import Config
from pipeline.run.state import Journal
from pipeline.storage import parquet, run_folder
from pipeline.storage.run_folder import RunFolder
from pipeline.storage.run_setup import Setup
from pipeline.storage.scan import Rows
from pipeline.storage.schema import FINDINGS, INTERVENTIONS, MEMBERS, TRIALS, Row

log = logging.getLogger(__name__)

SCHEMAS = {
    "findings": FINDINGS,
    "members": MEMBERS,
    "interventions": INTERVENTIONS,
    "trials": TRIALS,
}


def run(config: Config, journal: Journal) -> None:
    """Write findings, members, interventions and trials.parquet.

    Raises:
        ConfigError: if the model is not the one that the explain stage used.
        DataError: for an image that can no longer be read.
        NotFinished: if discover has not run.
    """
    folder = RunFolder(config.folder)
    candidates = parquet.read(folder.analysis("candidates")).to_pylist()
    setup = run_folder.read_plan(folder, []).setup
    images = run_folder.rows(folder, setup)
    tables: dict[str, list[Row]] = {name: [] for name in SCHEMAS}
    testable = [row for row in candidates if row["kind"] != METADATA]
    sample = class_sample.draw_sample(images, config.analysis.sample_per_class, config.seed)
    if len(sample.index):
        concepts = parquet.RowGroups.open(folder.analysis("concepts"), "candidate_id")
        tables |= _verify(config, setup, images, sample, testable, concepts, journal)
    tables["findings"] += findings.findings_of_metadata(candidates)
    for name, schema in SCHEMAS.items():
        parquet.write(pa.Table.from_pylist(tables[name], schema), folder.analysis(name))


def _verify(
    config: Config,
    setup: Setup,
    images: Rows,
    sample: ClassSample,
    candidates: list[Row],
    concepts: parquet.RowGroups,
    journal: Journal,
) -> dict[str, list[Row]]:
    """Test candidates, and build the rows of all tables; the heatmaps are checked in any case."""
    model = AuditedModel.load(config, setup)
    rng = np.random.default_rng(config.seed)
    pool = ImagePool.draw(model, sample, config.analysis.trials, rng)
    _check_heatmaps(model, pool, config, journal)
    verification = Verifier(model, pool, config.analysis, setup.grid, concepts.rows, config.seed)
    decisions = verification.run(candidates)
    found = [
        verification.describe(each, each.verdict) for each in decisions if each.verdict is not None
    ]
    _report_reliability(verification, decisions, journal)
    image_ids = _image_ids(images, findings.named_images(found))
    return {
        **findings.build_tables(found, image_ids, setup.class_names),
        "trials": list(findings.trial_rows(decisions)),
    }


def _check_heatmaps(model: AuditedModel, pool: ImagePool, config: Config, journal: Journal) -> None:
    """Warn if the heatmaps stay nearly the same when the model's head is randomised."""
    pixels = pool.halves[SCREENING].pixels.byte()
    similarity = random_head.heatmap_similarity(model, pixels, config.cam.method, config.seed)
    journal.verification["map_similarity_random_head"] = similarity
    if similarity is not None and similarity > random_head.MAX_SIMILARITY:
        journal.warn(
            f"the heatmaps hardly depend on the model's head (rank correlation {similarity:.2f} "
            "with the heatmaps of a randomised head): they show where the target layer is active, "
            "not which evidence the prediction rests on"
        )


def _report_reliability(
    verification: Verifier, decisions: list[Decision], journal: Journal
) -> None:
    """Log the bound on false findings and the number of predictions; keep both in the journal."""
    found, comparisons = verification.count_false_alarms()
    reliability = findings.describe_false_alarms(found, comparisons)
    n_predicted = verification.model.n_predicted
    log.info("%s", reliability)
    log.info("the interventions took the model's predictions for %d images", n_predicted)
    journal.verification |= {
        "pseudo_classes": comparisons,
        "pseudo_classes_confirmed": found,
        "false_findings": reliability,
        "pictures_asked": n_predicted,
        "candidates_tested": len(decisions),
    }


def _image_ids(images: Rows, index: list[int]) -> dict[int, str]:
    """Read the image ids at positions in the plan."""
    table = images.at(np.array(index, np.int64), ["index", "image_id"])
    return dict(zip(table["index"].to_pylist(), table["image_id"].to_pylist(), strict=True))
