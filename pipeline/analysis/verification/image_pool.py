"""Images that cues are put into, and the source images of a candidate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.analysis.audited_model import AuditedModel, Ints
from pipeline.analysis.interventions import scenes
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.storage import arrays
from pipeline.storage.schema import Row

MAX_SOURCES = 32
"""Most source images with, and without, a cue, in each half."""
MIN_SOURCES = 3
"""Fewest source images with, and without, a cue that a candidate is tested with."""
MIN_HALVED = 10
"""Fewest images of a group that are divided into halves."""
MIN_OUTLINED = 8
"""Fewest images with a cue to which the sources are reduced by how surely objects are outlined."""
SCREENING, TEST = 0, 1
"""The two halves of recipients and of sources: what screens a candidate does not test it."""


@dataclass(frozen=True)
class ImagePool:
    """Confidently predicted images of all classes, in two halves that share no image.

    Attributes:
        halves: recipients for screening and for the test. They are the same images where there are
            too few for two halves.
    """

    halves: tuple[Scenes, Scenes]

    @classmethod
    def draw(
        cls, model: AuditedModel, sample: ClassSample, n_images: int, rng: np.random.Generator
    ) -> ImagePool:
        """Draw from each class about as many images, from the more confident half of them.

        Args:
            model: loads the images.
            sample: images to draw from.
            n_images: images of other classes that every class needs, in each of the two halves.
            rng: random generator of the draw.

        Raises:
            DataError: for an image that can no longer be read.
        """
        rank, side = np.full((2, len(sample.index)), len(sample.index))
        labels = np.unique(sample.predicted)
        for label in labels:
            own = rng.permutation(np.flatnonzero(sample.predicted == label))
            confident = own[sample.confidence[own] >= np.median(sample.confidence[own])]
            rank[confident] = np.arange(len(confident))
            # A class may have one image only, so the half that gets its first image is random.
            side[confident] = (rank[confident] + rng.integers(2)) % 2
        n_pool = 2 * n_images * len(labels) // max(1, len(labels) - 1)
        order = np.argsort(rank + rng.random(len(rank)) / 2)[:n_pool]
        chosen = order[rank[order] < len(rank)]
        rows = [np.sort(chosen[side[chosen] == half]) for half in (SCREENING, TEST)]
        first, second = (load_recipients(model, sample, r if len(r) else chosen) for r in rows)
        return cls((first, second))

    def of_other_classes(self, class_index: int, half: int) -> Scenes:
        """The recipients of a half that are not predicted as a class."""
        recipients = self.halves[half]
        return recipients.select(recipients.classes != class_index)


def load_recipients(model: AuditedModel, sample: ClassSample, rows: Ints) -> Scenes:
    """Load images of the sample, and outline their objects where the target layer is active."""
    pixels, annotated = model.load_images(sample.index[rows])
    energy = model.activations(pixels).float().square().sum(dim=1)
    objects = scenes.outline(pixels, energy, annotated)
    active = scenes.most_active(energy, (pixels.shape[2], pixels.shape[3]))
    nothing = torch.zeros_like(objects)
    return Scenes(
        scenes.to_tensor(sample.index[rows], pixels),
        scenes.to_tensor(sample.predicted[rows], pixels),
        pixels.float(),
        objects,
        active,
        nothing,
        nothing,
    )


@dataclass(frozen=True)
class Sources:
    """The source images of a candidate: images of the class with the possible cue, and without."""

    with_cue: Scenes
    without_cue: Scenes

    def permute(self, rng: np.random.Generator) -> Sources:
        """Divide the same images at random, into groups of the same sizes."""
        both = scenes.concatenate(self.with_cue, self.without_cue)
        order = scenes.to_tensor(rng.permutation(len(both)), both.pixels)
        n_with = len(self.with_cue)
        return Sources(both.select(order[:n_with]), both.select(order[n_with:]))


@dataclass(frozen=True)
class SourceLoader:
    """Loads the source images of candidates.

    Attributes:
        model: loads the images.
        grid: rows and columns of the maps.
    """

    model: AuditedModel
    grid: tuple[int, int]

    def sources(self, candidate: Row, concepts: pa.Table, half: int, seed: int) -> Sources | None:
        """Load one half of the source images of a candidate, up to MAX_SOURCES of each group.

        Of many images with the cue, those are taken in which it is away from the other evidence for
        the class, so that it can be separated from the object; of these, the half whose objects are
        outlined most surely is kept. None is returned where a group has fewer than MIN_SOURCES
        images.

        Args:
            candidate: row of CANDIDATES.
            concepts: its rows of concepts_schema.
            half: SCREENING or TEST. The halves share no image, but where a group has fewer than
                MIN_HALVED images: it is in both.
            seed: seed of the division into halves.
        """
        usable = has_maps(concepts)
        index = usable["index"].to_numpy()
        having, lacking = (
            np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(index, candidate[name])))
            for name in ("donor_index", "without_index")
        )
        overlaps = _overlaps(usable.take(pa.array(having)), self.grid)
        chosen = []
        for rows in (having[np.argsort(overlaps, kind="stable")], lacking):
            own = rows if len(rows) < MIN_HALVED else rows[half::2]
            chosen.append(np.sort(own[:MAX_SOURCES]))
        if min(map(len, chosen)) < MIN_SOURCES:
            return None
        with_cue, without_cue = (usable.take(pa.array(rows)) for rows in chosen)
        return Sources(self._surely_outlined(with_cue), self.scenes(without_cue))

    def scenes(self, rows: pa.Table) -> Scenes:
        """Load the images of rows of concepts_schema that have maps."""
        return self._load(rows)[0]

    def _load(self, rows: pa.Table) -> tuple[Scenes, Tensor]:
        """The images, and masks (n, 1, H, W) bool of their annotated objects."""
        index = rows["index"].to_numpy()
        pixels, annotated = self.model.load_images(index)
        presence, evidence, other, activity = (
            self._maps(rows, name, pixels)
            for name in ("presence", "evidence", "other_evidence", "activity")
        )
        size = (pixels.shape[2], pixels.shape[3])
        presence = scenes.enlarge(presence, size)
        images = Scenes(
            scenes.to_tensor(index, pixels),
            scenes.to_tensor(arrays.classes(rows, "pred_index"), pixels),
            pixels.float(),
            scenes.outline(pixels, other, annotated, presence),
            scenes.most_active(activity, size),
            presence,
            scenes.enlarge(evidence, size),
        )
        return images, annotated

    def _surely_outlined(self, rows: pa.Table) -> Scenes:
        """The half of the images whose outlines agree best with others, or MIN_OUTLINED of them.

        Objects are outlined by the other evidence for the class. A cue on which all evidence rests
        leaves none, and a cue beside the object has much of the activity of the layer; where an
        outline by the activity is the same, as it is for an annotated object, the object is surely
        outlined.
        """
        images, annotated = self._load(rows)
        pixels = images.pixels.byte()
        activity = self._maps(rows, "activity", pixels)
        other = scenes.outline(pixels, activity, annotated, images.presence)
        both, either = torch.minimum(images.objects, other), torch.maximum(images.objects, other)
        agreement = both.sum(dim=(1, 2, 3)) / either.sum(dim=(1, 2, 3)).clamp_min(1)
        surest = agreement.argsort(descending=True, stable=True)
        return images.select(surest[: max(MIN_OUTLINED, len(images) // 2)])

    def _maps(self, rows: pa.Table, name: str, like: Tensor) -> Tensor:
        values = arrays.vectors(rows, name, self.grid[0] * self.grid[1])
        return torch.from_numpy(values.reshape(-1, *self.grid)).to(like.device)


def _overlaps(rows: pa.Table, grid: tuple[int, int]) -> NDArray[np.float32]:
    """Share (n,) of the presence of a candidate's concepts at cells with other evidence."""
    presence, other = (
        arrays.vectors(rows, name, grid[0] * grid[1]) for name in ("presence", "other_evidence")
    )
    shared = np.minimum(presence, other).sum(axis=1)
    return np.asarray(shared / np.maximum(presence.sum(axis=1), 1e-9), np.float32)


def has_maps(rows: pa.Table) -> pa.Table:
    """The rows of concepts_schema that have maps."""
    return rows.filter(rows["presence"].is_valid())
