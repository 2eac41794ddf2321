"""One candidate on trial: added to pictures of other classes, taken out of its own.

add - what the probe takes from images of the class goes into images of every other class, of which
  the model is sure; control: the same from images of other classes, into the same pictures.
remove - in images of the class it is replaced by what images of other classes have there; control:
  an equally large place elsewhere is replaced in the same way, or, where the probe changes the
  whole picture or statistics of a place, what is put in comes from images of the same class.
Adding proves; removing does not, as it also takes away parts of objects, and as a cue need not be
the only reason. It tells how far each image relies on the cue.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.analysis.verification import effects, transfers
from pipeline.analysis.verification.effects import Bools, Effect
from pipeline.analysis.verification.intervention_runner import InterventionRunner, Ints, numbers
from pipeline.analysis.verification.interventions import ImageBatch, Intervention

Rng = np.random.Generator
Floats = NDArray[np.float32]

FILLS = 8
"""Pictures that a member's cue is replaced from, to measure its reliance."""


@dataclass(frozen=True)
class Added:
    """What adding a cue did: the effect, and the median of its gain over target classes."""

    effect: Effect
    typical: float


@dataclass(frozen=True)
class Removed:
    """What removing a cue did, and by plan position the reliance of each image: the share of its
    prediction's probability that is lost, in [0, 1].
    """

    effect: Effect
    reliance: dict[int, float] = field(default_factory=dict)


NOT_REMOVED = Removed(effects.NO_EFFECT)


def pairs(hosts: ImageBatch, donors: ImageBatch, n: int, rng: Rng) -> tuple[ImageBatch, ImageBatch]:
    """n hosts, each once before any comes again, with a donor of its own."""
    return drawn(hosts, n, rng), drawn(donors, n, rng)


def drawn(scenes: ImageBatch, n: int, rng: Rng) -> ImageBatch:
    """n scenes, each once before any comes again."""
    return scenes.at(rows(len(scenes), n, rng))


def add(
    bench: InterventionRunner,
    probe: Intervention,
    donors: ImageBatch,
    others: ImageBatch,
    own: int,
    n: int,
    rng: Rng,
) -> Added:
    """Paired trial of n pictures.

    Args:
        donors: images of the class.
        others: images of other classes, of which the model is sure.
    """
    hosts, carriers = pairs(others, donors, n, rng)
    plain = other_class(hosts, others, rng)
    hit = bench.transplant(probe, hosts, carriers) == own
    control = bench.transplant(probe, hosts, plain) == own
    return compared(hit, control, hosts, rng)


def compared(hit: Bools, control: Bools, hosts: ImageBatch, rng: Rng) -> Added:
    """What is told by which hosts turned (n,), with the cue and with the control."""
    typical = effects.typical_gain(hit, control, numbers(hosts.classes))
    return Added(effects.compare(hit, control, rng), typical)


def remove(
    bench: InterventionRunner,
    probe: Intervention,
    members: ImageBatch,
    others: ImageBatch,
    own: int,
    rng: Rng,
) -> Removed:
    """What happens to images of the class without the cue."""
    fillers = drawn(others, len(members), rng)
    turned = bench.classes(probe.remove(members, fillers)) != own
    control = _control(bench, probe, members, fillers, rng) != own
    fills = [drawn(others, len(members), rng) for _ in range(FILLS)]
    before = kept(bench, members, members.pictures)
    lost = np.clip(loss(bench, probe, members, fills, before), 0, 1)
    reliance = dict(zip(numbers(members.index).tolist(), lost.tolist(), strict=True))
    return Removed(effects.compare(turned, control, rng), reliance)


def loss(
    bench: InterventionRunner,
    probe: Intervention,
    members: ImageBatch,
    fillers: list[ImageBatch],
    before: Floats,
) -> Floats:
    """Share of the probability of its class, `before`, that each image loses without the cue (n,).

    What is left is the mean over the fillers, which replace the cue one after the other. Where it
    moves, half of what is put there is drawn from around it: what comes from the same place of
    other pictures brings parts of objects.
    """
    left = np.mean([kept(bench, members, probe.remove(members, each)) for each in fillers], axis=0)
    if probe.kind == "moving" and probe.where is not None:
        around = transfers.inpainted(members.pictures, probe.where(members))
        left = (left + kept(bench, members, around)) / 2
    return np.asarray(1 - left / np.maximum(before, np.finfo(np.float32).tiny))


def kept(bench: InterventionRunner, members: ImageBatch, changed: torch.Tensor) -> Floats:
    """Probability of the members' own classes in their changed pictures (n,)."""
    return bench.probabilities(changed)[np.arange(len(members)), numbers(members.classes)]


def _control(
    bench: InterventionRunner,
    probe: Intervention,
    members: ImageBatch,
    fillers: ImageBatch,
    rng: Rng,
) -> Ints:
    if probe.where is None or not probe.pixels:
        same = drawn(members, len(members), rng)
        return bench.classes(probe.remove(members, same))
    moved = transfers.elsewhere(probe.where(members).cpu(), len(members), rng)
    return bench.classes(transfers.paste(members.pictures, fillers.pictures, moved))


def without(probe: Intervention, donors: ImageBatch, others: ImageBatch, rng: Rng) -> ImageBatch:
    """The donors with what the probe would take from them replaced; their heat stays."""
    fillers = drawn(others, len(donors), rng)
    return replace(donors, pictures=(probe.erase or probe.remove)(donors, fillers))


def rows(size: int, n: int, rng: Rng) -> torch.Tensor:
    """n of `size` positions, each as often as any other."""
    rounds = [rng.permutation(size) for _ in range(-(-n // size))]
    return torch.from_numpy(np.concatenate(rounds)[:n])


def other_class(hosts: ImageBatch, donors: ImageBatch, rng: Rng) -> ImageBatch:
    """For each host a donor of another class than its own, where there is one."""
    free = np.not_equal.outer(numbers(hosts.classes), numbers(donors.classes))
    free |= ~free.any(axis=1, keepdims=True)
    draws: NDArray[np.float64] = rng.random(free.shape) * free
    return donors.at(torch.from_numpy(draws.argmax(axis=1)))
