"""From what Hydra composed to plain dataclasses: every mistake is reported at once."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.ranges import KEY, Range
from pipeline.config.settings import CHOICES, CHOSEN_BY, KINDS, STAGES, Config
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
    """The settings of a run (`to_settings`)."""
    return to_settings(composed, Config)


def to_settings(composed: DictConfig, kind: type[Settings]) -> Settings:
    """Merge what Hydra composed into plain dataclasses of a kind.

    Raises:
        ConfigError: naming every unknown key, wrong type, missing value and bad range at once.
    """
    try:
        container = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        reason = one_line(error, with_type=False, first_line_only=True)
        raise ConfigError(f"settings that cannot be used:\n  {error.full_key}: {reason}") from error
    assert isinstance(container, dict)
    raw = {str(key): value for key, value in container.items()}
    schema, problems = _schema(raw, kind)
    unusable: set[str] = set()
    for key, value in leaves(raw):
        try:
            OmegaConf.update(schema, key, _escape_references(value))
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


def _escape_references(value: object) -> object:
    """A resolved value for OmegaConf, which would take ${ in it for a reference."""
    if isinstance(value, list):
        return [_escape_references(each) for each in value]
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
    these may not. Device, batch size and layer are compared as resolved, not as written.
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
    tree["dataset"].pop("download", None)  # changes no file
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
    """The structured config for the choices in `raw`, and a message for each unknown choice."""
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


def _range_problems(schema: DictConfig) -> Iterator[str]:
    """Settings of the right type whose value is outside of its range."""
    if "run_id" in schema and not re.fullmatch(r"[\w+=-][\w.+=-]*", schema.run_id):
        yield f"run_id: {schema.run_id!r} may hold letters, digits and . _ + = - only"
    if "stages" in schema:
        named = list(schema.stages)
        if not named or named != [stage for stage in STAGES if stage in named]:
            yield f"stages: {named} is no part of {', '.join(STAGES)}, in this order"
    for key, allowed, value in _ranged(schema):
        problem = allowed.problem(value)
        if problem:
            yield f"{key}: {problem}"


def _ranged(schema: DictConfig, prefix: str = "") -> Iterator[tuple[str, Range, object]]:
    """Dotted key, range and value of every setting that has a range and is not null."""
    kind = OmegaConf.get_type(schema)
    for each in fields(kind) if is_dataclass(kind) else ():
        key = f"{prefix}{each.name}"
        value = None if OmegaConf.is_missing(schema, each.name) else schema[each.name]
        if isinstance(value, DictConfig):
            yield from _ranged(value, f"{key}.")
        elif KEY in each.metadata and value is not None:
            yield key, each.metadata[KEY], value


def _gate_problems(schema: DictConfig) -> Iterator[str]:
    """Limits of the gate that this run can never check."""
    for name in ("suspects", "suspect_share"):
        for kind, most in (OmegaConf.select(schema, f"gate.{name}") or {}).items():
            if kind not in KINDS:
                yield f"gate.{name}: {kind!r} is none of {', '.join(KINDS)}"
            elif most is not None and (most < 0 or (name == "suspect_share" and most > 1)):
                yield f"gate.{name}.{kind}: {most} is out of range"
    if "gate" in schema and schema.baseline is None:
        for name in ("new_findings", "accuracy_drop", "drifted_classes"):
            if OmegaConf.select(schema, f"gate.{name}") is not None:
                yield f"gate.{name}: needs a baseline"


def _path_problems(schema: DictConfig) -> Iterator[str]:
    """Files that a late stage reads or writes, checked before the run begins."""
    decisions = OmegaConf.select(schema, "rank.decisions")
    if decisions is not None:
        yield from _missing_file("rank.decisions", decisions, "", f"there is no file {decisions}")
    metrics = OmegaConf.select(schema, "metrics")
    if metrics is not None and Path(metrics).suffix != ".prom":
        yield f"metrics: {metrics} does not end in .prom, and would not be collected"
    baseline = OmegaConf.select(schema, "baseline")
    if baseline is not None:
        no_run = f"{baseline} is not the folder of a run"
        yield from _missing_file("baseline", baseline, "plan.parquet", no_run)
    for key in ("output_dir", "metrics"):
        try:
            check_writable(key, OmegaConf.select(schema, key) or "")
            to_path(OmegaConf.select(schema, key) or "")
        except ConfigError as error:
            yield str(error)


def _missing_file(key: str, text: str, name: str, message: str) -> Iterator[str]:
    """The message, if the path `text`, or the file `name` in that folder, does not exist."""
    try:
        if not is_file(to_path(text) / name if name else to_path(text)):
            yield f"{key}: {message}"
    except (ConfigError, StoreError) as error:
        yield f"{key}: {error}"


def attempts(output_dir: str, run_id: str) -> str:
    """The folder of Hydra's own files: on this machine, even if the run is in a bucket."""
    if protocol_of(output_dir) is None:
        return f"{output_dir}/{run_id}/attempts"
    if protocol_of(output_dir) == "file":
        return str(to_path(output_dir) / run_id / "attempts")
    return f"outputs/{run_id}/attempts"


OmegaConf.register_new_resolver("attempts", attempts, replace=True)
