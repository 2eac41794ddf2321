"""From what Hydra composed to plain dataclasses, filled and checked in one go."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.settings import AUTO, CHOICES, CHOSEN_BY, KINDS, STAGES, Config
from pipeline.errors import ConfigError, one_line
from pipeline.storage.files import StoreError, is_file
from pipeline.storage.paths import check_writable, protocol_of, to_path
from pipeline.storage.run_setup import JsonObject

Settings = TypeVar("Settings")


def conf_dir() -> Path:
    """Absolute path of conf/: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def load(composed: DictConfig) -> Config:
    """The settings of a run, as `filled`."""
    return filled(composed, Config)


def filled(composed: DictConfig, kind: type[Settings]) -> Settings:
    """Merge what Hydra composed into plain dataclasses of a kind.

    Raises:
        ConfigError: naming every unknown key, wrong type, missing value and bad range at once.
    """
    try:
        container = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        told = one_line(error, with_type=False, first_line_only=True)
        raise ConfigError(f"settings that cannot be used:\n  {error.full_key}: {told}") from error
    assert isinstance(container, dict)
    raw = {str(key): value for key, value in container.items()}
    schema, problems = _schema(raw, kind)
    unusable: set[str] = set()
    for key, value in leaves(raw):
        try:
            OmegaConf.update(schema, key, _as_it_stands(value))
        except OmegaConfBaseException as error:
            problems.append(f"{key}: {one_line(error, with_type=False, first_line_only=True)}")
            unusable.add(key)
    missing = sorted(OmegaConf.missing_keys(schema) - unusable)
    problems += [f"{key}: must be given" for key in missing]
    problems += [*_range_problems(schema), *_gate_problems(schema), *_path_problems(schema)]
    if problems:
        raise ConfigError("settings that cannot be used:\n  " + "\n  ".join(problems))
    config = OmegaConf.to_object(schema)
    assert isinstance(config, kind)
    return config


def _as_it_stands(value: object) -> object:
    """A value that was resolved, in which ${ is no reference any more."""
    if isinstance(value, list):
        return [_as_it_stands(each) for each in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def leaves(tree: JsonObject, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of every setting in a nested dict; factory_args are one setting."""
    for key, value in tree.items():
        if isinstance(value, dict) and value and key != "factory_args":
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def result_settings(config: Config) -> JsonObject:
    """The settings, by dotted key, that change what the explain stage writes.

    Executor, workers, analysis, report and limits may differ between two attempts at a run;
    these may not. Device, batch size and layer are compared as decided, not as written.
    """
    tree: JsonObject = {
        "seed": config.seed,
        "dataset": _as_dict(config.dataset),
        "model": _as_dict(config.model),
        "cam": _as_dict(config.cam),
        "loader": {"shard_size": config.loader.shard_size},
        "data": {"max_pixels": config.data.max_pixels, "hash": config.data.hash},
    }
    tree["model"].pop("target_layer")
    tree["dataset"].pop("download", None)  # how the files came, not what they are
    return dict(leaves(tree))


def fingerprint(settings: JsonObject) -> str:
    """Hash of settings, the same for the same values in any order (32 hex digits)."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _as_dict(choice: object) -> JsonObject:
    container = OmegaConf.to_container(OmegaConf.structured(choice))
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _schema(raw: JsonObject, kind: type) -> tuple[DictConfig, list[str]]:
    """The structured config for the choices that `raw` made, and what is wrong with those."""
    schema, problems = OmegaConf.structured(kind), []
    for group, kinds in CHOICES.items():
        if group not in schema:
            continue
        section = raw.get(group)
        key = CHOSEN_BY[group]
        choice = section.get(key) if isinstance(section, dict) else None
        if choice in kinds:
            schema[group] = OmegaConf.structured(kinds[choice])
        else:
            problems.append(f"{group}.{key}: {choice!r} is none of {', '.join(kinds)}")
            raw.pop(group, None)
            schema[group] = {}
    return schema, problems


ONE_OF = {
    "precision": (AUTO, "fp32", "bf16", "fp16"),
    "cam.method": ("gradcam", "gradcam_pp", "xgradcam", "hirescam", "layercam", "eigencam"),
    "model.output": ("multiclass", "binary", "multilabel"),
}
LEAST = {
    "seed": 0,
    "loader.shard_size": 1,
    "executor.tries": 1,
    "executor.timeout": 1,
    "cam.embedding_dim": 1,
    "data.max_pixels": 1,
    "analysis.sample_per_class": 1,
    "analysis.trials": 1,
    "analysis.permutations": 1,
    "analysis.max_suspects": 0,
    "report.suspects": 0,
    "report.examples": 0,
    "report.thumbnail": 16,
}
SHARES = (
    "data.max_error_rate",
    "analysis.fdr",
    "analysis.min_effect",
    "gate.error_rate",
    "gate.accuracy",
    "gate.accuracy_drop",
    "report.alpha",
    "alpha",
)
COUNTS = {
    "loader.batch_size": 1,
    "loader.num_workers": 0,
    "batch_size": 1,
    "executor.workers": 1,
    "executor.cpus_per_worker": 1,
    "executor.gpus_per_worker": 0,
    "shard.index": 0,
    "shard.count": 1,
}
"""Least values of what may also be auto."""


def _range_problems(schema: DictConfig) -> Iterator[str]:
    """Values of the right type that cannot work."""
    if "run_id" in schema and not re.fullmatch(r"[\w+=-][\w.+=-]*", schema.run_id):
        yield f"run_id: {schema.run_id!r} may hold letters, digits and . _ + = - only"
    if "stages" in schema:
        named = list(schema.stages)
        if not named or named != [stage for stage in STAGES if stage in named]:
            yield f"stages: {named} is no part of {', '.join(STAGES)}, in this order"
    for key, names in ONE_OF.items():
        if OmegaConf.select(schema, key, default=names[0]) not in names:
            yield f"{key}: {OmegaConf.select(schema, key)!r} is none of {', '.join(names)}"
    for key, least in COUNTS.items():
        value = OmegaConf.select(schema, key, default=AUTO)
        if value != AUTO and (isinstance(value, str) or value < least):
            yield f"{key}: {value!r} is neither auto nor a number from {least} up"
    for key, least in LEAST.items():
        if OmegaConf.select(schema, key, default=least) < least:
            yield f"{key}: {OmegaConf.select(schema, key)} is below {least}"
    if (OmegaConf.select(schema, "data.timeout") or 1) <= 0:
        yield f"data.timeout: {schema.data.timeout} is not above 0"
    for key in SHARES:
        if not 0 <= (OmegaConf.select(schema, key) or 0) <= 1:
            yield f"{key}: {OmegaConf.select(schema, key)} is not between 0 and 1"


def _gate_problems(schema: DictConfig) -> Iterator[str]:
    """Limits that can never be held against anything."""
    for name in ("suspects", "suspect_share"):
        for kind, most in (OmegaConf.select(schema, f"gate.{name}") or {}).items():
            if kind not in KINDS:
                yield f"gate.{name}: {kind!r} is none of {', '.join(KINDS)}"
            elif most is not None and (most < 0 or (name == "suspect_share" and most > 1)):
                yield f"gate.{name}.{kind}: {most} is out of range"
    for name in ("confirmed_findings", "new_findings", "drifted_classes"):
        if (OmegaConf.select(schema, f"gate.{name}") or 0) < 0:
            yield f"gate.{name}: {OmegaConf.select(schema, f'gate.{name}')} is below 0"
    if "gate" in schema and schema.baseline is None:
        for name in ("new_findings", "accuracy_drop", "drifted_classes"):
            if OmegaConf.select(schema, f"gate.{name}") is not None:
                yield f"gate.{name}: needs a baseline"


def _path_problems(schema: DictConfig) -> Iterator[str]:
    """What is read only late in a run, and should not be missed then."""
    decisions = OmegaConf.select(schema, "rank.decisions")
    if decisions is not None:
        yield from _lacking("rank.decisions", decisions, "", f"there is no file {decisions}")
    metrics = OmegaConf.select(schema, "metrics")
    if metrics is not None and Path(metrics).suffix != ".prom":
        yield f"metrics: {metrics} does not end in .prom, and would not be collected"
    baseline = OmegaConf.select(schema, "baseline")
    if baseline is not None:
        no_run = f"{baseline} is not the folder of a run"
        yield from _lacking("baseline", baseline, "plan.parquet", no_run)
    for key in ("output_dir", "metrics"):
        try:
            check_writable(key, OmegaConf.select(schema, key) or "")
            to_path(OmegaConf.select(schema, key) or "")
        except ConfigError as error:
            yield str(error)


def _lacking(key: str, text: str, name: str, words: str) -> Iterator[str]:
    """What is wrong with a file, or a file of that name in a folder, that is to be read."""
    try:
        if not is_file(to_path(text) / name if name else to_path(text)):
            yield f"{key}: {words}"
    except (ConfigError, StoreError) as error:
        yield f"{key}: {error}"


def attempts(output_dir: str, run_id: str) -> str:
    """The folder of Hydra's own files, which is on this machine even if the run's is not."""
    if protocol_of(output_dir) is None:
        return f"{output_dir}/{run_id}/attempts"
    if protocol_of(output_dir) == "file":
        return str(to_path(output_dir) / run_id / "attempts")
    return f"outputs/{run_id}/attempts"


OmegaConf.register_new_resolver("attempts", attempts, replace=True)
