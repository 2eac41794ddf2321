"""All candidates of a class: screened with one half of its images, tried with the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config import AnalysisConfig
from pipeline.proof import trial
from pipeline.proof.bench import Bench, Ints, numbers
from pipeline.proof.localise import localise, shrunk
from pipeline.proof.trial import Added, Removed
from pipeline.shortcuts import candidates, effects, probes
from pipeline.shortcuts.effects import Bools
from pipeline.shortcuts.probes import Probe, Scenes
from pipeline.shortcuts.regions import Cells
from pipeline.shortcuts.sample import Sample

Row = dict[str, Any]
Plain = tuple[Ints, Ints, Ints]

FEW = 4
"""Fewer donors than this are not taken for a group of their own."""
PRECISE = 0.7
"""Share of the largest gain of a class at which a smaller region is the better description."""
KEPT = 0.95
"""Share of its gain that a place must keep while it is cut back."""
SAME = 0.5
"""A candidate that loses more than this share of its gain without another is the same cue."""
MOST_AREA = 0.5
"""Share of the picture that a place may take to be one."""
MOST_TRIED = 6
"""Candidates of a class that are tried, those with the largest gain on screening."""


@dataclass(eq=False)
class Case:
    """A candidate, and what was found out about it.

    screened is the gain on screening, pseudo what the two halves of the class do against each
    other, added and removed the trial; carriers tells, by plan position, how much each image's cue
    adds to others; same_as names the case that is the same cue, told more precisely.
    """

    candidate: Row
    probe: Probe
    screened: float
    pseudo: list[Added]
    hurdle: float = 0.0
    added: Added | None = None
    removed: Removed = trial.NOT_REMOVED
    carriers: dict[int, float] = field(default_factory=dict)
    same_as: str | None = None

    @property
    def category(self) -> tuple[str, bool]:
        """Cases of one category are compared between classes."""
        return self.candidate["probe"], self.candidate["donor_index"] is not None

    @property
    def gain(self) -> float:
        """The gain on trial, 0 where there was none."""
        return self.added.effect.gain if self.added else 0.0

    @property
    def pasted(self) -> float:
        """Share of a picture that comes from another, 0 where it varies or is statistics alone."""
        carries_pixels = self.candidate["probe"] != candidates.TEXTURE
        return self.area if self.area < 1 and carries_pixels else 0.0

    @property
    def area(self) -> float:
        """Share of the picture that the candidate names, 1 where it has no place."""
        cells = self.candidate["cells"]
        return 1.0 if cells is None else float(np.mean(cells))


@dataclass(frozen=True)
class Pool:
    """Pictures of all classes, of which the model is sure, for screening and for trials."""

    screening: Scenes
    trial: Scenes

    @classmethod
    def draw(cls, bench: Bench, drawn: Sample, trials: int, rng: np.random.Generator) -> Pool:
        """Of every class alike, from its surer half: `trials` others for each class and purpose."""
        rank = np.full(len(drawn.index), len(drawn.index))
        labels = np.unique(drawn.classes)
        for label in labels:
            own = rng.permutation(np.flatnonzero(drawn.classes == label))
            sure = own[drawn.confidence[own] >= np.median(drawn.confidence[own])]
            rank[sure] = np.arange(len(sure))
        wanted = 2 * trials * len(labels) // max(1, len(labels) - 1)
        order = np.argsort(rank + rng.random(len(rank)) / 2)[:wanted]
        chosen = order[rank[order] < len(rank)]
        halves = [np.sort(drawn.index[chosen[rank[chosen] % 2 == half]]) for half in (0, 1)]
        if not len(halves[1]):  # a picture of each class is all there is
            halves = [halves[0], halves[0]]
        return cls(*(bench.scenes(half) for half in halves))


class Examiner:
    """Puts candidates to the test, class by class; memory holds the pool and one class."""

    def __init__(self, bench: Bench, drawn: Sample, limits: AnalysisConfig, seed: int) -> None:
        self.bench, self.drawn, self.limits, self.seed = bench, drawn, limits, seed
        self.pool = Pool.draw(bench, drawn, limits.trials, np.random.default_rng(seed))
        self._plain: dict[str, Plain] = {}

    def screen(self, class_index: int, rows: list[Row]) -> list[Case]:
        """Every candidate of a class, on half as many pictures as a trial takes."""
        rng, own = self._rng(class_index, 0), self._scenes(class_index)
        hosts = _others(self.pool.screening, class_index)
        if not (len(hosts) and len(own)):
            return []
        return [self._screened(row, own, hosts, class_index, rng) for row in rows]

    def _screened(
        self, row: Row, own: Scenes, hosts: Scenes, class_index: int, rng: np.random.Generator
    ) -> Case:
        probe = candidates.probe_of(row)
        n = max(1, self.limits.trials // 2)
        targets, _ = trial.pairs(hosts, hosts, n, rng)
        turned: list[Bools] = []
        for half in (0, 1):
            donors = _half(_donors(own, row), half)
            _, carriers = trial.pairs(targets, donors, len(targets), rng)
            turned.append(self.bench.transplant(probe, targets, carriers) == class_index)
        classes = numbers(targets.classes)
        pseudo = [_added(a, b, classes, rng) for a, b in (turned, turned[::-1])]
        gain = float(turned[0].mean()) - self._control(row, probe, class_index)
        return Case(row, probe, gain, pseudo)

    def _control(self, row: Row, probe: Probe, class_index: int) -> float:
        """Share of pictures that turn into the class by what other classes' images have there."""
        if row["probe"] == candidates.REGION:
            return 0.0  # of no other class; the trial has a control of its own
        if row["probe"] not in self._plain:
            rng = np.random.default_rng(self.seed)
            pool = self.pool.screening
            hosts, _ = trial.pairs(pool, pool, self.limits.trials, rng)
            donors = trial.other_class(hosts, pool, rng)
            said = self.bench.transplant(probe, hosts, donors)
            self._plain[row["probe"]] = numbers(hosts.classes), numbers(donors.classes), said
        hosts_are, donors_are, said = self._plain[row["probe"]]
        others = (hosts_are != class_index) & (donors_are != class_index)
        return float((said[others] == class_index).mean()) if others.any() else 0.0

    def try_class(self, class_index: int, cases: list[Case]) -> list[Case]:
        """Trials of those cases of a class that screening speaks for; new ones where it is told
        more precisely where they lie.
        """
        promising = [case for case in cases if case.screened >= self.limits.min_effect / 2]
        promising = sorted(promising, key=lambda case: -case.screened)[:MOST_TRIED]
        if not promising:
            return []
        rng, own = self._rng(class_index, 1), self._scenes(class_index)
        hosts = _others(self.pool.trial, class_index)
        for case in promising:
            self._try(case, own, hosts, class_index, rng)
        promising += self._localised(promising, own, class_index, rng)
        standing = [case for case in promising if self._stands(case)]
        for case in self._distinct(standing, own, hosts, class_index, rng):
            self._shrink(case, own, class_index, rng)
            self._trace(case, promising, own, hosts, class_index, rng)
            case.removed = trial.remove(self.bench, case.probe, own, hosts, class_index, rng)
            case.carriers = trial.carriers(self.bench, case.probe, own, hosts, class_index, rng)
        return promising

    def _try(
        self, case: Case, own: Scenes, hosts: Scenes, class_index: int, rng: np.random.Generator
    ) -> None:
        donors = _half(_donors(own, case.candidate), 1)
        n = self.limits.trials
        case.added = trial.add(self.bench, case.probe, donors, hosts, class_index, n, rng)

    def _stands(self, case: Case) -> bool:
        return (
            case.added is not None
            and case.gain >= max(self.limits.min_effect, case.hurdle)
            and case.added.effect.p_value < self.limits.fdr
        )

    def _localised(
        self, cases: list[Case], own: Scenes, class_index: int, rng: np.random.Generator
    ) -> Iterator[Case]:
        """The place of a cue in the background, where no region that was tried holds it."""
        standing = [case for case in cases if self._stands(case)]
        behind = [c for c in standing if c.candidate["probe"] == candidates.BACKGROUND]
        held = max((c.gain for c in standing if c.candidate["cells"] is not None), default=0.0)
        if not behind or held >= PRECISE * max(case.gain for case in behind):
            return
        best = max(behind, key=lambda case: case.gain)
        hosts, n = _others(self.pool.screening, class_index), 4 * self.limits.trials
        donors = _half(_donors(own, best.candidate), 0)
        cells = localise(self.bench, donors, hosts, class_index, n, rng)
        if cells is None or cells.mean() > MOST_AREA:
            return
        place = candidates.in_place(cells, candidates.BACKGROUND)
        row = {**best.candidate, **place, "raised_by": "windows that turn pictures"}
        row["candidate_id"] = candidates.identity(row)
        case = Case(row, candidates.probe_of(row), best.screened, [], best.hurdle)
        case.hurdle = max(case.hurdle, case.pasted)
        self._try(case, own, _others(self.pool.trial, class_index), class_index, rng)
        yield case

    def _shrink(self, case: Case, own: Scenes, class_index: int, rng: np.random.Generator) -> None:
        """Cut a place back to what the effect needs, and try that; else it stays as it is."""
        if case.candidate["kind"] not in ("patch", "region"):
            return
        donors = _half(_donors(own, case.candidate), 0)
        others, n = _others(self.pool.screening, class_index), max(1, self.limits.trials // 2)
        targets, carriers = trial.pairs(others, donors, n, rng)

        def gain(cells: Cells) -> float:
            probe = probes.fixed("patch", cells)
            said = self.bench.transplant(probe, targets, carriers)
            return float((said == class_index).mean())

        start = np.asarray(case.candidate["cells"], bool)
        cells = shrunk(gain, start, KEPT * gain(start))
        row = {**case.candidate, **candidates.in_place(cells, case.candidate["probe"])}
        smaller = replace(case, candidate=row, probe=probes.fixed(row["kind"], cells))
        self._try(smaller, own, _others(self.pool.trial, class_index), class_index, rng)
        if self._stands(smaller) and smaller.gain >= PRECISE * case.gain:
            case.candidate, case.probe, case.added = row, smaller.probe, smaller.added

    def _trace(
        self,
        case: Case,
        cases: list[Case],
        own: Scenes,
        hosts: Scenes,
        class_index: int,
        rng: np.random.Generator,
    ) -> None:
        """Tell a background by what moves in it, where it does little without that."""
        if case.candidate["probe"] != candidates.BACKGROUND or case.area < 1:
            return
        for other in cases:
            works = other.gain >= self.limits.min_effect and other.probe.kind == "moving"
            if works and self._explains(other, case, own, hosts, class_index, rng):
                case.candidate = {**case.candidate, "kind": "moving"}
                case.probe = replace(other.probe, transplant=case.probe.transplant)
                return

    def _distinct(
        self,
        cases: list[Case],
        own: Scenes,
        hosts: Scenes,
        class_index: int,
        rng: np.random.Generator,
    ) -> list[Case]:
        """Those that are cues of their own; the others are told which they are the same as."""
        explains = {
            (id(cause), id(case)): self._explains(cause, case, own, hosts, class_index, rng)
            for cause, case in itertools.permutations(cases, 2)
        }
        kept, left = [], list(cases)
        while left:
            best = min(left, key=_preference(left, explains))
            kept.append(best)
            left.remove(best)
            for case in [case for case in left if explains[id(best), id(case)]]:
                case.same_as = best.candidate["candidate_id"]
                left.remove(case)
        return kept

    def _explains(
        self,
        cause: Case,
        case: Case,
        own: Scenes,
        hosts: Scenes,
        class_index: int,
        rng: np.random.Generator,
    ) -> bool:
        """Whether a case does little once its donors are rid of the cause, or shares its place."""
        scattered = case.candidate["cells"] is None and cause.candidate["cells"] is None
        if scattered and case.probe.kind == cause.probe.kind:
            return True  # two groups, or two sizes of the window
        donors = _half(_donors(own, case.candidate), 1)
        if _shared_place(case.probe, cause.probe, donors) > SAME:
            return True
        cleaned = trial.without(cause.probe, donors, hosts, rng)
        n = max(1, self.limits.trials // 2)
        left = trial.add(self.bench, case.probe, cleaned, hosts, class_index, n, rng)
        return left.effect.gain < (1 - SAME) * case.gain

    def _scenes(self, class_index: int) -> Scenes:
        """The sampled images of a class, as far as they are still predicted so."""
        scenes = self.bench.scenes(self.drawn.index[self.drawn.classes == class_index])
        return scenes.at(scenes.classes == class_index)

    def _rng(self, class_index: int, part: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, class_index, part))


def set_hurdles(cases: list[Case], least: float) -> None:
    """What each case must exceed, from what its category did for other classes on screening."""
    by_category: dict[tuple[str, bool], list[Case]] = {}
    for case in cases:
        by_category.setdefault(case.category, []).append(case)
    for alike in by_category.values():
        best: dict[int, float] = {}
        for case in alike:
            own = case.candidate["class_index"]
            best[own] = max(best.get(own, -1.0), case.screened)
        for case in alike:
            others = [gain for own, gain in best.items() if own != case.candidate["class_index"]]
            case.hurdle = effects.hurdle(np.array(others), least, case.pasted)


def _preference(cases: list[Case], explains: dict[tuple[int, int], bool]) -> Any:
    """Sorts the case that explains most others first; then the smallest place, then by gain.

    A background that is no more than one of the others says least about what to look for.
    """
    most = max((case.gain for case in cases), default=0.0)

    def key(case: Case) -> tuple[int, bool, float, bool, float]:
        explained = sum(explains[id(case), id(other)] for other in cases if other is not case)
        precise = case.area < 1 and case.gain >= PRECISE * most
        vague = case.probe.kind == "background"
        return -explained, not precise, case.area if precise else 0.0, vague, -case.gain

    return key


def _shared_place(one: Probe, other: Probe, donors: Scenes) -> float:
    """How far a place and what moves are the same in the donors: overlap over the smaller area."""
    if one.where is None or other.where is None:
        return 0.0
    masks = [
        where(donors).expand(len(donors), 1, *donors.size) for where in (one.where, other.where)
    ]
    areas = torch.stack([mask.sum(dim=(1, 2, 3)) for mask in masks]).amin(dim=0)
    shared = (masks[0] & masks[1]).sum(dim=(1, 2, 3)) / areas.clamp_min(1)
    return float(shared.mean())


def _added(hit: Bools, control: Bools, classes: Ints, rng: np.random.Generator) -> Added:
    return Added(effects.compare(hit, control, rng), effects.typical_gain(hit, control, classes))


def _others(scenes: Scenes, class_index: int) -> Scenes:
    return scenes.at(scenes.classes != class_index)


def _donors(own: Scenes, row: Row) -> Scenes:
    """The images of a class that a candidate names, or all where it names few or none."""
    named = torch.as_tensor(row["donor_index"] or [], device=own.index.device, dtype=torch.int64)
    chosen = own.at(torch.isin(own.index, named))
    return chosen if len(chosen) >= FEW else own


def _half(scenes: Scenes, half: int) -> Scenes:
    """Every second image, in an order that has nothing to do with the plan's."""
    order: NDArray[np.int64] = np.random.default_rng(len(scenes)).permutation(len(scenes))
    return scenes.at(torch.from_numpy(np.sort(order[half::2] if len(order) > 1 else order)))
