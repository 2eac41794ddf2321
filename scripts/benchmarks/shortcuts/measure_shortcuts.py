"""Count what is found of planted shortcuts: recall, false alarms, places, rankings, label errors.

Pictures are composed from Fashion-MNIST, small networks are trained on them (kept in --cache), and
each set goes through camaudit and its peers. Truth is what a network does when the cue is added
and taken away, not what was planted.

    scripts/benchmarks/shortcuts/run --source FashionMNIST/raw --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import audits
import numpy as np
import outcomes
import pandas as pd
from explained import read
from outcomes import CAMAUDIT, FINDING, Truth
from peers import PEERS, label_scores
from scores import Measured, Verdict, measure, wilson
from sets import Recipe, recipes
from training import make

Outcome = dict[str, Any]


def outcome(recipe: Recipe, seed: int, args: argparse.Namespace) -> Outcome:
    """A set made, audited and judged, as plain values."""
    made = make(recipe, seed, args.source, args.cache)
    truth = Truth.read(made)
    begun = time.perf_counter()
    run = audits.run(recipe, seed, made, args.out, *args.overrides)
    seconds = time.perf_counter() - begun
    findings = pd.read_parquet(run / "analysis" / "findings.parquet")
    verdicts = {CAMAUDIT: outcomes.verdicts(findings)}
    labels: dict[str, float] = {}
    if args.peers or recipe.noise:
        explained = read(run, np.load(made / "audited.npz")["pictures"])
        verdicts |= _of_peers(explained) if args.peers else {}
        if recipe.noise:
            scores = label_scores(explained.given, explained.probabilities)
            labels = outcomes.label_errors(run, truth, scores)
    return {
        "set": f"{recipe.name}-{seed}",
        "seconds": round(seconds, 1),
        "pairs": truth.pairs,
        "verdicts": {peer: [asdict(each) for each in found] for peer, found in verdicts.items()},
        "findings": findings[list(FINDING)].to_dict("records"),
        "places": list(outcomes.places(findings, truth)),
        "reliance": list(outcomes.reliance(run, findings, truth)),
        "label_errors": labels,
    }


def _of_peers(explained: Any) -> dict[str, list[Verdict]]:
    found = {}
    for name, peer in PEERS.items():
        try:
            found[name] = peer(explained)
        except ImportError as error:
            print(f"{name}: not run: {error}")
    return found


def tell(result: Outcome) -> None:
    """One set: what is true, and what camaudit says."""
    print(f"{result['set']}, {result['seconds']:.0f} s")
    for pair in result["pairs"]:
        print(
            f"    truth: {pair['cue']} on class {pair['class_index']}: added turns "
            f"{pair['added']:.0%}, removed {pair['removed']:.0%}"
            + ("" if pair["relied"] else ", not relied upon")
        )
    for finding in result["findings"]:
        print(f"    {finding['verdict']}: {finding['summary']}")


def summary(results: list[Outcome]) -> list[str]:
    """All sets, in lines."""
    lines = ["", "found, of pairs of class and set      recall          false alarms    AP (95 %)"]
    truth = {result["set"]: result["pairs"] for result in results}
    for peer in results[0]["verdicts"]:
        verdicts = {
            result["set"]: [Verdict(**each) for each in result["verdicts"][peer]]
            for result in results
            if peer in result["verdicts"]
        }
        lines.append(_measured(measure(verdicts, truth)))
    hits = [place["share"] > 0.5 for result in results for place in result["places"]]
    low, high = wilson(sum(hits), len(hits))
    lines.append(f"regions on the cue: {sum(hits)} of {len(hits)} ({low:.2f} to {high:.2f})")
    return lines + _rankings(results) + _labels(results)


def latest(results: Iterable[Outcome]) -> list[Outcome]:
    """Of each set the last result; what peers said of it before stays, where they were not asked
    again.
    """
    kept: dict[str, Outcome] = {}
    for result in results:
        before = kept.get(result["set"], {}).get("verdicts", {})
        kept[result["set"]] = {**result, "verdicts": before | result["verdicts"]}
    return list(kept.values())


def _measured(found: Measured) -> str:
    def share(of: Any) -> str:
        return f"{of.count}/{of.total} ({of.low:.2f}-{of.high:.2f})"

    return (
        f"{found.peer:28}{share(found.recall):>20}{share(found.false_alarms):>24}"
        f"   {found.average_precision:.2f} ({found.low:.2f}-{found.high:.2f})"
    )


def _rankings(results: list[Outcome]) -> list[str]:
    by_cue = defaultdict(list)
    for result in results:
        for ranking in result["reliance"]:
            by_cue[ranking["cue"]].append((ranking["found"], ranking["all"]))
    lines = ["members by reliance, average precision (listing all images of the class):"]
    for cue, pairs in by_cue.items():
        found, every = np.mean(pairs, axis=0)
        lines.append(f"    {cue:14}{found:.2f} ({every:.2f}), {len(pairs)} sets")
    return lines


def _labels(results: list[Outcome]) -> list[str]:
    lines = ["wrong labels, average precision:"]
    for result in results:
        if result["label_errors"]:
            told = ", ".join(f"{name} {ap:.3f}" for name, ap in result["label_errors"].items())
            lines.append(f"    {result['set']:18}{told}")
    return lines


def main() -> None:
    """Make, audit and count; everything also goes into a JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--source", type=Path, help="folder of the four idx .gz")
    parser.add_argument(
        "--read", type=Path, nargs="+", help="files of --json: tell them alone, of a set the last"
    )
    parser.add_argument("--cache", type=Path, default=Path("outputs/shortcuts/sets"))
    parser.add_argument("--out", type=Path, default=Path("outputs/shortcuts/runs"))
    parser.add_argument("--json", type=Path, default=Path("outputs/shortcuts/results.json"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sets", nargs="+", help="names of recipes; all where not given")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("overrides", nargs="*", help="settings of camaudit: analysis.trials=60")
    args = parser.parse_args()
    if args.read:
        files = [json.loads(file.read_text(encoding="utf-8")) for file in args.read]
        print("\n".join(summary(latest(itertools.chain.from_iterable(files)))))
        return
    if args.source is None:
        parser.error("--source is needed: the folder of Fashion-MNIST's four files")
    logging.disable(logging.WARNING)
    results = []
    for seed in args.seeds:
        for recipe in recipes(seed):
            if args.sets is None or recipe.name in args.sets:
                results.append(outcome(recipe, seed, args))
                tell(results[-1])
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
