"""Measure what camaudit finds of forms of shortcuts, by the part that a form belongs to.

    scripts/benchmarks/shortcuts/run_forms --part developed --garments FashionMNIST/raw

Every set is made once (kept in --cache), audited, and compared with what its cues do to its
network. The held-out part is for a single use at the end of a development.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from audits import HERE, compose_settings
from cues import boxed
from forms import CONTROL, SEEDS, Form, forms
from making import make
from scores import average_precision, centre_inside, iou

from pipeline.config import Config
from pipeline.stages.audit import audit

STAGES = "[explain,discover,verify]"
OVERLAP = 0.3
Outcome = dict[str, Any]

RIGHT_KINDS = {
    ("frame", "edge", "region"): (
        "frame", "border_dots", "black_bars", "side_stripe", "torn_edge", "ruler",
    ),
    ("colour",): ("tint", "desaturated", "photo_tint", "posterised"),
    ("texture", "sharpness"): ("scanlines",),
    ("texture", "sharpness", "resolution"): ("rescaled",),
    ("texture", "sharpness", "compression"): ("jpeg",),
    ("texture", "sharpness", "compression", "resolution"): ("photo_source",),
    ("texture", "sharpness", "noise"): ("noise",),
    ("lighting", "colour"): ("vignette", "light_leak"),
    ("sharpness", "texture", "region", "edge", "patch"): ("blurred_zone",),
    ("background",): ("background", "dots_ground", "stripes_ground", "plain_ground"),
    ("object",): ("small_object", "object_stripes", "tilted_object", "glow"),
    ("object", "object colour"): ("object_colour", *(f"object_colour_{i}" for i in range(10))),
}  # fmt: skip
KINDS = {drawing: set(kinds) for kinds, drawings in RIGHT_KINDS.items() for drawing in drawings}
"""Kinds of a finding that name a drawing rightly; for all other drawings those of marks."""
MARKS = {"patch", "moving", "region"}
PLACELESS = {"hair", "blurred_zone", "frame", "torn_edge", "border_dots", "black_bars"}
"""Drawings with a mask whose box says little; only their kind is judged."""


def settings(form: Form, made: Path, out: Path, overrides: list[str]) -> Config:
    """Settings that audit a made set."""
    side = 224 if form.source == "photographs" else 64
    truth = json.loads((made / "truth.json").read_text(encoding="utf-8"))
    return compose_settings(
        f"dataset.factory={HERE}/making.py:SavedForm",
        f"+dataset.factory_args.path={made}/audited.npz",
        f"+dataset.factory_args.labelled={form.labelled}",
        f"model.factory={HERE}/networks.py:build",
        f"+model.factory_args.network={form.network}",
        f"+model.factory_args.n_classes={truth['n_classes']}",
        f"model.checkpoint={made}/network.pt",
        f"model.preprocess.resize={side}",
        f"model.preprocess.crop={side}",
        f"stages={STAGES}",
        f"output_dir={out}",
        f"run_id={made.name}",
        *overrides,
    )


def outcome(form: Form, seed: int, args: argparse.Namespace) -> Outcome:
    """Make a set, audit it, and compare the findings with the truth."""
    made = make(form, seed, sources(args), args.cache)
    truth = json.loads((made / "truth.json").read_text(encoding="utf-8"))
    config = settings(form, made, args.out, args.overrides)
    config.folder.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    audit(config)
    seconds = time.perf_counter() - begun
    analysis = config.folder / "analysis"
    findings = pd.read_parquet(analysis / "findings.parquet")
    members = pd.read_parquet(analysis / "members.parquet")
    record = json.loads((config.folder / "run.json").read_text(encoding="utf-8"))
    with np.load(made / "audited.npz") as saved:
        audited = {name: saved[name] for name in ("masks", "cue", "flips", "natural", "true")}
    claims = [_judge(each, form, truth, audited, members) for _, each in findings.iterrows()]
    return {
        "set": made.name,
        "form": form.name,
        "seconds": round(seconds, 1),
        "asked": record.get("verification", {}).get("pictures_asked"),
        "n_classes": truth["n_classes"],
        "accuracy": truth["accuracy"],
        "pairs": truth["pairs"],
        "claims": claims,
    }


def sources(args: argparse.Namespace) -> dict[str, Path]:
    """Folders of the objects."""
    return {name: getattr(args, name) for name in ("garments", "cutouts", "grounds", "photographs")}


def _judge(
    finding: pd.Series, form: Form, truth: Outcome, audited: dict[str, Any], members: pd.DataFrame
) -> Outcome:
    """A finding beside the truth: the real pair of its class, kind, place, and its members."""
    index = int(str(finding["class_name"]).removeprefix("class "))
    real = [pair for pair in truth["pairs"] if pair["real"] and pair["class_index"] == index]
    claim: Outcome = {
        "class_index": index,
        "verdict": finding["verdict"],
        "kind": finding["kind"],
        "summary": finding["summary"],
        "real": bool(real),
    }
    if not real:
        return claim
    right = [pair for pair in real if finding["kind"] in KINDS.get(pair["drawing"], MARKS)]
    claim["kind_right"] = bool(right)
    claim["place_right"] = _place_right(finding, form, real, audited)
    own = members[members["finding_id"] == finding["finding_id"]]
    if len(own):
        ordered = own.sort_values("reliance", ascending=False)["index"].to_numpy()
        claim["precision_at_10"] = float((audited["cue"][ordered[:10]] >= 0).mean())
        images = np.flatnonzero(audited["natural"] == index)
        scores = pd.Series(0.0, index=images).add(own.set_index("index")["reliance"], fill_value=0)
        flips = audited["flips"][images]
        if flips.any():
            ranked = scores.reindex(images).to_numpy()
            claim["reliance_ap"] = average_precision(flips, ranked)
            claim["class_share"] = float(flips.mean())
    return claim


def _place_right(
    finding: pd.Series, form: Form, real: list[Outcome], audited: dict[str, Any]
) -> bool | None:
    """Whether the region of a finding is on the cue in most images; None without a place."""
    drawings = {pair["drawing"] for pair in real}
    if drawings & (set(KINDS) | PLACELESS) or finding["region"] is None:
        return None
    box = tuple(finding["region"][side] for side in ("x0", "y0", "x1", "y1"))
    numbers = [i for i, cue in enumerate(form.cues) if cue.drawing in drawings]
    rows = np.flatnonzero(np.isin(audited["cue"], numbers))[:50]
    masks = np.unpackbits(audited["masks"][rows], axis=2).astype(bool)
    hits = [iou(boxed(mask), box) >= OVERLAP or centre_inside(box, mask) for mask in masks]
    return bool(np.mean(hits) > 0.5) if hits else None


def summarise(results: list[Outcome]) -> list[str]:
    """The figures of "Must show" over all sets."""
    real = [
        (result, pair["class_index"])
        for result in results
        for pair in {p["class_index"]: p for p in result["pairs"] if p["real"]}.values()
    ]
    strong = ("confirmed", "property")
    found = [
        next(
            (c for c in sorted(result["claims"], key=_by_rightness)
             if c["class_index"] == index and c["verdict"] in strong),
            None,
        )
        for result, index in real
    ]  # fmt: skip
    claims = [claim for claim in found if claim is not None]
    right = [c for c in claims if c["kind_right"] and c["place_right"] is not False]
    n_pairs = sum(result["n_classes"] for result in results) - len(real)
    false = {
        verdict: sum(
            len(
                {c["class_index"] for c in r["claims"] if c["verdict"] == verdict and not c["real"]}
            )
            for r in results
        )
        for verdict in (*strong, "suspected")
    }
    at_10 = [c["precision_at_10"] for c in claims if "precision_at_10" in c]
    reliance = [c["reliance_ap"] for c in claims if "reliance_ap" in c]
    shares = [c["class_share"] for c in claims if "class_share" in c]
    asked = [r["asked"] for r in results if r["asked"]]
    return [
        f"sets {len(results)}, real pairs {len(real)}, other pairs {n_pairs}",
        f"found {len(claims)} of {len(real)} ({_ratio(len(claims), len(real))}), "
        f"told rightly {len(right)} ({_ratio(len(right), len(claims))})",
        f"precision among the first ten members {_mean(at_10)}, reliance AP {_mean(reliance)} "
        f"(lowest {min(reliance, default=float('nan')):.2f}; listing the class {_mean(shares)})",
        f"claims for other pairs: {false}",
        f"images predicted by verify: mean {_mean(asked)}",
    ]


def _false(result: Outcome) -> list[Outcome]:
    return [claim for claim in result["claims"] if not claim["real"]]


def _by_rightness(claim: Outcome) -> tuple[bool, bool]:
    return not claim.get("kind_right"), claim.get("place_right") is False


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.2f}" if whole else "-"


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.2f}" if values else "-"


def describe(result: Outcome) -> list[str]:
    """A set in lines: what is true, and what is claimed."""
    lines = [f"{result['set']} ({result['seconds']} s, accuracy {result['accuracy']:.2f})"]
    for pair in result["pairs"]:
        lines.append(
            f"    {'real' if pair['real'] else 'not real'}: {pair['drawing']} on class "
            f"{pair['class_index']}, added {pair['added']:.0%}, removed {pair['removed']:.0%}, "
            f"absent {pair['absent']:.0%}"
        )
    for claim in result["claims"]:
        mark = "true" if claim["real"] else "FALSE"
        told = f"kind {claim.get('kind_right')}, place {claim.get('place_right')}"
        lines.append(f"    {mark} {claim['verdict']}: {claim['summary']} [{told}]")
    return lines


def main() -> None:
    """Make, audit and compare the sets of a part; results also go into a JSON file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--part", choices=sorted(SEEDS), required=True)
    parser.add_argument("--forms", nargs="+", help="names of forms; all of the part by default")
    parser.add_argument("--seeds", type=int, nargs="+", help="by default those of the part")
    parser.add_argument("--garments", type=Path, required=True, help="Fashion-MNIST's four files")
    parser.add_argument("--cutouts", type=Path, help="folder of PNG files with alpha")
    parser.add_argument("--grounds", type=Path, help="folder of JPEG photographs")
    parser.add_argument("--photographs", type=Path, help="a folder of JPEG files per class")
    parser.add_argument("--cache", type=Path, default=Path("outputs/forms/sets"))
    parser.add_argument("--out", type=Path, default=Path("outputs/forms/runs"))
    parser.add_argument("--json", type=Path, default=Path("outputs/forms/results.json"))
    parser.add_argument("overrides", nargs="*", help="settings of camaudit")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    results = []
    for seed in args.seeds or SEEDS[args.part]:
        for form in forms(args.part, seed):
            if args.forms is None or form.name in args.forms:
                results.append(outcome(form, seed, args))
                print("\n".join(describe(results[-1])), flush=True)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    kind = "controls" if args.part == CONTROL else f"forms {args.part.replace('_', ' ')}"
    print("\n".join([kind, *summarise(results)]))


if __name__ == "__main__":
    main()
