"""Arrow schemas of all tables; `values` lists the texts that some columns hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

Row = dict[str, Any]
"""One row of a table as a dict from column name to value."""

TOP = 5


FOCUS = (
    "focus_entropy",
    "focus_gini",
    "focus_area50",
    "focus_area90",
    "focus_x",
    "focus_y",
    "focus_spread",
    "focus_peak_x",
    "focus_peak_y",
    "focus_peaks",
    "focus_border",
    "focus_corner",
    "focus_mean",
    "focus_label_similarity",
    "focus_object_mass",
    "focus_pointing_hit",
)


IMAGE = (
    "image_mean_r",
    "image_mean_g",
    "image_mean_b",
    "image_std_r",
    "image_std_g",
    "image_std_b",
    "image_brightness",
    "image_contrast",
    "image_sharpness",
    "image_border_r",
    "image_border_g",
    "image_border_b",
)


def plan_schema(metadata: pa.StructType | None = None) -> pa.Schema:
    """Schema of the plan: one row per planned image.

    `metadata` is the type of the further columns of a manifest. The version of an image changes
    with its content; it is null if no version is known.
    """
    columns = [
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label_index", pa.int32()),
        ("label", pa.string()),
        ("shard", pa.int32()),
        ("version", pa.string()),
    ]
    return pa.schema(columns + ([("metadata", metadata)] if metadata else []))


def part_schema(grid: tuple[int, int], embedding_dim: int) -> pa.Schema:
    """Schema of a part: one row per image of a shard.

    In an error row only the first four columns, status and error have values. The focus statistics
    of a dead map are null.
    """
    heatmap = pa.list_(pa.float16(), grid[0] * grid[1])
    return pa.schema(
        [
            ("index", pa.int64()),
            ("image_id", pa.string()),
            ("label_index", pa.int32()),
            ("label", pa.string()),
            ("pred_index", pa.int32()),
            ("pred", pa.string()),
            ("confidence", pa.float32()),
            ("label_prob", pa.float32()),
            ("margin", pa.float32()),
            ("entropy", pa.float32()),
            ("loss", pa.float32()),
            ("top_index", pa.list_(pa.int32(), TOP)),
            ("top_prob", pa.list_(pa.float16(), TOP)),
            ("heatmap", heatmap),
            ("heatmap_max", pa.float32()),
            ("heatmap_label", heatmap),
            ("heatmap_label_max", pa.float32()),
            *((name, pa.float32()) for name in FOCUS),
            *((name, pa.float32()) for name in IMAGE),
            ("image_width", pa.int32()),
            ("image_height", pa.int32()),
            ("embedding", pa.list_(pa.float16(), embedding_dim)),
            ("features", pa.list_(pa.int8(), embedding_dim)),
            ("status", pa.string()),
            ("error", pa.string()),
        ]
    )


REGION = pa.struct([(name, pa.float32()) for name in ("x0", "y0", "x1", "y1")])


GROUPS = pa.list_(
    pa.struct(
        [
            ("group", pa.string()),
            ("n_images", pa.int64()),
            ("accuracy", pa.float32()),
        ]
    )
)
"""The group table of a cue: images of the class and of other classes, with and without the cue."""


CANDIDATES = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("class_index", pa.int32()),
        ("class_name", pa.string()),
        ("kind", pa.string()),
        ("place", pa.string()),
        ("probe", pa.string()),
        ("raised_by", pa.string()),
        ("statistic", pa.float32()),
        ("p_value", pa.float64()),
        ("region", REGION),
        ("cells", pa.list_(pa.list_(pa.bool_()))),
        ("donor_index", pa.list_(pa.int64())),
        ("without_index", pa.list_(pa.int64())),
        ("contribution", pa.float32()),
        ("groups", GROUPS),
    ]
)


def concepts_schema(grid: tuple[int, int]) -> pa.Schema:
    """Schema of the concepts: one row per candidate and image of its class.

    has_cue is whether the score exceeds the candidate's threshold. contribution is what the
    candidate's concepts contribute to the logit of the class, margin the logit of the class minus
    the largest other logit. The maps, in [0, 255] of their own maximum, are null in images that no
    intervention uses: presence is the strength of the candidate's concepts, evidence their positive
    contribution, other_evidence that of all other concepts, activity the energy of the layer.
    """
    cells = pa.list_(pa.uint8(), grid[0] * grid[1])
    return pa.schema(
        [
            ("candidate_id", pa.string()),
            ("index", pa.int64()),
            ("pred_index", pa.int32()),
            ("has_cue", pa.bool_()),
            ("score", pa.float32()),
            ("contribution", pa.float32()),
            ("margin", pa.float32()),
            ("presence", cells),
            ("evidence", cells),
            ("other_evidence", cells),
            ("activity", cells),
        ]
    )


FINDINGS = pa.schema(
    [
        ("finding_id", pa.string()),
        ("class_name", pa.string()),
        ("kind", pa.string()),
        ("verdict", pa.string()),
        ("score", pa.float32()),
        ("region", REGION),
        ("n_images", pa.int64()),
        ("effect", pa.float32()),
        ("control", pa.float32()),
        ("ci_low", pa.float32()),
        ("ci_high", pa.float32()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("example_ids", pa.list_(pa.string())),
        ("summary", pa.string()),
        ("groups", GROUPS),
    ]
)


TRIALS = pa.schema(
    [
        ("candidate_id", pa.string()),
        ("class_name", pa.string()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
        ("intervention", pa.string()),
        ("screening_gain", pa.float32()),
        ("n", pa.int64()),
        ("effect", pa.float32()),
        ("control", pa.float32()),
        ("ci_low", pa.float32()),
        ("ci_high", pa.float32()),
        ("p_value", pa.float64()),
    ]
)
"""One row per candidate and intervention, also of candidates that are not claimed; reason says why.
The columns from n on are null where the screening showed no effect."""


MEMBERS = pa.schema(
    [
        ("finding_id", pa.string()),
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("reliance", pa.float32()),
    ]
)


INTERVENTIONS = pa.schema(
    [
        ("finding_id", pa.string()),
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("source_id", pa.string()),
        ("change", pa.string()),
        ("class_name", pa.string()),
        ("prob_before", pa.float32()),
        ("prob_after", pa.float32()),
        ("pred_before", pa.string()),
        ("pred_after", pa.string()),
        ("before", pa.binary()),
        ("after", pa.binary()),
    ]
)


SUSPECTS = pa.schema(
    [
        ("rank", pa.int64()),
        ("index", pa.int64()),
        ("image_id", pa.string()),
        ("label", pa.string()),
        ("pred", pa.string()),
        ("confidence", pa.float32()),
        ("score", pa.float32()),
        ("kind", pa.string()),
        ("finding_id", pa.string()),
        ("reasons", pa.list_(pa.string())),
        ("decision", pa.string()),
        ("note", pa.string()),
    ]
)


DECISIONS = pa.schema(
    [
        ("image_id", pa.string()),
        ("mark", pa.string()),
        ("note", pa.string()),
        ("label", pa.string()),
        ("pred", pa.string()),
        ("kind", pa.string()),
        ("finding_id", pa.string()),
        ("confidence", pa.float64()),
        ("image_width", pa.float64()),
        ("image_height", pa.float64()),
        ("image_brightness", pa.float64()),
        ("decided", pa.string()),
        ("state", pa.string()),
    ]
)


CHANGES = pa.schema(
    [
        ("subject", pa.string()),
        ("change", pa.string()),
        ("key", pa.string()),
        ("class_name", pa.string()),
        ("kind", pa.string()),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("p_value", pa.float64()),
        ("q_value", pa.float64()),
        ("summary", pa.string()),
    ]
)


def classes_schema(grid: tuple[int, int]) -> pa.Schema:
    """Schema of the classes: one row per class of the model.

    Focus statistics and heatmap are means over the images predicted as the class.
    """
    return pa.schema(
        [
            ("class_index", pa.int32()),
            ("class_name", pa.string()),
            ("n_label", pa.int64()),
            ("n_pred", pa.int64()),
            ("n_correct", pa.int64()),
            ("accuracy", pa.float32()),
            ("precision", pa.float32()),
            ("confidence", pa.float32()),
            ("dead_maps", pa.int64()),
            *((name, pa.float32()) for name in FOCUS),
            ("heatmap", pa.list_(pa.float32(), grid[0] * grid[1])),
        ]
    )
