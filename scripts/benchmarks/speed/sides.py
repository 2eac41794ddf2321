"""The sides of the benchmark: a forward pass alone, camaudit, and its peers as their READMEs show.

All read the same files through the same DataLoader and have the same weights. A side is a function
of the bench, the precision and the shards; it yields its heatmaps as NumPy arrays on the CPU, which
is what a user keeps. camaudit yields none: it writes its rows to Parquet.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import F32, Maps
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline import config as settings
from pipeline.config import Config
from pipeline.data.datasets import open_source
from pipeline.data.loader import load_images, n_loader_processes, plan_batches
from pipeline.model import backends
from pipeline.run import state
from pipeline.run.explain_shards import explain_shards
from pipeline.run.worker import ShardWorker, prepare

FP32, BF16 = "fp32", "bf16"
DTYPES = {FP32: torch.float32, BF16: torch.bfloat16}
FORWARD, CAMAUDIT, PYTORCH_GRAD_CAM = "forward", "camaudit", "pytorch-grad-cam"
SMALL = "small"

Explain = Callable[[Tensor], tuple[Tensor, F32]]
Peer = Callable[[nn.Module, nn.Module, str], AbstractContextManager[Explain]]


@dataclass
class Bench:
    """What the sides share.

    jobs holds camaudit's job of each precision, forwards the network of forward only in each, and
    network the one that the peers get, in PyTorch's default memory format.
    """

    jobs: dict[str, ShardWorker]
    forwards: dict[str, nn.Module]
    network: nn.Module
    advance: Callable[[int], object] = lambda _images: None

    @property
    def job(self) -> ShardWorker:
        """Any of the jobs: they share device, source, plan and preprocessing."""
        return next(iter(self.jobs.values()))

    @property
    def layer(self) -> nn.Module:
        """The layer of `network` that camaudit explains in its own copy."""
        name = self.job.classifier.layer_name.removeprefix("network.")  # camaudit may wrap a model
        return self.network.get_submodule(name)

    @property
    def shards(self) -> list[int]:
        """All shards of the plan."""
        return list(range(self.job.plan.setup.n_shards))


Side = Callable[[Bench, str, list[int]], Iterator[Maps]]


def build_small(n_classes: int = 10) -> nn.Module:
    """A small CNN: four blocks of convolution, batch norm, ReLU and max pooling, a linear head."""
    layers: list[nn.Module] = []
    n_inputs = 3
    for n_channels in (32, 64, 128, 128):
        layers += [
            nn.Conv2d(n_inputs, n_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(n_channels),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        n_inputs = n_channels
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n_inputs, n_classes)]
    return nn.Sequential(*layers, *head)


def make_bench(overrides: list[str], precisions: list[str]) -> Bench:
    """Prepare camaudit in every precision, and networks of the same weights for the others."""
    jobs = {}
    for precision in precisions:
        own = [f"precision={precision}", f"run_id=benchmark-{precision}"]
        config = configure([*overrides, *own])
        source = open_source(config.dataset, config.data.max_pixels)
        jobs[precision] = prepare(config, state.Journal(config), source)
    job = jobs[precisions[0]]
    network = build(job.config).to(job.device)
    forwards = {
        precision: copy.deepcopy(network)
        .to(DTYPES[precision])
        .to(memory_format=torch.channels_last)
        for precision in precisions
    }
    return Bench(jobs, forwards, network)


def configure(overrides: list[str]) -> Config:
    """The settings, as the command line would make them."""
    with initialize_config_dir(str(settings.conf_dir()), version_base="1.3"):
        return settings.load(compose("config", overrides))


def model_overrides(model: str) -> list[str]:
    """The settings of `small` or of a torchvision model, with random weights."""
    if model != SMALL:
        return ["model=torchvision", f"model.name={model}", "model.weights=null"]
    factory = f"{Path(__file__).resolve()}:{build_small.__name__}"
    colours = ["model.preprocess.mean=[0.5,0.5,0.5]", "model.preprocess.std=[0.5,0.5,0.5]"]
    return ["model=custom", f"model.factory='{factory}'", *colours]


def build(config: Config) -> nn.Module:
    """The model of the settings once more, seeded as camaudit seeds it: the weights are equal."""
    torch.manual_seed(config.seed)
    return backends.BUILDERS[config.model.kind](config.model, None).module.eval()


def batches(bench: Bench, shards: list[int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """camaudit's own loading and preprocessing: plan positions (n,), float32 input (n, 3, h, w)."""
    job = bench.job
    wanted = {shard: job.wanted(shard) for shard in shards}
    loader = load_images(
        job.source.read,
        job.classifier.preprocess.fit,
        plan_batches(wanted, job.plan.setup),
        n_loader_processes(job.config.loader.num_workers),
        pin=job.device.type == "cuda",
    )
    for batch in loader:
        if batch.indices:
            images = batch.images.to(job.device, non_blocking=True)
            yield np.asarray(batch.indices), job.classifier.preprocess.normalise(images)
        bench.advance(len(batch.indices) + len(batch.errors))


def forward_only(bench: Bench, precision: str, shards: list[int]) -> Iterator[Maps]:
    """Predict and explain nothing: what no side can beat with this loader and this model."""
    network, indices, predicted = bench.forwards[precision], [], []
    with torch.inference_mode():
        for some, images in batches(bench, shards):
            logits = network(images.to(DTYPES[precision], memory_format=torch.channels_last))
            indices.append(some)
            predicted.append(logits.argmax(dim=1))  # kept there: no wait for the device
        found = torch.cat(predicted)
    synchronize(bench.job.device)
    yield Maps(np.concatenate(indices), found.cpu().numpy(), None)


def camaudit(bench: Bench, precision: str, shards: list[int]) -> Iterator[Maps]:
    """The explain stage: predictions, heatmaps and statistics, committed as Parquet."""
    explain_shards(bench.jobs[precision], shards, bench.advance)
    return iter(())


def peer(context: Peer, bench: Bench, precision: str, shards: list[int]) -> Iterator[Maps]:
    """Another library, over the same batches; bf16 is autocast, as its user would have it."""
    autocast = torch.autocast(bench.job.device.type, torch.bfloat16, enabled=precision == BF16)
    done = False
    with autocast, context(bench.network, bench.layer, precision) as explain_batch:
        for indices, images in batches(bench, shards):
            predicted, heatmaps = explain_batch(images)
            yield Maps(indices, predicted.cpu().numpy(), heatmaps)
        done = True
    if not done:  # pytorch-grad-cam's context ends an IndexError, and the round would look fast
        raise RuntimeError("stopped before the last batch")


class FloatLogits(nn.Module):
    """Hands out float32 logits: NumPy, into which pytorch-grad-cam turns them, has no bfloat16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) in float32."""
        logits: Tensor = self.network(images)
        return logits.float()


@contextmanager
def pytorch_grad_cam(network: nn.Module, layer: nn.Module, precision: str) -> Iterator[Explain]:
    """pytorch-grad-cam: maps of the input's size, each scaled to [0, 1]."""
    library: Any = importlib.import_module("pytorch_grad_cam")
    arguments: dict[str, Any] = {"model": network, "target_layers": [layer]}
    if precision == BF16:  # activations and gradients become NumPy arrays too
        arguments = {
            "model": FloatLogits(network),
            "target_layers": [layer],
            "reshape_transform": Tensor.float,
        }
    with library.GradCAM(**arguments) as cam:

        def explain_batch(images: Tensor) -> tuple[Tensor, F32]:
            heatmaps: F32 = cam(input_tensor=images, targets=None)
            return cam.outputs.argmax(dim=1), heatmaps

        yield explain_batch


@contextmanager
def torchcam(network: nn.Module, layer: nn.Module, _precision: str) -> Iterator[Explain]:
    """torchcam: maps on the layer's grid, each scaled to [0, 1]."""
    library: Any = importlib.import_module("torchcam.methods")
    with library.GradCAM(network, target_layer=layer) as extractor:

        def explain_batch(images: Tensor) -> tuple[Tensor, F32]:
            logits = network(images)
            predicted = logits.argmax(dim=1)
            (heatmaps,) = extractor(predicted.tolist(), logits)
            return predicted, heatmaps.float().cpu().numpy()

        yield explain_batch


@contextmanager
def captum(network: nn.Module, layer: nn.Module, _precision: str) -> Iterator[Explain]:
    """captum: maps on the layer's grid, unscaled; it wants to know the class beforehand."""
    library: Any = importlib.import_module("captum.attr")
    layer_gradcam = library.LayerGradCam(network, layer)

    def explain_batch(images: Tensor) -> tuple[Tensor, F32]:
        with torch.no_grad():
            predicted = network(images).argmax(dim=1)
        heatmaps = layer_gradcam.attribute(images, target=predicted, relu_attributions=True)
        return predicted, heatmaps[:, 0].detach().float().cpu().numpy()

    yield explain_batch


# In the order of a round.
SIDES: dict[str, Side] = {
    FORWARD: forward_only,
    CAMAUDIT: camaudit,
    PYTORCH_GRAD_CAM: partial(peer, pytorch_grad_cam),
    "torchcam": partial(peer, torchcam),
    "captum": partial(peer, captum),
}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
