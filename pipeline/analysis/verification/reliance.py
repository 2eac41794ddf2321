"""Which images carry a cue that was found, and how far the prediction of each rests on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from pipeline.analysis.shortcuts import candidates
from pipeline.analysis.shortcuts.regions import Cells
from pipeline.analysis.verification import effects, illustration, interventions, trial
from pipeline.analysis.verification.intervention_runner import InterventionRunner, numbers
from pipeline.analysis.verification.interventions import ImageBatch, Intervention
from pipeline.analysis.verification.localise import grown
from pipeline.analysis.verification.tested_candidate import TestedCandidate
from pipeline.analysis.verification.trial import Floats, Rng

HOSTS = 8
"""Pictures that an image's cue is added to, to see whether it carries one."""
MOST_WIDENED = 60
"""Images by which it is told how far a place reaches."""
STEP = 1.05
"""Factor of the loss by which a step in widening it must be worth it."""
FEW_FILLS = 2


@dataclass
class Reliance:
    """The images of a class, pictures of other classes, and the model that is asked."""

    bench: InterventionRunner
    own: ImageBatch
    hosts: ImageBatch
    class_index: int
    rng: Rng

    def examine(self, case: TestedCandidate) -> None:
        """Fill in the wearers of a case, what images lose without its cue, and pictures of it."""
        own, hosts = self.own, self.hosts
        donors, fillers = own, hosts
        if case.probe.kind == candidates.BACKGROUND and case.area == 1:
            # For one picture it matters where exactly its object ends.
            case.probe = interventions.surroundings()
            (own, donors), (hosts, fillers) = self._outlined
        about = (self.class_index, self.rng)
        case.wearers = wearers(self.bench, case.probe, donors, fillers, hosts, *about)
        self._widen(case)
        case.removed = trial.remove(self.bench, case.probe, own, fillers, *about)
        carry = [illustration.worn(scenes, case.wearers) for scenes in (own, donors)]
        shown = (carry[0], hosts, carry[1], fillers)
        case.illustrations = illustration.of_cue(self.bench, case.probe, *shown)

    @cached_property
    def _outlined(self) -> list[tuple[ImageBatch, ImageBatch]]:
        """The class's images and others, with their objects' outlines and without objects."""
        outlined = [interventions.outlined(scenes) for scenes in (self.own, self.hosts)]
        return [(scenes, interventions.cleared(scenes)) for scenes in outlined]

    def _widen(self, case: TestedCandidate) -> None:
        """Widen what is removed of a place to all that its wearers lose by.

        A cue that does not stand still reaches over the cells that all have in common. What a
        wider place takes from objects, it takes from those of other classes too, and is deducted.
        """
        if case.candidate["kind"] not in candidates.PLACES or not case.wearers:
            return
        worn = torch.isin(self.own.index, self.own.index.new_tensor(case.wearers))
        both = [_first(scenes, MOST_WIDENED) for scenes in (self.own.at(worn), self.hosts)]
        fills = [
            [trial.drawn(self.hosts, len(scenes), self.rng) for _ in range(FEW_FILLS)]
            for scenes in both
        ]
        before = [trial.kept(self.bench, scenes, scenes.pictures) for scenes in both]

        def gain(cells: Cells) -> float:
            probe = interventions.fixed("patch", cells, cells)
            lost, control = (
                trial.loss(self.bench, probe, *about).mean()
                for about in zip(both, fills, before, strict=True)
            )
            return float(lost - control)

        extent = grown(gain, np.asarray(case.candidate["cells"], bool), STEP)
        wider = interventions.fixed(case.probe.kind, extent, extent)
        case.probe = replace(case.probe, remove=wider.remove, where=wider.where)


def wearers(
    bench: InterventionRunner,
    probe: Intervention,
    donors: ImageBatch,
    others: ImageBatch,
    hosts: ImageBatch,
    class_index: int,
    rng: Rng,
) -> list[int]:
    """Plan positions of the donors that carry the cue.

    What they carry over to the hosts speaks for the class more than what donors of other classes
    carry over, by the threshold that tells the two best.
    """
    about = (bench, probe, hosts, class_index, rng)
    carried, null = _carried(donors, *about), _carried(others, *about)
    worn = carried > effects.apart(carried, null)
    return sorted(numbers(donors.index)[worn].tolist())


def _carried(
    donors: ImageBatch,
    bench: InterventionRunner,
    probe: Intervention,
    hosts: ImageBatch,
    class_index: int,
    rng: Rng,
) -> Floats:
    """The probability of the class that each donor's cue adds to HOSTS other pictures (n,)."""
    before = bench.probabilities(hosts.pictures)[:, class_index]
    gained = np.zeros(len(donors), np.float32)
    for _ in range(HOSTS):
        rows = trial.rows(len(hosts), len(donors), rng)
        after = bench.probabilities(probe.transplant(hosts.at(rows), donors))[:, class_index]
        gained += (after - before[rows.numpy()]) / HOSTS
    return gained


def _first(scenes: ImageBatch, n: int) -> ImageBatch:
    return scenes.at(torch.arange(min(n, len(scenes))))
