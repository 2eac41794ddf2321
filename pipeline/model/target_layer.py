"""The layer that is explained: found, or checked where it is named; and how it holds a map."""

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

# Layers that thin out a map without computing a new one, and layers that hand on what they get.
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
SILENT = (nn.Identity, nn.Dropout, nn.Dropout2d)


@dataclass(frozen=True)
class Target:
    """The layer that is explained: its name, how it holds a map, and the map's depth."""

    name: str
    layout: Layout
    channels: int


@dataclass(frozen=True)
class Output:
    """What a module gave in a trial: its layout, or why it is no map."""

    name: str
    layout: Layout | None
    reason: str
    computes: bool = False
    normalises: bool = False
    projects: bool = False

    @property
    def has_prefix(self) -> bool:
        """Whether class or register tokens come before the map."""
        return self.layout is not None and self.layout.prefix > 0


@dataclass
class Survey:
    """The outputs of all modules on two pictures that differ everywhere, in forward order.

    A class or register token is the same for both pictures where it comes in; `prefixes` keeps how
    many there are by number of tokens (None: not all of them first). `cells` are the numbers of
    cells of maps seen so far. `thinned` keeps the outputs of pooling alive, so that no new tensor
    is taken for one of them.
    """

    pictures: Tensor
    outputs: list[Output] = field(default_factory=list)
    prefixes: dict[int, int | None] = field(default_factory=dict)
    cells: set[int] = field(default_factory=set)
    thinned: list[Tensor] = field(default_factory=list)

    def note(self, name: str, layer: nn.Module, _inputs: object, output: object) -> None:
        """Forward hook: keep what a module gave."""
        layout, reason = self._layout(output)
        pools = isinstance(layer, POOLING) or any(output is other for other in self.thinned)
        if pools and isinstance(output, Tensor):
            self.thinned.append(output)
        self.outputs.append(
            Output(
                name,
                layout,
                reason,
                computes=layout is not None and not pools and not isinstance(layer, SILENT),
                normalises="norm" in type(layer).__name__.lower(),
                projects=isinstance(layer, nn.Linear),
            )
        )

    def _layout(self, output: object) -> tuple[Layout | None, str]:
        if not isinstance(output, Tensor):
            return None, f"its output is a {type(output).__name__}, not one tensor"
        layout = None
        if output.shape[:1] != self.pictures.shape[:1]:
            pass  # the windows of an attention, or a table of its own
        elif output.ndim == 4:
            layout = _map_layout(output, self.pictures)
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
            return None  # (batch, channels, cells) of a map that was flattened
        return _grid_of(cells, prefix, self.pictures)


def find_target_layer(wanted: str, module: LogitsModule, pictures: Tensor) -> Target:
    """The layer that the settings name, or for AUTO the one that is found.

    Args:
        wanted: a module's name, or AUTO.
        module: a classifier in evaluation mode.
        pictures: two inputs (2, C, h, w) that differ everywhere.

    Raises:
        ConfigError: where the model has no such layer, with the names that come close; or it gives
            no map, or does not feed the model's output.
    """
    if wanted == AUTO:
        return auto(module, pictures)
    names = [name for name, _ in module.network.named_modules() if name]
    if wanted not in names:
        raise ConfigError(
            f"model.target_layer: the model has no {wanted!r}{close_names(wanted, names)}"
        )
    try:
        seen = [output for output in survey(module, pictures) if output.name == wanted]
        if len(seen) != 1:
            raise LayerError(f"a forward pass goes through it {len(seen)} times, not once")
        target = _target(module, seen[0], pictures)
        with _no_weight_zero(module):
            unfed = _unfed(module, seen, pictures)
        if unfed and target.layout.kind == TOKENS:
            raise LayerError(
                "the model's output does not hang on its patch tokens, as is so after the last "
                "attention; name a layer before it, such as the normalisation of the last block"
            )
    except Exception as error:
        raise ConfigError(f"model.target_layer: {wanted!r} cannot be explained: {error}") from error
    return target


def auto(module: LogitsModule, pictures: Tensor) -> Target:
    """The last module that computes a map on which the model's output hangs.

    All evidence passes through it: while its output stays, another picture changes no logit. With
    class tokens no map is like that in the last block, and the normalisation before its attention
    is taken, the last place where patches still feed the class token. A map has more than one
    cell. Pooling computes nothing new and is passed over, and so is a block that ends in it, or a
    branch beside others. Where several modules give the same map, the outermost is named.

    Raises:
        ConfigError: where there is no such module.
    """
    with _no_weight_zero(module):
        outputs = survey(module, pictures)
        unfed = _unfed(module, outputs, pictures)
        times = Counter(output.name for output in outputs)
        usable = [
            output
            for output in reversed(outputs)
            if output.computes and times[output.name] == 1 and output.name not in unfed
        ]
        free = _difference(module, pictures)
        # Of tokens, projections come last: queries, keys and values are no map of what was seen.
        for output in sorted(usable, key=lambda output: output.projects):
            feeds_a_class_token = output.has_prefix and output.normalises
            if feeds_a_class_token or _difference(module, pictures, output.name) <= 1e-3 * free:
                with suppress(LayerError):
                    return _target(module, output, pictures)
    raise ConfigError(
        "model.target_layer: auto finds no map that feeds the model's output; name a layer that "
        "gives (batch, channels, rows, columns), (batch, rows, columns, channels) or "
        "(batch, tokens, channels)"
    )


@torch.no_grad()
def survey(module: LogitsModule, pictures: Tensor) -> list[Output]:
    """What every module of a classifier gives, in the order of their outputs."""
    found = Survey(pictures)
    with ExitStack() as hooks:
        for name, layer in module.network.named_modules():
            if name:
                hooks.enter_context(layer.register_forward_hook(partial(found.note, name)))
        module(pictures.clone())  # a model may write into its input
    return found.outputs


@torch.no_grad()
def _difference(module: LogitsModule, pictures: Tensor, held: str | None = None) -> float:
    """How far the logits of the two pictures differ, while a layer gives the same for both."""
    kept: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        kept.append(output.clone())
        return kept[0].clone()

    with ExitStack() as hooks:
        if held is not None:
            layer = module.network.get_submodule(held)
            hooks.enter_context(layer.register_forward_hook(keep))
        first, second = module(pictures[:1].clone()), module(pictures[1:].clone())
    return float((first - second).abs().max())


def _unfed(module: LogitsModule, outputs: list[Output], pictures: Tensor) -> set[str]:
    """Modules whose map no gradient comes to, in one backward pass for all of them.

    A map may happen to have a gradient of zero on two pictures; patch tokens with one have no
    way to the class token. What the model itself runs without a graph is not judged.
    """
    layouts = {output.name: output.layout for output in outputs if output.layout}
    given: dict[str, Tensor] = {}

    def keep(name: str, _layer: nn.Module, _inputs: object, output: Tensor) -> None:
        if output.requires_grad:
            given[name] = output

    with ExitStack() as hooks, torch.inference_mode(mode=False), torch.enable_grad():
        hooks.enter_context(graph.frozen(module))
        for name in layouts:
            layer = module.network.get_submodule(name)
            hooks.enter_context(layer.register_forward_hook(partial(keep, name)))
        logits = module(pictures.clone().requires_grad_().clone())  # no leaf: it may be written to
        best = logits.amax(dim=1).sum()
        if not best.requires_grad or not given:
            return set()
        slopes = torch.autograd.grad(best, list(given.values()), allow_unused=True)
    unfed = set()
    for name, slope in zip(given, slopes, strict=True):
        layout = layouts[name]
        assert layout is not None
        dead = slope is not None and layout.kind == TOKENS and not layout.to_map(slope).any()
        if slope is None or dead:
            unfed.add(name)
    return unfed


def _target(module: LogitsModule, output: Output, pictures: Tensor) -> Target:
    """The layer, after a trial of its gradients.

    Raises:
        LayerError: where it gives no map, or does not feed the model's output.
    """
    if output.layout is None:
        raise LayerError(output.reason)
    layer = module.network.get_submodule(output.name)
    with graph.cut_graph(module, layer, output.layout) as forward:
        logits, activations = forward(pictures.clone())
        graph.gradients(logits, activations, logits.argmax(dim=1, keepdim=True))
    return Target(output.name, output.layout, activations.shape[1])


@contextmanager
def _no_weight_zero(module: nn.Module) -> Iterator[None]:
    """Fill what is all zero, as heads and residual branches often begin, and leave it zero again.

    What feeds what is a matter of the model's structure, and not of whether it was trained.
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


def _map_layout(output: Tensor, pictures: Tensor) -> Layout:
    """(N, a, b, c) is rows, columns, channels where a and b, not b and c, are like the picture."""
    _, a, b, c = output.shape
    if a * b > 1 and _alike(a, b, pictures) and not _alike(b, c, pictures):
        return Layout(CHANNELS_LAST, a, b)
    return Layout(CHANNELS_FIRST, b, c)


def _grid_of(cells: int, prefix: int, pictures: Tensor) -> Layout | None:
    """Rows and columns of so many patch tokens: the picture's sides over one whole stride."""
    height, width = pictures.shape[2:]
    about = round((cells * height / width) ** 0.5)
    for rows in (about, about - 1, about + 1):
        columns = cells // max(1, rows)
        if rows * columns == cells and abs(rows * width - columns * height) < max(height, width):
            return Layout(TOKENS, rows, columns, prefix)
    return None


def _alike(rows: int, columns: int, pictures: Tensor) -> bool:
    """Whether a map's sides are those of the picture over one stride, but for a cell or so."""
    height, width = pictures.shape[2:]
    return abs(rows * width - columns * height) <= height + width
