"""Match the class names of a dataset with the outputs of a model."""

from __future__ import annotations

import logging
import re

from pipeline.data.source import distinct_labels, number_duplicates
from pipeline.errors import ConfigError, shorten_list

log = logging.getLogger(__name__)


def match_classes(
    dataset_names: list[str] | None, model_names: list[str] | None, n_outputs: int
) -> tuple[list[str], dict[str, int], list[str]]:
    """Match each class name of the dataset with an output of the model.

    An equal name has priority; otherwise case, spaces, dashes and underscores are ignored. Names
    that the model has more than once get their position: "crane (134)".

    Returns:
        The name of each output, the output of each dataset label, and warnings.

    Raises:
        ConfigError: the names do not match; the message shows both lists.
    """
    if model_names is None:
        return _by_order(dataset_names, n_outputs)
    if len(model_names) != n_outputs:
        raise ConfigError(
            f"model.class_names: {len(model_names)} names for {n_outputs} outputs: "
            f"{shorten_list(model_names)}"
        )
    names, labels = number_duplicates(model_names), dataset_names or []
    exact = {name: [index] for index, name in enumerate(names)}
    alike: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        alike.setdefault(fold_name(name), []).append(index)
    outputs = {label: exact.get(label) or alike.get(fold_name(label), []) for label in labels}
    unknown = [label for label, found in outputs.items() if not found]
    if labels and unknown == labels and all(_is_output(label, n_outputs) for label in labels):
        note = "the dataset's labels are numbers; they are used as positions in model.class_names"
        outputs = {label: [int(label)] for label in labels}
        return names, _one_each(outputs, names), [note]
    if unknown:
        raise ConfigError(
            f"{len(unknown)} of the dataset's {len(labels)} labels are unknown to the model: "
            f"{shorten_list(unknown)}\n  dataset: {shorten_list(labels)}\n"
            f"  model:   {shorten_list(names)}\n"
            "  set model.class_names to the dataset's names in the order of the model's outputs"
        )
    return names, _one_each(outputs, names), []


def _by_order(
    dataset_names: list[str] | None, n_outputs: int
) -> tuple[list[str], dict[str, int], list[str]]:
    if dataset_names is None:
        note = "neither the dataset nor the model names its classes; outputs are named by number"
        return [str(index) for index in range(n_outputs)], {}, [note]
    if len(dataset_names) == n_outputs:
        log.info("the model's outputs are named in order: %s", shorten_list(dataset_names))
        positions = {name: index for index, name in enumerate(dataset_names)}
        return dataset_names, positions, _order_warnings(dataset_names)
    if all(_is_output(name, n_outputs) for name in dataset_names):
        note = "the model has no class names; the dataset's numbers are used as output positions"
        names = [str(index) for index in range(n_outputs)]
        return names, _one_each({name: [int(name)] for name in dataset_names}, names), [note]
    raise ConfigError(
        f"the model has {n_outputs} outputs, the dataset {len(dataset_names)} classes: "
        f"{shorten_list(dataset_names)}\n"
        "  set model.class_names to the name of each output, in order"
    )


def _order_warnings(names: list[str]) -> list[str]:
    """A warning if the training may have sorted the same class names in another order.

    No warning for a dataset that has an order of its own, which is not sorted.
    """
    if names != distinct_labels(names):
        return []
    others = {
        "torchvision's ImageFolder sorts them as text": sorted(names),
        "timm sorts them without regard to case": sorted(names, key=_natural_key),
    }
    return [
        "the model has no class names; its outputs are named in order: "
        f"{shorten_list(names)}, but {rule}: {shorten_list(order)}; "
        "set model.class_names to the order of the training"
        for rule, order in others.items()
        if order != names
    ][:1]


def _natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sort key as in timm: numbers inside names by value, letters without regard to case."""
    parts = re.split(r"(\d+)", name.lower())
    return [(1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts]


def _one_each(outputs: dict[str, list[int]], names: list[str]) -> dict[str, int]:
    """The only output of each label.

    Raises:
        ConfigError: a label matches several outputs, or two labels match the same output.
    """
    for label, found in outputs.items():
        if len(found) > 1:
            raise ConfigError(
                f"the dataset's label {label!r} matches several of the model's classes "
                f"{shorten_list([names[index] for index in found])}; set model.class_names"
            )
    labels_of: dict[int, str] = {}
    for label, (index,) in outputs.items():
        if index in labels_of:
            raise ConfigError(
                f"the dataset's labels {labels_of[index]!r} and {label!r} both match the model's "
                f"class {names[index]!r}; merge them, or set model.class_names"
            )
        labels_of[index] = label
    return {label: index for label, (index,) in outputs.items()}


def fold_name(name: str) -> str:
    """A key that is equal for names that differ in case, spaces, dashes or underscores only."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _is_output(name: str, n_outputs: int) -> bool:
    return name.isdecimal() and int(name) < n_outputs
