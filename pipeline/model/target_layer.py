"""The target layer: found automatically, or checked where the settings name it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from pipeline.cam import graph
from pipeline.cam.graph import CHANNELS_FIRST, CHANNELS_LAST, TOKENS, LayerError, Layout
from pipeline.config import AUTO
from pipeline.errors import ConfigError, close_names
from pipeline.model.outputs import LogitsModule

POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
PASS_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout2d)
"""Layers whose output equals their input in evaluation mode."""


@dataclass(frozen=True)
class Target:
    """The target layer: its name, the layout of its output, and its number of channels."""

    name: str
    layout: Layout
    channels: int


@dataclass(frozen=True)
class ModuleOutput:
    """The output of a module in a trial: its layout, or the reason why it is no map.

    computes tells whether the module computes a new map (pooling and dropout do not); normalises
    and projects whether it is a normalisation or a linear layer.
    """

    name: str
    layout: Layout | None
    reason: str
    computes: bool = False
    normalises: bool = False
    projects: bool = False

    @property
    def has_prefix(self) -> bool:
        """Whether class or register tokens precede the map."""
        return self.layout is not None and self.layout.prefix > 0


@dataclass
class OutputRecorder:
    """Records the outputs of all modules, in forward order, on two images that differ everywhere.

    When class and register tokens enter the model, they are equal for both images. `prefixes` maps
    a number of tokens to the number of those that are equal (None: they do not all come first).
    `cells` are the numbers of cells of the maps so far. `pooled` holds the outputs of pooling
    layers, so that no later tensor can have the identity of one of them.
    """

    images: Tensor
    outputs: list[ModuleOutput] = field(default_factory=list)
    prefixes: dict[int, int | None] = field(default_factory=dict)
    cells: set[int] = field(default_factory=set)
    pooled: list[Tensor] = field(default_factory=list)

    def record(self, name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        """Record the output of a module; a forward hook."""
        layout, reason = self._layout(output)
        pools = isinstance(layer, POOLING) or any(output is other for other in self.pooled)
        if pools and isinstance(output, Tensor):
            self.pooled.append(output)
        self.outputs.append(
            ModuleOutput(
                name,
                layout,
                reason,
                computes=layout is not None and not pools and not isinstance(layer, PASS_THROUGH),
                normalises="norm" in type(layer).__name__.lower(),
                projects=isinstance(layer, nn.Linear),
            )
        )

    def _layout(self, output: object) -> tuple[Layout | None, str]:
        if not isinstance(output, Tensor):
            return None, f"its output is a {type(output).__name__}, not one tensor"
        layout = None
        if output.shape[:1] != self.images.shape[:1]:
            pass  # not one row per image: attention windows, or a table of embeddings
        elif output.ndim == 4:
            layout = _map_layout(output, self.images)
        elif output.ndim == 3:
            layout = self._token_layout(output)
        if layout is None or layout.rows * layout.columns == 1:
            wanted = "(batch, channels, rows, columns), (batch, rows, columns, channels)"
            return None, (
                f"its output has shape {tuple(output.shape)}; a map of more than one cell needs "
                f"{wanted} or (batch, tokens, channels) with class tokens first"
            )
        if output.ndim == 4:
            self.cells.add(layout.rows * layout.columns)
        return layout, ""

    def _token_layout(self, output: Tensor) -> Layout | None:
        n_tokens, width = output.shape[1:]
        same = (output[0] == output[1]).all(dim=1)
        if n_tokens not in self.prefixes and not same.all():
            n_same = int(same.sum())
            self.prefixes[n_tokens] = n_same if bool(same[:n_same].all()) else None
        prefix = self.prefixes.get(n_tokens)
        if prefix is None:
            return None
        cells = n_tokens - prefix
        if width in self.cells and cells not in self.cells:
            return None  # (batch, channels, cells): a flattened map
        return _grid_of(cells, prefix, self.images)


def find_target_layer(wanted: str, module: LogitsModule, images: Tensor) -> Target:
    """Find the target layer, or check the layer that the settings name.

    Args:
        wanted: a module's name, or AUTO.
        module: a classifier in evaluation mode.
        images: two inputs (2, C, h, w) that differ everywhere.

    Raises:
        ConfigError: the model has no such layer (the message lists similar names), the layer's
            output is no map, or the model's output does not depend on it.
    """
    if wanted == AUTO:
        return find_last_map(module, images)
    names = [name for name, _ in module.network.named_modules() if name]
    if wanted not in names:
        raise ConfigError(
            f"model.target_layer: the model has no {wanted!r}{close_names(wanted, names)}"
        )
    try:
        outputs = [output for output in trace(module, images) if output.name == wanted]
        if len(outputs) != 1:
            raise LayerError(f"a forward pass goes through it {len(outputs)} times, not once")
        target = _check_gradients(module, outputs[0], images)
        with _zero_weights_replaced(module):
            without_gradient = _without_gradient(module, outputs, images)
        if without_gradient and target.layout.kind == TOKENS:
            raise LayerError(
                "the model's output does not depend on its patch tokens, which is so after the "
                "last attention; name an earlier layer, such as the normalisation of the last block"
            )
    except Exception as error:
        raise ConfigError(f"model.target_layer: {wanted!r} cannot be explained: {error}") from error
    return target


def find_last_map(module: LogitsModule, images: Tensor) -> Target:
    """Find the last module that computes a map through which all evidence passes.

    All evidence passes through a module if the logits stay the same when the input image changes
    and the module's output does not. In models with class tokens no module of the last block meets
    this condition; there the normalisation before the last attention is chosen, the last map from
    which patches reach the class token. A map has more than one cell. Pooling layers and blocks
    that end in pooling compute no new map and are skipped, as are branches beside others. If
    several modules return the same map, the outermost is chosen.

    Raises:
        ConfigError: the model has no such module.
    """
    with _zero_weights_replaced(module):
        outputs = trace(module, images)
        without_gradient = _without_gradient(module, outputs, images)
        n_runs = Counter(output.name for output in outputs)
        usable = [
            output
            for output in reversed(outputs)
            if output.computes and n_runs[output.name] == 1 and output.name not in without_gradient
        ]
        full_difference = _logit_difference(module, images)
        # Linear layers come last: queries, keys and values of tokens are no map of the image.
        for output in sorted(usable, key=lambda output: output.projects):
            feeds_a_class_token = output.has_prefix and output.normalises
            difference = (
                0 if feeds_a_class_token else _logit_difference(module, images, output.name)
            )
            if difference <= 1e-3 * full_difference:
                with suppress(LayerError):
                    return _check_gradients(module, output, images)
    raise ConfigError(
        "model.target_layer: auto finds no map that feeds the model's output; name a layer that "
        "gives (batch, channels, rows, columns), (batch, rows, columns, channels) or "
        "(batch, tokens, channels)"
    )


@torch.no_grad()
def trace(module: LogitsModule, images: Tensor) -> list[ModuleOutput]:
    """Run a forward pass and list the output of every module, in the order of the outputs."""
    recorder = OutputRecorder(images)
    with ExitStack() as hooks:
        for name, layer in module.network.named_modules():
            if name:
                hooks.enter_context(layer.register_forward_hook(partial(recorder.record, name)))
        module(images.clone())  # a model may write into its input
    return recorder.outputs


@torch.no_grad()
def _logit_difference(module: LogitsModule, images: Tensor, fixed: str | None = None) -> float:
    """Largest difference between the logits of the two images.

    The module named `fixed` returns its output for the first image on both images.
    """
    outputs: list[Tensor] = []

    def return_first(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        outputs.append(output.clone())
        return outputs[0].clone()

    with ExitStack() as hooks:
        if fixed is not None:
            layer = module.network.get_submodule(fixed)
            hooks.enter_context(layer.register_forward_hook(return_first))
        first, second = module(images[:1].clone()), module(images[1:].clone())
    return float((first - second).abs().max())


def _without_gradient(
    module: LogitsModule, outputs: list[ModuleOutput], images: Tensor
) -> set[str]:
    """Names of the modules whose map receives no gradient, by one backward pass for all.

    A map of a convolution may have a zero gradient on two images by chance and is not listed.
    Patch tokens with a zero gradient are listed: they do not reach the class token. Modules that
    the model runs without a graph are not listed.
    """
    layouts = {output.name: output.layout for output in outputs if output.layout}
    tensors: dict[str, Tensor] = {}

    def keep(name: str, _layer: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            tensors[name] = output

    with ExitStack() as hooks, torch.inference_mode(mode=False), torch.enable_grad():
        hooks.enter_context(graph.frozen(module))
        for name in layouts:
            layer = module.network.get_submodule(name)
            hooks.enter_context(layer.register_forward_hook(partial(keep, name)))
        # The second clone is no leaf, so the model may write into its input.
        logits = module(images.clone().requires_grad_().clone())
        best = logits.amax(dim=1).sum()
        if not best.requires_grad or not tensors:
            return set()
        gradients = torch.autograd.grad(best, list(tensors.values()), allow_unused=True)
    names = set()
    for name, gradient in zip(tensors, gradients, strict=True):
        layout = layouts[name]
        assert layout is not None
        is_tokens = layout.kind == TOKENS
        if gradient is None or (is_tokens and not layout.to_map(gradient).any()):
            names.add(name)
    return names


def _check_gradients(module: LogitsModule, output: ModuleOutput, images: Tensor) -> Target:
    """The module as target layer, after one trial of its gradients.

    Raises:
        LayerError: its output is no map, or the model's output does not depend on it.
    """
    if output.layout is None:
        raise LayerError(output.reason)
    layer = module.network.get_submodule(output.name)
    with graph.cut_graph(module, layer, output.layout) as forward:
        logits, activations = forward(images.clone())
        graph.compute_gradients(logits, activations, logits.argmax(dim=1, keepdim=True))
    return Target(output.name, output.layout, activations.shape[1])


@contextmanager
def _zero_weights_replaced(module: nn.Module) -> Iterator[None]:
    """Replace all-zero parameters by noise, for the time of the context.

    Heads and residual branches are often initialised with zeros, through which no gradient flows.
    The choice of the layer shall depend on the model's structure, not on its training.
    """
    generator = torch.Generator().manual_seed(0)
    zero = [parameter for parameter in module.parameters() if not parameter.any()]
    try:
        for parameter in zero:
            noise = 0.02 * torch.randn(parameter.shape, generator=generator)
            parameter.data.copy_(noise)
        yield
    finally:
        for parameter in zero:
            parameter.data.zero_()


def _map_layout(output: Tensor, images: Tensor) -> Layout:
    """The layout of an output (N, a, b, c): channels last if (a, b), and not (b, c), has the
    proportions of the image.
    """
    _, a, b, c = output.shape
    if a * b > 1 and _same_proportions(a, b, images) and not _same_proportions(b, c, images):
        return Layout(CHANNELS_LAST, a, b)
    return Layout(CHANNELS_FIRST, b, c)


def _grid_of(cells: int, prefix: int, images: Tensor) -> Layout | None:
    """The grid of `cells` patch tokens that has the proportions of the image, if there is one."""
    height, width = images.shape[2:]
    about = round((cells * height / width) ** 0.5)
    for rows in (about, about - 1, about + 1):
        columns = cells // max(1, rows)
        if rows * columns == cells and abs(rows * width - columns * height) < max(height, width):
            return Layout(TOKENS, rows, columns, prefix)
    return None


def _same_proportions(rows: int, columns: int, images: Tensor) -> bool:
    """Whether a map has the proportions of the image, with a tolerance of about one cell."""
    height, width = images.shape[2:]
    return abs(rows * width - columns * height) <= height + width
