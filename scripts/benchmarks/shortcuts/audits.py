"""A planted set through camaudit: the audit itself, and what it says of the set."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from sets import Recipe

from pipeline.config import Config, conf_dir, load
from pipeline.stages.audit import audit

HERE = Path(__file__).resolve().parent
STAGES = "[explain,discover,verify,rank]"


def settings(recipe: Recipe, seed: int, made: Path, out: Path, *overrides: str) -> Config:
    """Settings that audit a set that `training.make` made."""
    return compose_settings(
        f"dataset.factory={HERE}/sets.py:SavedSet",
        f"+dataset.factory_args.path={made}/audited.npz",
        f"+dataset.factory_args.boxed={recipe.boxed}",
        f"model.factory={HERE}/training.py:build",
        f"+model.factory_args.network={recipe.network}",
        f"model.checkpoint={made}/network.pt",
        "model.preprocess.resize=64",
        f"stages={STAGES}",
        f"output_dir={out}",
        f"run_id={recipe.name}-{seed}",
        *overrides,
    )


def compose_settings(*overrides: str) -> Config:
    """Settings that audit a dataset and a model of factories, in the benchmark's preprocessing."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose(
            "config",
            [
                "dataset=custom",
                "model=custom",
                "model.preprocess.mean=[0.5,0.5,0.5]",
                "model.preprocess.std=[0.25,0.25,0.25]",
                "loader.num_workers=0",
                *overrides,
            ],
        )
    return load(composed)


def run(recipe: Recipe, seed: int, made: Path, out: Path, *overrides: str) -> Path:
    """Audit a set; the folder of the run."""
    config = settings(recipe, seed, made, out, *overrides)
    config.folder.mkdir(parents=True, exist_ok=True)
    audit(config)
    return config.folder
