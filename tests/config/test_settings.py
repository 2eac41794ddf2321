"""What stands in conf/ is what the dataclasses say, and every mistake is named before any work."""

from __future__ import annotations

import dataclasses
import pkgutil
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig, OmegaConf

from pipeline import config
from pipeline.cam import methods
from pipeline.config import (
    CHOICES,
    CHOSEN_BY,
    METHODS,
    STAGES,
    Config,
    CustomDataset,
    CustomModel,
    ImageFolder,
    Manifest,
    ZooModel,
    conf_dir,
    fingerprint,
    load,
    result_settings,
)
from pipeline.errors import ConfigError
from pipeline.run import executors

MISSING = "???"
GIVEN = ("dataset.root=x", "model.name=resnet50")
GROUPS = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in conf_dir().iterdir()
    if folder.is_dir() and folder.name != "hydra"
}


@lru_cache
def composed(*overrides: str) -> DictConfig:
    """What Hydra makes of conf/ and the command line."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def settings(*overrides: str) -> Config:
    """Settings of a command line; composing takes its time, so values are set afterwards."""
    choices = [text for text in overrides if text.startswith(("dataset=", "model="))]
    base = composed(*choices).copy()
    OmegaConf.set_struct(base, False)
    values = [text.removeprefix("+") for text in overrides if text not in choices]
    return load(cast("DictConfig", OmegaConf.merge(base, OmegaConf.from_dotlist(values))))


def refused(*overrides: str) -> list[str]:
    """The problems that are named, one per line."""
    with pytest.raises(ConfigError) as caught:
        settings(*overrides)
    first, *problems = str(caught.value).splitlines()
    assert first == "settings that cannot be used:"
    return [problem.strip() for problem in problems]


def yaml_of(path: Path) -> dict[str, Any]:
    """The keys of a YAML file, without Hydra's own."""
    content = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(content, dict)
    return {str(k): value for k, value in content.items() if k not in ("defaults", "hydra")}


def defaults_of(kind: type) -> Any:
    """Keys and defaults of a dataclass as plain values."""
    return OmegaConf.to_container(OmegaConf.structured(kind))


class TestConfMirrorsTheDataclasses:
    def test_every_group_is_known(self) -> None:
        sections = {field.name for field in dataclasses.fields(Config)}
        assert set(GROUPS) <= sections
        assert set(GROUPS["dataset"]) == {*CHOICES["dataset"], "demo"}
        assert set(GROUPS["model"]) == {*CHOICES["model"], "demo"}

    @pytest.mark.parametrize(
        ("group", "name"),
        [(g, n) for g, names in GROUPS.items() for n in names if n not in ("demo", "strict")],
    )
    def test_keys_and_defaults_of_a_choice(self, group: str, name: str) -> None:
        written = yaml_of(conf_dir() / group / f"{name}.yaml")
        kind = CHOICES[group][name] if group in CHOICES else type(getattr(Config(), group))
        known = defaults_of(kind)
        if group in CHOICES:
            assert written[CHOSEN_BY[group]] == name
            known[CHOSEN_BY[group]] = name
        if group == "cam":
            known["method"] = name
        assert written == known

    def test_keys_and_defaults_of_the_rest(self) -> None:
        written = yaml_of(conf_dir() / "config.yaml")
        known = defaults_of(Config)
        assert written == {key: known[key] for key in known if key not in GROUPS}

    def test_defaults_list_names_every_group(self) -> None:
        content = OmegaConf.load(conf_dir() / "config.yaml")
        named = {key for entry in content.defaults if entry != "_self_" for key in entry}
        assert set(GROUPS) == {name for name in named if not name.startswith("override ")}

    def test_every_key_has_a_comment(self) -> None:
        plain = ("kind", "std", "name: local", "name: ray", "method", "preprocess")
        for path in conf_dir().rglob("*.yaml"):
            if "hydra" in path.parts or path.stem == "demo":
                continue
            lines = path.read_text(encoding="utf-8").split("\nhydra:")[0].splitlines()
            assert lines[0].startswith("# ")
            for line in filter(None, lines[1:]):
                section = not line.startswith(" ") and line.endswith(":")
                known = section or "override" in line or "_self_" in line
                assert known or line.strip().startswith(plain) or " # " in line, (path, line)

    @pytest.mark.parametrize("dataset", GROUPS["dataset"])
    @pytest.mark.parametrize("model", GROUPS["model"])
    def test_every_choice_composes(self, dataset: str, model: str) -> None:
        given = [f"dataset={dataset}", f"model={model}"]
        for group, name in (("dataset", dataset), ("model", model)):
            written = yaml_of(conf_dir() / group / f"{name}.yaml")
            given += [f"{group}.{key}=x" for key, value in written.items() if value == MISSING]
        made = settings(*given)
        assert made.model.kind == ("custom" if model == "demo" else model)
        assert type(made.dataset) is CHOICES["dataset"].get(dataset, CustomDataset)
        assert type(made.model) is CHOICES["model"].get(model, CustomModel)

    def test_names_that_can_be_chosen(self) -> None:
        assert set(METHODS) == set(methods.METHODS)
        found = {module.name for module in pkgutil.iter_modules(executors.__path__)}
        assert set(CHOICES["executor"]) == found
        assert set(GROUPS["executor"]) == found


class TestLoad:
    def test_plain_values(self) -> None:
        made = settings(*GIVEN, "loader.batch_size=8", "model.preprocess.resize=[4,5]")
        assert made.dataset == ImageFolder(root="x")
        assert isinstance(made.model, ZooModel)
        assert made.loader.batch_size == 8
        assert made.loader.num_workers == "auto"
        assert type(made.model.preprocess.resize) is list
        assert type(made.stages) is list
        assert made.stages == list(STAGES)
        assert made.folder == Path("outputs/audit")
        made.seed = 5  # not frozen

    def test_everything_is_named_at_once(self) -> None:
        problems = refused(
            "+dataset.foo=1",
            "+extra=1",
            "+nothing={}",
            "+loader.x=2",
            "loader.shard_size=many",
            "loader.num_workers=-1",
            "data.max_error_rate=7",
            "cam.method=lime",
            "executor.name=slurm",
            "device=null",
            "run_id=a/b",
        )
        keys = [problem.partition(":")[0] for problem in problems]
        assert sorted(keys) == [
            "cam.method",
            "data.max_error_rate",
            "dataset.foo",
            "dataset.root",
            "device",
            "executor.name",
            "extra",
            "loader.num_workers",
            "loader.shard_size",
            "loader.x",
            "model.name",
            "nothing",
            "run_id",
        ]
        assert "dataset.root: must be given" in problems
        assert any(text.startswith("cam.method: 'lime' is none of gradcam, ") for text in problems)

    @pytest.mark.parametrize(
        "override",
        [
            "loader.num_workers=true",
            "loader.num_workers=many",
            "loader.batch_size=0",
            "loader.batch_size='8'",
            "loader.batch_size=2.5",
            "loader.batch_size=null",
            "loader.shard_size=0",
            "seed=-1",
            "seed=1.5",
            "seed=true",
            "cam.embedding_dim=0",
            "data.max_pixels=0",
            "data.max_error_rate=nan",
            "data.max_error_rate=-0.1",
            "analysis.fdr=1.1",
            "analysis.min_effect=inf",
            "analysis.sample_per_class=0",
            "analysis.trials=0",
            "analysis.permutations=0",
            "analysis.max_suspects=-1",
            "report.suspects=-1",
            "report.thumbnail=15",
            "report.alpha=2",
            "stages=explain",
            "stages=[]",
            "stages=[explian]",
            "stages=[rank,explain]",
            "stages=[rank,rank]",
            "stages=null",
            "run_id=''",
            "run_id=..",
            "run_id=.hidden",
            "run_id=null",
            "dataset.root=null",
            "model.preprocess.mean=0.5",
            "model.preprocess.mean=[red]",
            "model.trust_checkpoint=maybe",
            "loader=null",
            "loader=5",
            "run_id=${nope}",
        ],
    )
    def test_a_value_that_cannot_be_used(self, override: str) -> None:
        key = override.partition("=")[0]
        (problem,) = refused(*GIVEN, override)
        assert problem.startswith(f"{key}: ")
        assert len(problem) > len(key) + 10

    @pytest.mark.parametrize(
        "override",
        [
            "run_id=2024",
            "run_id=lr=3_a-b.c",
            "run_id=ünï",
            "stages=[explain,report]",
            "data.max_error_rate=0",
            "data.max_error_rate=1",
            "data.max_pixels=1",
            "loader.batch_size=1",
            "loader.num_workers=0",
            "loader.shard_size=1",
            "cam.embedding_dim=1",
            "analysis.sample_per_class=1",
            "analysis.trials=1",
            "analysis.permutations=1",
            "analysis.max_suspects=0",
            "report.suspects=0",
            "report.thumbnail=16",
            "model.class_names=[a,b]",
            "model.class_names=names.txt",
            "model.weights=null",
        ],
    )
    def test_a_value_that_can(self, override: str) -> None:
        settings(*GIVEN, override)

    def test_factory_arguments_are_free(self) -> None:
        given = ("dataset=custom", "dataset.factory=f.py:g", "model.name=x")
        made = settings(*given, "+dataset.factory_args={a: 1, b: {c: [1, {d: x}]}}")
        assert made.dataset.factory_args == {"a": 1, "b": {"c": [1, {"d": "x"}]}}
        assert type(made.dataset.factory_args["b"]) is dict
        made = settings(*given, "+dataset.factory_args.a=1", "+dataset.factory_args.b=2")
        assert made.dataset.factory_args == {"a": 1, "b": 2}
        raw = OmegaConf.create(dataclasses.asdict(made))
        raw.dataset.factory_args = {"with.dots": 1, "none": None}
        assert load(raw).dataset.factory_args == {"with.dots": 1, "none": None}
        (problem,) = refused(*given, "dataset.factory_args=5")
        assert problem.startswith("dataset.factory_args: ")

    def test_manifest_columns_may_be_null(self) -> None:
        made = settings(
            "dataset=manifest",
            "dataset.path=x.csv",
            "dataset.label_column=null",
            "dataset.box_columns=[a,b,c,d]",
            "model.name=x",
        )
        expected = Manifest(path="x.csv", label_column=None, box_columns=["a", "b", "c", "d"])
        assert made.dataset == expected

    @pytest.mark.parametrize("kind", ["folder", "", "5"])
    def test_a_kind_that_is_not_there(self, kind: str) -> None:
        (problem,) = refused("model.name=x", f"dataset.kind={kind}")
        assert problem.startswith("dataset.kind: ")
        assert "none of image_folder, manifest, torchvision, huggingface, custom" in problem

    def test_a_section_that_is_taken_away(self) -> None:
        with pytest.raises(ConfigError, match=r"dataset\.kind: None is none of"):
            load(composed("model.name=x", "~dataset"))

    def test_the_command_line_reaches_every_kind_of_value(self) -> None:
        made = load(
            composed(
                "dataset=custom",
                "dataset.factory=f.py:g",
                "+dataset.factory_args.size=64",
                "model=timm",
                "model.name=x",
                "model.preprocess.mean=[0.5]",
                "stages=[rank]",
                "data.max_error_rate=1",
                "run_id='lr=3_a-b.c'",
            )
        )
        assert made.dataset.factory_args == {"size": 64}
        assert made.model.preprocess.mean == [0.5]
        assert (made.stages, made.data.max_error_rate) == (["rank"], 1.0)
        assert made.folder == Path("outputs/lr=3_a-b.c")

    @pytest.mark.parametrize(
        ("override", "said"),
        [
            ("dataset=nope", "dataset/nope"),
            ("model=nope", "model/nope"),
            ("dataset.nope=1", "nope"),
        ],
    )
    def test_hydra_names_what_it_refuses(self, override: str, said: str) -> None:
        with pytest.raises((ConfigCompositionException, MissingConfigException), match=said):
            composed(override)


class TestFingerprint:
    def test_order_does_not_count(self) -> None:
        one = {"a": 1, "b": [1, 2], "c": None, "d": {"x": 1.5, "y": "ü"}}
        other = {"d": {"y": "ü", "x": 1.5}, "c": None, "b": [1, 2], "a": 1}
        assert fingerprint(one) == fingerprint(other)

    def test_every_value_counts(self) -> None:
        base: dict[str, Any] = {"a": 1, "b": [1, 2]}
        others: list[dict[str, Any]] = [
            {"a": 2, "b": [1, 2]},
            {"a": 1, "b": [2, 1]},
            {"a": 1},
            {"a": "1", "b": [1, 2]},
        ]
        assert len({fingerprint(values) for values in [base, *others]}) == 5

    def test_every_process_has_the_same(self) -> None:
        code = (
            "from pipeline.config import *\n"
            "c = Config(dataset=ImageFolder(root='x'), model=ZooModel(kind='timm', name='y'))\n"
            "print(fingerprint(result_settings(c)))"
        )
        found = {
            subprocess.run(
                [sys.executable, "-c", code],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(config.__file__).parents[1])},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in ("1", "2")
        }
        made = Config(dataset=ImageFolder(root="x"), model=ZooModel(kind="timm", name="y"))
        assert found == {fingerprint(result_settings(made)) + "\n"}


class TestResultSettings:
    @pytest.mark.parametrize(
        ("override", "counts"),
        [
            ("seed=1", True),
            ("dataset.root=y", True),
            ("model.name=y", True),
            ("model.weights=null", True),
            ("model.preprocess.crop=64", True),
            ("model.class_names=[a]", True),
            ("cam.embedding_dim=64", True),
            ("loader.shard_size=10", True),
            ("data.max_pixels=1000", True),
            ("executor.name=local", False),
            ("loader.num_workers=1", False),
            ("loader.batch_size=1", False),  # compared as decided
            ("model.target_layer=layer3", False),  # compared as decided
            ("device=cpu", False),  # compared as decided
            ("data.max_error_rate=1", False),
            ("analysis.trials=7", False),
            ("report.alpha=0.1", False),
            ("stages=[rank]", False),
            ("run_id=x", False),
            ("output_dir=x", False),
        ],
    )
    def test_what_changes_results_counts(self, override: str, counts: bool) -> None:
        before, after = (result_settings(settings(*GIVEN, *o)) for o in ([], [override]))
        assert (before != after) == counts
        assert (fingerprint(before) != fingerprint(after)) == counts
        if counts:
            changed = {key for key in before if before[key] != after.get(key)}
            assert changed == {override.partition("=")[0]}

    def test_how_files_came_does_not_count(self) -> None:
        given = ("dataset=torchvision", "dataset.name=x", "dataset.root=x", "model.name=x")
        before, after = (
            result_settings(settings(*given, f"dataset.download={value}"))
            for value in ("true", "false")
        )
        assert before == after

    def test_every_key_is_dotted_and_plain(self) -> None:
        given = ("dataset=custom", "dataset.factory=f.py:g", "model=custom", "model.factory=f.py:m")
        found = result_settings(settings(*given, "+model.factory_args={a: {b: 1}}"))
        assert found["model.factory_args"] == {"a": {"b": 1}}
        assert found["dataset.factory_args"] == {}
        assert found["model.preprocess.mean"] is None
        assert not any(key.startswith(("executor", "analysis", "report")) for key in found)


def test_conf_dir_is_absolute_and_holds_the_settings() -> None:
    assert conf_dir().is_absolute()
    assert (conf_dir() / "config.yaml").is_file()
