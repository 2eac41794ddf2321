"""Every key in conf/: one dataclass per choice, with the defaults that stand there."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pipeline.storage.paths import to_path
from pipeline.storage.run_setup import JsonObject

STAGES = ("explain", "discover", "verify", "rank", "compare", "gate", "report")
KINDS = ("label_error", "shortcut", "no_evidence", "atypical_focus", "ambiguous")
"""Of suspects."""
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
    factory_args: JsonObject = field(default_factory=dict)


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
    factory_args: JsonObject = field(default_factory=dict)


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
class RayExecutor(ExecutorConfig):
    """On a Ray cluster."""

    name: str = "ray"
    address: str | None = None
    workers: int | str = AUTO
    cpus_per_worker: int | str = AUTO
    gpus_per_worker: float | str = AUTO
    tries: int = 3
    timeout: float = 120.0


@dataclass
class PartitionConfig:
    """Which share of the shards this process computes; auto asks torchrun and Slurm."""

    index: int | str = AUTO
    count: int | str = AUTO


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
    timeout: float | None = 60.0
    hash: bool = False


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
class RankConfig:
    """What the ranking knows beside the tables."""

    decisions: str | None = None


@dataclass
class GateConfig:
    """What a run must not find; None sets no limit."""

    confirmed_findings: int | None = None
    new_findings: int | None = None
    suspects: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(KINDS))
    suspect_share: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(KINDS))
    error_rate: float | None = None
    accuracy: float | None = None
    accuracy_drop: float | None = None
    drifted_classes: int | None = None


@dataclass
class MlflowConfig:
    """Where attempts are logged to MLflow, if anywhere."""

    tracking_uri: str | None = None
    experiment: str = "camaudit"


@dataclass
class ReportConfig:
    """What the report shows."""

    suspects: int = 1000
    examples: int = 400
    thumbnail: int = 448
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
    baseline: str | None = None
    retry_errors: bool = False
    metrics: str | None = None
    dataset: Any = field(default_factory=ImageFolder)
    model: Any = field(default_factory=ZooModel)
    cam: CamConfig = field(default_factory=CamConfig)
    executor: Any = field(default_factory=ExecutorConfig)
    shard: PartitionConfig = field(default_factory=PartitionConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    data: DataConfig = field(default_factory=DataConfig)
    analysis: AnalysisConfig = field(default_factory=AnalysisConfig)
    rank: RankConfig = field(default_factory=RankConfig)
    gate: GateConfig = field(default_factory=GateConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    mlflow: MlflowConfig = field(default_factory=MlflowConfig)

    @property
    def folder(self) -> Path:
        """The folder of the run, output_dir/run_id; in a bucket where output_dir is a URL."""
        return to_path(self.output_dir) / self.run_id


@dataclass
class ExplainConfig:
    """All settings of camaudit-explain, as plain values; `wanted` is its key `class`."""

    image: str = MISSING
    wanted: Any = "top"
    run: str | None = None
    output: str | None = None
    separate: bool = False
    show: bool | str = AUTO
    colormap: str = "viridis"
    alpha: float = 0.5
    device: str = AUTO
    precision: str = "fp32"
    channels_last: bool = True
    batch_size: int | str = AUTO
    seed: int = 0
    model: Any = field(default_factory=ZooModel)
    cam: CamConfig = field(default_factory=CamConfig)


CHOSEN_BY = {"dataset": "kind", "model": "kind", "executor": "name"}
"""The key of a group that says which choice it is."""
CHOICES: dict[str, dict[str, type]] = {
    "executor": {"local": ExecutorConfig, "ray": RayExecutor},
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
