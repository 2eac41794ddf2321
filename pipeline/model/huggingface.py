"""Image classifiers of Hugging Face transformers."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pipeline.config import ZooModel
from pipeline.errors import ConfigError, as_config_error, shorten_list
from pipeline.model import checkpoint, image_processor
from pipeline.model.checkpoint import Weights
from pipeline.model.loaded import LoadedModel, random_weights

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LoadingInfo = dict[str, Any]
"""Names of weights that are missing, unexpected or of another shape, as transformers lists them."""


def build(config: ZooModel, weights: Weights | None) -> LoadedModel:
    """The classifier in a folder of save_pretrained, or of that id on the Hub, in float32.

    Args:
        config: name tells the model; weights are its own (DEFAULT) or random (None).
        weights: of a checkpoint, which tells the number of classes and is filled in later. Where
            its names are those of another version of transformers, they are changed in place.

    Raises:
        ConfigError: a model that cannot be found, is no image classifier, lacks weights, brings
            its own code, or has a preprocessing that PreprocessConfig cannot express.
    """
    if config.weights not in (None, "DEFAULT"):
        raise ConfigError(
            f"model.weights: a model of the Hub has DEFAULT, not {config.weights!r}; for a "
            "revision, download it (hf download ID --revision ...) and give its folder as "
            "model.name"
        )
    library = _library()
    settings = _settings(library, config.name)
    doubts = _output_doubts(config, settings)
    if weights is not None:
        module = _for_checkpoint(library, config, settings, weights)
    elif config.weights is None:
        module = _random(library, config.name, settings)
        doubts.append(random_weights(config.name))
    else:
        module = _pretrained(library, config.name, settings)
    says, note = image_processor.preprocess(library, config, settings)
    return LoadedModel(module.float(), says, _class_names(settings), doubts + note)


def _library() -> ModuleType:
    try:
        import transformers  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            'model=huggingface needs transformers: pip install "camaudit[huggingface]"'
        ) from error
    # Where the Hub has a .bin only, it would ask a bot for a pull request to that repository.
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    library: ModuleType = transformers
    return library


def _settings(library: ModuleType, name: str) -> PretrainedConfig:
    """The model's config, for a model in float32."""
    where = "" if Path(name).is_dir() else "is no folder, and as an id on the Hub "
    with as_config_error(f"model.name: {name} {where}cannot be loaded"):
        settings = library.AutoConfig.from_pretrained(name, trust_remote_code=False)
    if type(settings) not in library.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ConfigError(
            f"model.name: {name} is a {settings.model_type}, of which transformers has no image "
            "classifier"
        )
    settings.dtype = torch.float32  # before it is built: float() would widen buffers cut to half
    return settings


def _random(library: ModuleType, name: str, settings: PretrainedConfig) -> nn.Module:
    with as_config_error(f"model.name: {name} cannot be built"):
        module = library.AutoModelForImageClassification.from_config(
            settings, trust_remote_code=False
        )
    assert isinstance(module, nn.Module)
    return module


def _pretrained(library: ModuleType, name: str, settings: PretrainedConfig) -> nn.Module:
    with as_config_error(f"model.name: {name} cannot be loaded"):
        module, info = library.AutoModelForImageClassification.from_pretrained(
            name,
            config=settings,
            trust_remote_code=False,
            weights_only=True,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    problems = _problems(info)
    if problems:
        raise ConfigError(
            f"model.name: {name} lacks weights, which would be random\n  " + "\n  ".join(problems)
        )
    assert isinstance(module, nn.Module)
    return module


def _problems(info: LoadingInfo, *, strict: bool = False) -> list[str]:
    """What transformers filled with random numbers and, where strict, what it did not use."""
    # Old checkpoints lack the batch counters of BatchNorm, which evaluation does not use.
    missing = [key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")]
    shapes = [
        # transformers 4.5x tells names only
        key
        if isinstance(key, str)
        else f"{key[0]} is {tuple(key[1])}, the model has {tuple(key[2])}"
        for key in info["mismatched_keys"]
    ]
    unused = info["unexpected_keys"] if strict else []
    problems = {"missing": missing, "unexpected": unused, "of another shape": shapes}
    return [
        f"{len(keys)} keys {what}: {shorten_list(sorted(keys))}"
        for what, keys in problems.items()
        if keys
    ]


def _for_checkpoint(
    library: ModuleType, config: ZooModel, settings: PretrainedConfig, weights: Weights
) -> nn.Module:
    """The model with as many classes as the checkpoint; its weights are not yet filled in."""
    module = _random(library, config.name, settings)
    n_outputs = checkpoint.n_outputs(weights, module, settings.num_labels)
    if n_outputs != settings.num_labels:
        settings.num_labels = n_outputs
        module = _random(library, config.name, settings)
    _rename(weights, module, settings, str(config.checkpoint))
    return module


def _rename(
    weights: Weights, module: PreTrainedModel, settings: PretrainedConfig, path: str
) -> None:
    """Give weights the module's own names, where transformers stores them under others."""
    own = module.state_dict().keys()
    if not weights.keys() - own:
        return
    with as_config_error(f"model.checkpoint: {path} cannot be loaded"):
        loaded, info = type(module).from_pretrained(
            None,
            config=settings,
            state_dict=dict(weights),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if len(info["unexpected_keys"]) == len(weights) or len(info["missing_keys"]) == len(own):
        return  # names of a training wrapper, which checkpoint.fill knows
    problems = _problems(info, strict=True)
    if problems:
        raise ConfigError(
            f"model.checkpoint: {path} does not fit the model\n  " + "\n  ".join(problems)
        )
    weights.clear()
    weights.update(loaded.state_dict())


def _output_doubts(config: ZooModel, settings: PretrainedConfig) -> list[str]:
    if settings.problem_type != "multi_label_classification" or config.output == "multilabel":
        return []
    return [
        f"{config.name} was trained for multi_label_classification, which model.output=multilabel "
        f"stands for, not {config.output}"
    ]


def _class_names(settings: PretrainedConfig) -> list[str] | None:
    """The labels in the order of the outputs, unless they are transformers' placeholders.

    The label of a single logit is none of both classes' names.
    """
    indices = range(settings.num_labels)
    names = [settings.id2label.get(index) for index in indices]
    if len(names) < 2 or None in names or names == [f"LABEL_{index}" for index in indices]:
        return None
    return [str(name) for name in names]
