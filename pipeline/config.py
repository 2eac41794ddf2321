"""The settings of a run: one dataclass per choice in conf/, filled and checked in one go."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.errors import ConfigError

STAGES = ("explain", "discover", "verify", "rank", "report")
AUTO = "auto"


@dataclass
class ImageFolder:
    """Images in folders named after their class."""

    kind: str = "image_folder"
    root: str = MISSING


@dataclass
class Manifest:
    """A CSV or Parquet table that names the images."""

    kind: str = "manifest"
    path: str = MISSING
    root: str | None = None
    path_column: str = "path"
    label_column: str | None = "label"
    box_columns: list[str] | None = None
    mask_column: str | None = None


@dataclass
class TorchvisionDataset:
    """A class of torchvision.datasets."""

    kind: str = "torchvision"
    name: str = MISSING
    root: str = MISSING
    split: str = "test"
    download: bool = False


@dataclass
class HuggingFaceDataset:
    """Parquet files or a save_to_disk folder with encoded images."""

    kind: str = "huggingface"
    path: str = MISSING
    split: str | None = None
    image_column: str = "image"
    label_column: str | None = "label"


@dataclass
class CustomDataset:
    """Any map-style torch Dataset, built by a factory."""

    kind: str = "custom"
    factory: str = MISSING
    factory_args: dict[str, Any] = field(default_factory=dict)


@dataclass
class PreprocessConfig:
    """From a decoded picture to what the model expects; None: what its weights say."""

    resize: Any = None
    crop: Any = None
    mean: list[float] | None = None
    std: list[float] | None = None
    interpolation: str | None = None


@dataclass
class ModelConfig:
    """Keys that every model has."""

    kind: str = MISSING
    checkpoint: str | None = None
    trust_checkpoint: bool = False
    class_names: Any = None
    target_layer: str = AUTO
    output: str = "multiclass"
    preprocess: PreprocessConfig = field(default_factory=PreprocessConfig)


@dataclass
class ZooModel(ModelConfig):
    """A model of torchvision, timm or Hugging Face, by name."""

    name: str = MISSING
    weights: str | None = "DEFAULT"


@dataclass
class CustomModel(ModelConfig):
    """A module built by the user's factory."""

    factory: str = MISSING
    factory_args: dict[str, Any] = field(default_factory=dict)


@dataclass
class CamConfig:
    """How a prediction is explained."""

    method: str = "gradcam"
    embedding_dim: int = 128


@dataclass
class ExecutorConfig:
    """Where shards are computed."""

    name: str = "local"


@dataclass
class LoaderConfig:
    """How images reach the device."""

    batch_size: int | str = AUTO
    num_workers: int | str = AUTO
    shard_size: int = 1024


@dataclass
class DataConfig:
    """Limits on the data."""

    max_error_rate: float = 0.05
    max_pixels: int = 89_478_485


@dataclass
class AnalysisConfig:
    """Sample sizes and error rates of discover, verify and rank."""

    sample_per_class: int = 300
    trials: int = 120
    permutations: int = 200
    fdr: float = 0.05
    min_effect: float = 0.1
    max_suspects: int = 1000


@dataclass
class ReportConfig:
    """What the report shows."""

    suspects: int = 200
    thumbnail: int = 224
    colormap: str = "viridis"
    alpha: float = 0.5


@dataclass
class Config:
    """All settings of a run, as plain values."""

    run_id: str = "audit"
    output_dir: str = "outputs"
    device: str = AUTO
    precision: str = AUTO
    channels_last: bool = True
    compile: bool = False
    seed: int = 0
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    dataset: Any = field(default_factory=ImageFolder)
    model: Any = field(default_factory=ZooModel)
    cam: CamConfig = field(default_factory=CamConfig)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    report: ReportConfig = field(default_factory=ReportConfig)

    @property
    def folder(self) -> Path:
        """The folder of the run: output_dir/run_id."""
        return Path(self.output_dir) / self.run_id


CHOICES: dict[str, dict[str, type]] = {
    "dataset": {
        "image_folder": ImageFolder,
        "manifest": Manifest,
        "torchvision": TorchvisionDataset,
        "huggingface": HuggingFaceDataset,
        "custom": CustomDataset,
    },
    "model": {
        "torchvision": ZooModel,
        "timm": ZooModel,
        "huggingface": ZooModel,
        "custom": CustomModel,
    },
}


def conf_dir() -> Path:
    """Absolute path of conf/: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def load(composed: DictConfig) -> Config:
    """Merge what Hydra composed into plain dataclasses.

    Raises:
        ConfigError: naming every unknown key, wrong type, missing value and bad range at once.
    """
    try:
        raw = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        told = str(error).splitlines()[0]
        raise ConfigError(f"settings that cannot be used:\n  {error.full_key}: {told}") from error
    assert isinstance(raw, dict)
    schema, problems = _schema(raw)
    unusable: set[str] = set()
    for key, value in leaves(raw):
        try:
            OmegaConf.update(schema, key, value)
        except OmegaConfBaseException as error:
            problems.append(f"{key}: {str(error).splitlines()[0]}")
            unusable.add(key)
    missing = sorted(OmegaConf.missing_keys(schema) - unusable)
    problems += [f"{key}: must be given" for key in missing]
    problems += _range_problems(schema)
    if problems:
        raise ConfigError("settings that cannot be used:\n  " + "\n  ".join(problems))
    config = OmegaConf.to_object(schema)
    assert isinstance(config, Config)
    return config


def leaves(tree: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of every setting in a nested dict; factory_args are one setting."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and key != "factory_args":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def result_settings(config: Config) -> dict[str, Any]:
    """The settings, by dotted key, that change what the explain stage writes.

    Executor, workers, analysis, report and limits may differ between two attempts at a run;
    these may not. Device, batch size and layer are compared as decided, not as written.
    """
    tree: dict[str, Any] = {
        "seed": config.seed,
        "dataset": _as_dict(config.dataset),
        "model": _as_dict(config.model),
        "cam": _as_dict(config.cam),
        "loader": {"shard_size": config.loader.shard_size},
        "data": {"max_pixels": config.data.max_pixels},
    }
    tree["model"].pop("target_layer")
    tree["dataset"].pop("download", None)  # how the files came, not what they are
    return dict(leaves(tree))


def fingerprint(settings: dict[str, Any]) -> str:
    """Hash of settings, the same for the same values in any order (32 hex digits)."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _as_dict(choice: Any) -> dict[str, Any]:
    container = OmegaConf.to_container(OmegaConf.structured(choice))
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _schema(raw: dict[Any, Any]) -> tuple[DictConfig, list[str]]:
    """The structured config for the choices that `raw` made, and what is wrong with those."""
    schema, problems = OmegaConf.structured(Config), []
    for group, kinds in CHOICES.items():
        section = raw.get(group)
        kind = section.get("kind") if isinstance(section, dict) else None
        if kind in kinds:
            schema[group] = OmegaConf.structured(kinds[kind])
        else:
            problems.append(f"{group}.kind: {kind!r} is none of {', '.join(kinds)}")
            raw.pop(group, None)
            schema[group] = {}
    return schema, problems


ONE_OF = {
    "precision": (AUTO, "fp32", "bf16", "fp16"),
    "cam.method": ("gradcam", "gradcam_pp", "xgradcam", "hirescam", "layercam", "eigencam"),
    "model.output": ("multiclass", "binary", "multilabel"),
    "executor.name": ("local",),
}
LEAST = {
    "seed": 0,
    "loader.shard_size": 1,
    "cam.embedding_dim": 1,
    "data.max_pixels": 1,
    "analysis.sample_per_class": 1,
    "analysis.trials": 1,
    "analysis.permutations": 1,
    "analysis.max_suspects": 0,
    "report.suspects": 0,
    "report.thumbnail": 16,
}
SHARES = ("data.max_error_rate", "analysis.fdr", "analysis.min_effect", "report.alpha")


def _range_problems(schema: DictConfig) -> Iterator[str]:
    """Values of the right type that cannot work."""
    if not re.fullmatch(r"[\w+=-][\w.+=-]*", schema.run_id):
        yield f"run_id: {schema.run_id!r} may hold letters, digits and . _ + = - only"
    if not schema.stages or list(schema.stages) != [s for s in STAGES if s in schema.stages]:
        yield f"stages: {list(schema.stages)} is no part of {', '.join(STAGES)}, in this order"
    for key, names in ONE_OF.items():
        if OmegaConf.select(schema, key, default=names[0]) not in names:
            yield f"{key}: {OmegaConf.select(schema, key)!r} is none of {', '.join(names)}"
    for key, least in (("loader.batch_size", 1), ("loader.num_workers", 0)):
        value = OmegaConf.select(schema, key)
        if value != AUTO and (isinstance(value, str) or value < least):
            yield f"{key}: {value!r} is neither auto nor a number from {least} up"
    for key, least in LEAST.items():
        if OmegaConf.select(schema, key) < least:
            yield f"{key}: {OmegaConf.select(schema, key)} is below {least}"
    for key in SHARES:
        if not 0 <= OmegaConf.select(schema, key) <= 1:
            yield f"{key}: {OmegaConf.select(schema, key)} is not between 0 and 1"
