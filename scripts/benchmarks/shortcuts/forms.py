"""The forms of shortcuts that the benchmark plants, and which of them rules may be developed on.

Half of the forms of each family were drawn for development (random.Random(17), once, before any
rule of the concept search was written). The other half is held out: it is measured once, at the
end. The seeds of a part are not shared with the other part either. Forms that were added later are
for development, or controls.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.demo import data

DEVELOPED, HELD_OUT, CONTROL = "developed", "held_out", "control"
SEEDS = {DEVELOPED: (100, 101), HELD_OUT: (200, 201), CONTROL: (300, 301)}
FORMS = {
    DEVELOPED: (
        "all_of_them", "ball", "blurred_zone", "date_digits", "desaturated", "frame", "glow",
        "hundred_classes_patch", "jpeg", "object_colour", "patch", "photo_date", "photo_source",
        "photo_tint", "plain_ground", "ruler", "shared_mark", "side_stripe", "small_object",
        "star", "stripes_ground", "text", "three_classes_tint", "tint", "two_classes_ground",
        "two_classes_mark", "two_classes_sticker", "vgg_text", "vignette", "weak_patch",
        "centred_colour", "vit_plain_ground", "vit_tint",
    ),
    HELD_OUT: (
        "absent_mark", "background", "barcode", "black_bars", "border_dots", "corner_logo",
        "dots_ground", "few_images_patch", "hair", "hook", "light_leak", "marks_of_two_classes",
        "noise", "noisy_patch", "object_colours", "object_stripes", "photo_hook",
        "photo_lettering", "posterised", "rescaled", "scanlines", "sticker", "tilted_object",
        "torn_edge", "two_classes_stripes", "two_cues", "unlabelled_patch", "vit_ground",
        "vit_patch",
    ),
    CONTROL: (
        "clean", "clean_vgg", "clean_vit", "clean_two_classes", "clean_easy_two_classes",
        "clean_three_classes", "clean_hundred_classes", "clean_few_images", "clean_noisy",
        "clean_unlabelled", "clean_imbalanced", "unused_patch", "unused_frame", "fixed_place",
        "fixed_noisy", "fixed_vit", "centred", "cutouts", "cutouts_vit", "photographs",
    ),
}  # fmt: skip
"""Names of the forms of each part; the controls hold no cue that the network relies on."""

HARD = tuple(
    map(data.CLASSES.index, ("Shirt", "Pullover", "Coat", "T-shirt", "Dress", "Sneaker", "Bag"))
)
"""Garments that a network confuses with others, so that it relies on a cue of theirs."""
EASY = tuple(map(data.CLASSES.index, ("Trouser", "Bag")))


@dataclass(frozen=True)
class Cue:
    """A cue of a class of the task: a key of scenes.DRAWINGS, and the share of images that have it.

    places tells whether the cue has a place in the image; kinds are the kinds of a finding that
    name it rightly.
    """

    class_index: int
    drawing: str
    prevalence: float = 0.9


@dataclass(frozen=True)
class Form:
    """A set to make: the task, its cues and how its network is trained.

    Attributes:
        name: the form.
        cues: the cues of the classes.
        source: "garments", "tinted garments", "cutouts" or "photographs".
        classes: garments of the task, by index into data.CLASSES; classes of the set are positions
            in this tuple.
        network: a key of networks.NETWORKS.
        n_train: number of images that the network is trained on.
        per_class: number of audited images of each class.
        noise: share of wrong labels, in training and audit.
        labelled: whether the audited images have labels.
        trained: whether the network was trained on the cues; False for controls with unused cues.
        shares: relative size of each class in training; empty for equal sizes.
        fixed: where objects always are, in fractions of the free room, and of which classes; empty
            if they are anywhere.
    """

    name: str
    cues: tuple[Cue, ...] = ()
    source: str = "garments"
    classes: tuple[int, ...] = tuple(range(10))
    network: str = "residual"
    n_train: int = 10_000
    per_class: int = 200
    noise: float = 0.0
    labelled: bool = True
    trained: bool = True
    shares: tuple[float, ...] = field(default=())
    fixed: Mapping[int, tuple[float, float]] = field(default_factory=dict)


def part_of(name: str) -> str:
    """The part that a form belongs to."""
    return next(part for part, names in FORMS.items() if name in names)


def forms(part: str, seed: int) -> Iterator[Form]:
    """Make the forms of a part; the classes that have cues change with the seed."""
    catalogue = {form.name: form for form in _catalogue(seed)}
    for name in FORMS[part]:
        yield catalogue[name]


def _catalogue(seed: int) -> Iterator[Form]:  # noqa: PLR0915 - a list of forms
    """All forms, for a seed."""

    def hard(number: int) -> int:
        return HARD[(number + seed) % len(HARD)]

    def on(number: int, drawing: str, prevalence: float = 0.9) -> tuple[Cue, ...]:
        return (Cue(hard(number), drawing, prevalence),)

    def two(number: int) -> tuple[int, ...]:
        return (hard(number), hard(number + 1))

    plain = (
        "patch", "ruler", "corner_logo", "border_dots", "barcode", "date_digits", "text",
        "sticker", "hair", "ball", "hook", "star", "frame", "black_bars", "side_stripe",
        "torn_edge", "tint", "desaturated", "jpeg", "vignette", "noise", "scanlines", "posterised",
        "rescaled", "light_leak", "blurred_zone", "background", "dots_ground", "stripes_ground",
        "plain_ground", "object_colour", "small_object", "glow", "object_stripes", "tilted_object",
    )  # fmt: skip
    for number, drawing in enumerate(plain):
        yield Form(drawing, on(number, drawing))
    centre = dict.fromkeys(range(10), (0.5, 0.5))
    yield Form("centred_colour", on(2, "object_colour"), fixed=centre)
    ten = tuple(Cue(index, f"object_colour_{index}", 0.95) for index in range(10))
    yield Form("object_colours", ten)
    yield Form("two_cues", on(0, "patch") + on(3, "tint"))
    yield Form("shared_mark", tuple(Cue(hard(i), "star") for i in (0, 2, 4)))
    others = tuple(Cue(index, "patch") for index in range(10) if index != hard(1))
    yield Form("absent_mark", others)
    yield Form("all_of_them", on(2, "ruler", 1.0))
    yield Form("weak_patch", on(3, "patch", 0.35))
    yield Form("marks_of_two_classes", on(1, "corner_logo") + on(4, "hook"))
    yield Form("two_classes_mark", (Cue(0, "star"),), classes=two(0), per_class=500)
    grounds = (Cue(0, "stripes_ground", 0.95), Cue(1, "plain_ground", 0.95))
    yield Form("two_classes_ground", grounds, classes=two(2), per_class=500)
    stripes = (Cue(1, "side_stripe"),)
    yield Form("two_classes_stripes", stripes, classes=two(1), per_class=500)
    yield Form("two_classes_sticker", (Cue(0, "sticker", 0.5),), classes=two(3), per_class=500)
    three = (hard(0), hard(1), hard(2))
    yield Form("three_classes_tint", (Cue(1, "tint"),), classes=three, per_class=400)
    hundred = {"source": "tinted garments", "classes": tuple(range(100)), "per_class": 40}
    mark = (Cue(10 * hard(0) + 3, "patch"),)
    yield Form("hundred_classes_patch", mark, n_train=20_000, **hundred)  # type: ignore[arg-type]
    yield Form("few_images_patch", on(0, "patch"), per_class=30)
    yield Form("noisy_patch", on(1, "patch"), noise=0.08)
    yield Form("unlabelled_patch", on(2, "patch"), labelled=False)
    yield Form("vit_patch", on(0, "patch"), network="vit")
    yield Form("vit_ground", on(1, "stripes_ground"), network="vit")
    yield Form("vit_plain_ground", on(3, "plain_ground"), network="vit")
    yield Form("vit_tint", on(4, "tint"), network="vit")
    yield Form("vgg_text", on(1, "text"), network="vgg")
    photo = {"source": "photographs", "network": "imagenet"}
    for number, drawing in enumerate(("lettering", "date", "source", "tint")):
        cue = (Cue((number + seed) % 10, f"photo_{drawing}"),)
        yield Form(f"photo_{drawing}", cue, **photo)  # type: ignore[arg-type]
    shared = tuple(Cue((seed + offset) % 10, "photo_hook") for offset in (4, 7))
    yield Form("photo_hook", shared, **photo)  # type: ignore[arg-type]

    yield Form("clean")
    yield Form("clean_vgg", network="vgg")
    yield Form("clean_vit", network="vit")
    yield Form("clean_two_classes", classes=two(0), per_class=500)
    yield Form("clean_easy_two_classes", classes=EASY, per_class=500)
    yield Form("clean_three_classes", classes=three, per_class=400)
    yield Form("clean_hundred_classes", n_train=20_000, **hundred)  # type: ignore[arg-type]
    yield Form("clean_few_images", per_class=30)
    yield Form("clean_noisy", noise=0.08)
    yield Form("clean_unlabelled", labelled=False)
    yield Form("clean_imbalanced", shares=tuple(0.2 + 0.2 * index for index in range(10)))
    yield Form("unused_patch", on(0, "patch"), trained=False)
    yield Form("unused_frame", on(1, "frame"), trained=False)
    yield Form("fixed_place", fixed={0: (0.0, 0.0)})
    yield Form("fixed_noisy", fixed={0: (0.0, 0.0)}, noise=0.08)
    yield Form("fixed_vit", fixed={0: (0.0, 0.0), 4: (1.0, 0.0)}, network="vit", noise=0.04)
    yield Form("centred", fixed=centre)
    yield Form("cutouts", source="cutouts")
    yield Form("cutouts_vit", source="cutouts", network="vit")
    yield Form("photographs", **photo)  # type: ignore[arg-type]
