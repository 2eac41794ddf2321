"""Build image classifiers of Hugging Face transformers."""

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
    """Build the classifier of a save_pretrained folder or of a Hub id, in float32.

    Args:
        config: name is the folder or id; weights are the model's own (DEFAULT) or random (None).
        weights: the weights of a checkpoint, which give the number of classes; they are loaded
            later. Names of another version of transformers are changed in place.

    Raises:
        ConfigError: the model cannot be found, is no image classifier, lacks weights, brings its
            own code, or has a preprocessing that PreprocessConfig cannot express.
    """
    if config.weights not in (None, "DEFAULT"):
        raise ConfigError(
            f"model.weights: a model of the Hub has DEFAULT, not {config.weights!r}; for a "
            "revision, download it (hf download ID --revision ...) and give its folder as "
            "model.name"
        )
    library = _library()
    settings = _settings(library, config.name)
    warnings = _output_warnings(config, settings)
    if weights is not None:
        module = _for_checkpoint(library, config, settings, weights)
    elif config.weights is None:
        module = _random(library, config.name, settings)
        warnings.append(random_weights(config.name))
    else:
        module = _pretrained(library, config.name, settings)
    defaults, note = image_processor.preprocess(library, config, settings)
    return LoadedModel(module.float(), defaults, _class_names(settings), warnings + note)


def _library() -> ModuleType:
    try:
        import transformers  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ConfigError(
            'model=huggingface needs transformers: pip install "camaudit[huggingface]"'
        ) from error
    # Otherwise transformers opens a pull request on the Hub for repositories without safetensors.
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
            f"model.name: {name} is a {settings.model_type}; transformers has no image classifier "
            "of this type"
        )
    settings.dtype = torch.float32  # float() after the build could not restore rounded buffers
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
            ignore_mismatched_sizes=True,  # reported below by name
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
    """Weights that transformers initialised randomly and, if strict, weights it did not use."""
    # Old checkpoints lack the batch counters of BatchNorm, which evaluation does not use.
    missing = [key for key in info["missing_keys"] if not key.endswith("num_batches_tracked")]
    shapes = [
        # transformers 4.5x reports names only
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
    """The model with as many classes as the checkpoint has; the weights are loaded later."""
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
    """Rename weights in place to the module's names, where transformers stores other names."""
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
        return  # names of a training wrapper, which checkpoint.load_weights removes
    problems = _problems(info, strict=True)
    if problems:
        raise ConfigError(
            f"model.checkpoint: {path} does not fit the model\n  " + "\n  ".join(problems)
        )
    weights.clear()
    weights.update(loaded.state_dict())


def _output_warnings(config: ZooModel, settings: PretrainedConfig) -> list[str]:
    if settings.problem_type != "multi_label_classification" or config.output == "multilabel":
        return []
    return [
        f"{config.name} was trained for multi_label_classification; set model.output=multilabel "
        f"instead of {config.output}"
    ]


def _class_names(settings: PretrainedConfig) -> list[str] | None:
    """The labels in the order of the outputs; None for transformers' placeholders.

    Also None for a model with a single logit, whose one label names neither of its two classes.
    """
    indices = range(settings.num_labels)
    names = [settings.id2label.get(index) for index in indices]
    if len(names) < 2 or None in names or names == [f"LABEL_{index}" for index in indices]:
        return None
    return [str(name) for name in names]
