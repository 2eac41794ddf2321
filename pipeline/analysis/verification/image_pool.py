"""Images that cues are put into, and the source images of a candidate."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pipeline.analysis.audited_model import AuditedModel, Ints
from pipeline.analysis.interventions import scenes, transfers
from pipeline.analysis.interventions.catalogue import MIN_PRESENCE
from pipeline.analysis.interventions.scenes import Scenes
from pipeline.analysis.shortcuts.candidate_rows import AT_PLACE, CONTEXT
from pipeline.analysis.shortcuts.class_sample import ClassSample
from pipeline.storage import arrays
from pipeline.storage.schema import Row

MAX_SOURCES = 32
"""Most source images with, and without, a cue, in each half."""
MIN_SOURCES = 3
"""Fewest source images with, and without, a cue that a candidate is tested with."""
MIN_HALVED = 10
"""Fewest images of a group that are divided into halves."""
N_OUTLINED, MAX_OUTLINED = 32, 64
"""Images with a cue that are outlined first, and in all if a few of these are sure."""
SOME_SURE, MIN_SURE = 2, 8
"""Surely outlined images from which more are outlined, and fewest to which they are reduced."""
SURE_SHARE = 1 / 4
"""Share of few images that takes the place of MIN_SURE."""
MIN_AGREEMENT = 0.7
"""Intersection over union of two outlines from which they are said to agree."""
SCREENING, TEST = 0, 1
"""The two halves of recipients and of sources: what screens a candidate does not test it."""


@dataclass(frozen=True)
class ImagePool:
    """Images of all classes, in two halves that share no image.

    Attributes:
        halves: recipients for screening and for the test. They are the same images where there are
            too few for two halves.
    """

    halves: tuple[Scenes, Scenes]

    @classmethod
    def draw(
        cls, model: AuditedModel, sample: ClassSample, n_images: int, rng: np.random.Generator
    ) -> ImagePool:
        """Draw from each class about as many images.

        They represent the dataset: a share of them that flips is a share of its images.

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
            rank[own] = np.arange(len(own))
            # A class may have one image only, so the half that gets its first image is random.
            side[own] = (rank[own] + rng.integers(2)) % 2
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
    """Load images of the sample, and outline their objects where the model is active."""
    pixels, annotated = model.load_images(sample.index[rows])
    activity = model.activity(pixels)
    objects = scenes.outline(pixels, activity, annotated)
    active = scenes.most_active(activity, (pixels.shape[2], pixels.shape[3]))
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
        the class, so that it can be separated from the object; of these, the ones whose objects
        are outlined most surely. None is returned where a group has fewer than
        MIN_SOURCES images.

        Args:
            candidate: row of CANDIDATES.
            concepts: its rows of concepts_schema.
            half: SCREENING or TEST. The halves share no image, but where a group has fewer than
                MIN_HALVED images: it is in both.
            seed: seed of the division into halves.
        """
        usable = has_maps(concepts)
        having, lacking = _shuffled_groups(candidate, usable, seed)
        overlaps = _overlaps(usable.take(pa.array(having)), self.grid)
        ordered = having[np.argsort(overlaps, kind="stable")]
        having, lacking = (_half_of(rows, half) for rows in (ordered, lacking))
        if min(len(having), len(lacking)) < MIN_SOURCES:
            return None
        rows = usable.take(pa.array(having[:MAX_OUTLINED]))
        with_cue = self._outlined_beside_cue(rows) or self._outlined_with_cue(rows)
        without_cue = usable.take(pa.array(np.sort(lacking[:MAX_SOURCES])))
        return Sources(with_cue, self.lacking_cue(without_cue))

    def by_pixels(self, candidate: Row, concepts: pa.Table, half: int, seed: int) -> Sources | None:
        """Load one half of the sources of a candidate of a place or a style, as `sources` does."""
        usable = has_maps(concepts)
        groups = [_half_of(rows, half) for rows in _shuffled_groups(candidate, usable, seed)]
        if min(map(len, groups)) < MIN_SOURCES:
            return None
        load = self.lacking_cue
        if candidate["kind"] == AT_PLACE:
            load = partial(self.images_at_place, candidate)
        return Sources(
            *(load(usable.take(pa.array(np.sort(rows[:MAX_SOURCES])))) for rows in groups)
        )

    def images_at_place(self, candidate: Row, rows: pa.Table) -> Scenes:
        """Load images without outlines, whose cue is present in all pixels of one place.

        The cells of a place are those with most of the difference, so that a cell more on each side
        is part of it. Towards the outside the presence falls, so that changes have no seam.
        """
        images, _ = self._load(rows)
        cells = torch.tensor(candidate["cells"], device=images.pixels.device)
        around = F.max_pool2d(cells[None, None].float(), 3, 1, 1)
        place = F.interpolate(around, size=images.pixels.shape[2:], mode="bilinear")
        return replace(images, presence=place.expand_as(images.objects))

    def whole_class(
        self, candidate: Row, concepts: pa.Table, without_cue: Scenes, half: int, seed: int
    ) -> Sources | None:
        """Load one half of the images of a class, which are compared with those of other classes.

        None is returned where a group has fewer than MIN_SOURCES images, and for a concept that
        cannot be separated from the object.

        Args:
            candidate: row of CANDIDATES of kind "common" or "context".
            concepts: its rows of concepts_schema.
            without_cue: images of other classes.
            half: SCREENING or TEST.
            seed: seed of the division into halves.
        """
        usable = has_maps(concepts)
        order = np.random.default_rng(seed).permutation(len(usable))[half::2]
        if min(len(order), len(without_cue)) < MIN_SOURCES:
            return None
        if candidate["kind"] == CONTEXT:
            own = usable.take(pa.array(np.sort(order[: MAX_SOURCES // 2])))
            return Sources(self.lacking_cue(own), without_cue)
        with_cue = self._outlined_beside_cue(usable.take(pa.array(order[:MAX_OUTLINED])))
        return Sources(with_cue, without_cue) if with_cue is not None else None

    def having_cue(self, rows: pa.Table) -> Scenes:
        """Load images with a cue beside the object, outlined by the evidence away from the cue.

        Args:
            rows: of concepts_schema, with maps.
        """
        return self._outline_beside_cue(rows)[0]

    def lacking_cue(self, rows: pa.Table) -> Scenes:
        """Load images without the cue; their objects are outlined by the evidence for the class."""
        images, annotated = self._load(rows)
        pixels = images.pixels.byte()
        evidence = self._maps(rows, "other_evidence", pixels)
        return replace(images, objects=scenes.outline(pixels, evidence, annotated))

    def _outline_beside_cue(self, rows: pa.Table) -> tuple[Scenes, Tensor]:
        """The images of `having_cue`, and masks (n, 1, H, W) bool of their annotated objects."""
        images, annotated = self._load(rows)
        pixels = images.pixels.byte()
        evidence = self._maps(rows, "other_evidence", pixels)
        objects = scenes.outline(pixels, evidence, annotated, images.presence)
        return replace(images, objects=objects), annotated

    def _load(self, rows: pa.Table) -> tuple[Scenes, Tensor]:
        """The images without outlines, and masks (n, 1, H, W) bool of their annotated objects."""
        index = rows["index"].to_numpy()
        pixels, annotated = self.model.load_images(index)
        presence, evidence, activity = (
            self._maps(rows, name, pixels) for name in ("presence", "evidence", "activity")
        )
        size = (pixels.shape[2], pixels.shape[3])
        presence = scenes.enlarge(presence, size)
        images = Scenes(
            scenes.to_tensor(index, pixels),
            scenes.to_tensor(arrays.classes(rows, "pred_index"), pixels),
            pixels.float(),
            torch.zeros_like(presence),
            scenes.most_active(activity, size),
            presence,
            scenes.enlarge(evidence, size),
        )
        return images, annotated

    def _outlined_beside_cue(self, rows: pa.Table) -> Scenes | None:
        """Up to MAX_SOURCES / 2 images with a cue that is beside the object; None for too few.

        Of those whose objects are outlined surely, images are taken in which the object covers
        least of the cue. Where too few are, the cue is probably the object, or a part of it.

        Args:
            rows: of concepts_schema, with maps; the first ones are outlined first.
        """
        images, agreement = self._outline_without_cue(rows.slice(0, N_OUTLINED))
        n_sure = (agreement >= MIN_AGREEMENT).sum()
        if SOME_SURE <= n_sure < MIN_SURE and len(rows) > N_OUTLINED:
            more, further = self._outline_without_cue(rows.slice(N_OUTLINED))
            images, agreement = scenes.concatenate(images, more), torch.cat([agreement, further])
        sure = (agreement >= MIN_AGREEMENT).nonzero()[:, 0]
        if len(sure) < min(MIN_SURE, max(MIN_SOURCES, SURE_SHARE * len(rows))):
            return None
        images = images.select(sure)
        covered = (images.objects * images.presence).sum(dim=(1, 2, 3))
        return images.select(covered.argsort(stable=True)[: MAX_SOURCES // 2])

    def _outlined_with_cue(self, rows: pa.Table) -> Scenes:
        """MAX_SOURCES / 2 images whose objects are all that the layer is active on, with the cue.

        Args:
            rows: of concepts_schema, with maps.
        """
        rows = rows.slice(0, MAX_SOURCES // 2)
        images, annotated = self._outline_beside_cue(rows)
        activity = self._maps(rows, "activity", images.pixels)
        whole = scenes.outline(images.pixels.byte(), activity, annotated)
        return replace(images, objects=torch.maximum(images.objects, whole))

    def _outline_without_cue(self, rows: pa.Table) -> tuple[Scenes, Tensor]:
        """Outline objects twice: beside the cue, and once the cue is filled in.

        The second outline is taken from the activity of the layer on the image whose cue is
        replaced by what surrounds it. Where both agree on the pixels without the cue, the object
        remains without the cue; where they do not, the cue is probably the object.

        Returns:
            Images whose objects are the union of both outlines, and the agreement (n,) of the
            outlines, as intersection over union.
        """
        images, annotated = self._outline_beside_cue(rows)
        without_cue = transfers.to_uint8(
            transfers.fill_holes(images.pixels, images.presence > MIN_PRESENCE)
        )
        activity = self.model.activity(without_cue)
        beside, alone = images.objects, scenes.outline(without_cue, activity, annotated)
        agreement = _agreement(beside, alone, images.presence < scenes.COVERING_PRESENCE)
        return replace(images, objects=torch.maximum(beside, alone)), agreement

    def _maps(self, rows: pa.Table, name: str, like: Tensor) -> Tensor:
        values = arrays.vectors(rows, name, self.grid[0] * self.grid[1])
        return torch.from_numpy(values.reshape(-1, *self.grid)).to(like.device)


def _shuffled_groups(candidate: Row, usable: pa.Table, seed: int) -> list[Ints]:
    """Positions of the rows with, and without, the cue of a candidate, in random order."""
    index = usable["index"].to_numpy()
    return [
        np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(index, candidate[name])))
        for name in ("donor_index", "without_index")
    ]


def _half_of(rows: Ints, half: int) -> Ints:
    """Every second row; all of few rows."""
    return rows if len(rows) < MIN_HALVED else rows[half::2]


def _agreement(one: Tensor, other: Tensor, counted: Tensor) -> Tensor:
    """Intersection over union (n,) of masks (n, 1, H, W) on the counted pixels."""
    both, either = (
        (each * counted).sum(dim=(1, 2, 3))
        for each in (torch.minimum(one, other), torch.maximum(one, other))
    )
    return both / either.clamp_min(1)


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
