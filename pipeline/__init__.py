"""camaudit: what an image classifier really looks at, over a whole dataset.

The functions for Python users, imported when they are first used (PyTorch takes seconds):

    run = pipeline.audit("dataset.root=photos", "model.name=resnet50")   # or the command camaudit
    run = pipeline.open_run("outputs/audit")
    run.suspects(), run.findings(), run.classes(), run.images(), run.heatmaps(ids), run.show(id)
    pipeline.explain(model, images), pipeline.overlay(image, heatmap), pipeline.panels(...)

Vocabulary, used in code, log and report alike:

    source image, recipient image   an intervention transplants content from the one to the other
    image with / without the cue    within one class, the two groups that are compared
    intervention                    a change of an image whose effect on the prediction is measured
    flip rate                       share of images whose prediction flips to, or from, a class
    effect, control, gain           flip rate of an intervention, of its control, the difference
    null gain, decision threshold   gain where there is no cue; the gain that a claim must exceed
    concept, candidate, finding     a direction of the target layer; what may be a shortcut; what is
                                    claimed, with a verdict: confirmed, property or suspected
    reliance                        share of a prediction's probability that rests on the cue
    group table, worst group        class x with / without the cue; the group of least accuracy
    target layer, backbone, head    the layer that is explained, the layers before and after it
    heatmap, dead map               Grad-CAM on the layer's own grid; a map that is zero everywhere
    top-2 heatmaps                  the heatmaps of the two most probable classes
    linear probe                    a linear classifier on stored features (label errors)
    shard, part, plan               images computed together; their committed file; all images
    partition                       the shards that one of several processes computes
    draft, commit, checksum         a file before it counts; the atomic replace; its digest
    resolved settings               what "auto" became; kept in the plan by every resume
    attempt, run record             one start of the command; run.json
    verify, check                   the stage of interventions; reading a table's bytes again
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api import Run, audit, open_run
    from pipeline.engine.explain import Explanation, explain
    from pipeline.report.overlay import overlay
    from pipeline.report.panels import panels

__version__ = "0.3.0.dev0"
__all__ = ["Explanation", "Run", "audit", "explain", "open_run", "overlay", "panels"]

_MODULES = {
    "Explanation": "engine.explain",
    "Run": "api",
    "audit": "api",
    "explain": "engine.explain",
    "open_run": "api",
    "overlay": "report.overlay",
    "panels": "report.panels",
}


def __getattr__(name: str) -> object:
    """Import a public function or class when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """The public names first of all, for dir() and the Tab key."""
    return sorted({*globals(), *__all__})
