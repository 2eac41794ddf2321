"""Every key in conf/: one dataclass per choice, with the default and range of each setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from pipeline.config.ranges import (
    AUTO,
    Above,
    AtLeast,
    AutoOrAtLeast,
    OneOf,
    Share,
    setting,
)
from pipeline.storage.paths import to_path
from pipeline.storage.run_setup import JsonObject
from pipeline.storage.values import SuspectKind

STAGES = ("explain", "discover", "verify", "rank", "compare", "gate", "report")
KINDS = tuple(str(kind) for kind in SuspectKind)
PRECISIONS = ("fp32", "bf16", "fp16")
METHODS = ("gradcam", "gradcam_pp", "xgradcam", "hirescam", "layercam", "eigencam")
OUTPUTS = ("multiclass", "binary", "multilabel")


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
    """How an image becomes the model's input; None leaves a key to what the weights say."""

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
    output: str = setting("multiclass", OneOf(OUTPUTS))
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
    """The CAM method, and the size of an embedding in the tables."""

    method: str = setting("gradcam", OneOf(METHODS))
    embedding_dim: int = setting(128, AtLeast(1))


@dataclass
class ExecutorConfig:
    """Executor of the shards: this process."""

    name: str = "local"


@dataclass
class RayExecutor(ExecutorConfig):
    """Executor of the shards: workers of a Ray cluster."""

    name: str = "ray"
    address: str | None = None
    workers: int | str = setting(AUTO, AutoOrAtLeast(1))
    cpus_per_worker: int | str = setting(AUTO, AutoOrAtLeast(1))
    gpus_per_worker: float | str = setting(AUTO, AutoOrAtLeast(0))
    tries: int = setting(3, AtLeast(1))
    timeout: float = setting(120.0, AtLeast(1))


@dataclass
class PartitionConfig:
    """The partition of the shards that this process computes; auto: as torchrun or Slurm say."""

    index: int | str = setting(AUTO, AutoOrAtLeast(0))
    count: int | str = setting(AUTO, AutoOrAtLeast(1))


@dataclass
class LoaderConfig:
    """How images reach the device."""

    batch_size: int | str = setting(AUTO, AutoOrAtLeast(1))
    num_workers: int | str = setting(AUTO, AutoOrAtLeast(0))
    shard_size: int = setting(1024, AtLeast(1))


@dataclass
class DataConfig:
    """Limits on the data."""

    max_error_rate: float = setting(0.05, Share())
    max_pixels: int = setting(89_478_485, AtLeast(1))
    timeout: float | None = setting(60.0, Above(0))
    hash: bool = False


@dataclass
class AnalysisConfig:
    """Sample sizes and error rates of discover, verify and rank."""

    sample_per_class: int = setting(300, AtLeast(1))
    trials: int = setting(120, AtLeast(1))
    permutations: int = setting(20, AtLeast(1))
    fdr: float = setting(0.05, Share())
    min_effect: float = setting(0.2, Share())
    max_suspects: int = setting(1000, AtLeast(0))


@dataclass
class RankConfig:
    """What a person has decided about suspects of an earlier run."""

    decisions: str | None = None


@dataclass
class GateConfig:
    """What a run must not find; None sets no limit."""

    confirmed_findings: int | None = setting(None, AtLeast(0))
    new_findings: int | None = setting(None, AtLeast(0))
    suspects: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(KINDS))
    suspect_share: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(KINDS))
    error_rate: float | None = setting(None, Share())
    accuracy: float | None = setting(None, Share())
    accuracy_drop: float | None = setting(None, Share())
    drifted_classes: int | None = setting(None, AtLeast(0))


@dataclass
class MlflowConfig:
    """Where attempts are logged to MLflow, if anywhere."""

    tracking_uri: str | None = None
    experiment: str = "camaudit"


@dataclass
class ReportConfig:
    """What the report shows."""

    suspects: int = setting(1000, AtLeast(0))
    examples: int = setting(400, AtLeast(0))
    thumbnail: int = setting(448, AtLeast(16))
    colormap: str = "viridis"
    alpha: float = setting(0.5, Share())


@dataclass
class Config:
    """All settings of a run, as plain values."""

    run_id: str = "audit"
    output_dir: str = "outputs"
    device: str = AUTO
    precision: str = setting(AUTO, OneOf((AUTO, *PRECISIONS)))
    channels_last: bool = True
    compile: bool = False
    seed: int = setting(0, AtLeast(0))
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
    alpha: float = setting(0.5, Share())
    device: str = AUTO
    precision: str = setting("fp32", OneOf((AUTO, *PRECISIONS)))
    channels_last: bool = True
    batch_size: int | str = setting(AUTO, AutoOrAtLeast(1))
    seed: int = setting(0, AtLeast(0))
    model: Any = field(default_factory=ZooModel)
    cam: CamConfig = field(default_factory=CamConfig)


CHOSEN_BY = {"dataset": "kind", "model": "kind", "executor": "name"}
"""The key in a group of settings that names the choice."""
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
