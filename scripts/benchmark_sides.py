"""The sides of the benchmark: a forward pass alone, camaudit, and its peers as their READMEs show.

All read the same files through the same DataLoader and have the same weights. A side is a function
of the bench, the precision and the shards; it yields its heatmaps as NumPy arrays on the CPU, which
is what a user keeps. camaudit yields none: it writes its rows to Parquet.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from pipeline import config as settings
from pipeline import dataset, ops, store
from pipeline.config import Config
from pipeline.model import zoo
from pipeline.stages import explain
from pipeline.stages.explain import Job

FP32, BF16 = "fp32", "bf16"
DTYPES = {FP32: torch.float32, BF16: torch.bfloat16}
FORWARD, CAMAUDIT, PYTORCH_GRAD_CAM = "forward", "camaudit", "pytorch-grad-cam"
SMALL = "small"

SEED = 0
N_CLASSES = 10
"""Folders of images; named by number, they are classes of every model with as many outputs."""
QUALITY = 90
COARSE, FINE = (128, 32), (8, 4, 2)
"""Pixels per cell of the noise below and above the shapes of a picture."""

F32 = NDArray[np.float32]
Explain = Callable[[Tensor], tuple[Tensor, F32]]
Peer = Callable[[nn.Module, nn.Module, str], AbstractContextManager[Explain]]


@dataclass(frozen=True)
class Maps:
    """What a side found for the images at n plan positions.

    predicted is (n,) class indices; heatmaps is (n, h, w), or None where the side makes none.
    """

    indices: NDArray[np.int64]
    predicted: NDArray[np.int64]
    heatmaps: F32 | None


@dataclass
class Agreement:
    """How far two results are alike.

    same_class is the share of images with the same predicted class. Cosines are of the heatmaps of
    n_maps of these, without the n_dead where either map is zero everywhere.
    """

    first: str
    second: str
    n_images: int
    same_class: float | None
    n_maps: int
    n_dead: int
    mean_cosine: float | None
    min_cosine: float | None


@dataclass
class Bench:
    """What the sides share.

    jobs holds camaudit's job of each precision, forwards the network of forward only in each, and
    network the one that the peers get, in PyTorch's default memory format.
    """

    jobs: dict[str, Job]
    forwards: dict[str, nn.Module]
    network: nn.Module
    advance: Callable[[int], object] = lambda _images: None

    @property
    def job(self) -> Job:
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
Like = Callable[[F32, tuple[int, ...]], F32]


def draw_picture(index: int, size: int) -> NDArray[np.uint8]:
    """A picture (H, W, 3) of about 1.3 times the size: noise at several scales, and shapes.

    Amplitudes fall with the scale, as in photographs, so that decoding is as much work: the JPEG
    takes about 0.3 bytes per pixel.
    """
    rng = np.random.default_rng([SEED, index])
    height, width = (round(1.3 * size * side) for side in rng.uniform(0.9, 1.1, 2))
    canvas = np.full((height, width, 3), rng.uniform(64, 192, 3), np.float32)
    for scale in COARSE:
        add_noise(canvas, rng, scale)
    for _ in range(rng.integers(2, 7)):
        draw_shape(canvas, rng)
    for scale in FINE:
        add_noise(canvas, rng, scale)
    return np.asarray(canvas.clip(0, 255), np.uint8)


def add_noise(canvas: NDArray[np.float32], rng: np.random.Generator, scale: int) -> None:
    """Add coloured noise, smooth over `scale` pixels."""
    height, width = canvas.shape[:2]
    cells = rng.normal(0, 5 * scale**0.4, (height // scale + 2, width // scale + 2, 3))
    canvas += cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)


def draw_shape(canvas: NDArray[np.float32], rng: np.random.Generator) -> None:
    """Draw an ellipse or a triangle, somewhere, in some colour."""
    height, width = canvas.shape[:2]
    colour = rng.uniform(0, 255, 3).tolist()
    corners = (rng.uniform(0, 1, (3, 2)) * (width, height)).astype(np.int32)
    if rng.random() < 0.5:
        cv2.fillPoly(canvas, [corners], colour)
    else:
        axes = (rng.uniform(0.05, 0.3, 2) * (width, height)).astype(int).tolist()
        cv2.ellipse(canvas, corners[0].tolist(), axes, rng.uniform(0, 180), 0, 360, colour, -1)


def make_images(root: Path, n_images: int, size: int, given: Path | None) -> None:
    """Fill a folder with `n_images` JPEGs, made up or linked, in one folder per class."""
    for label in range(min(N_CLASSES, n_images)):
        (root / str(label)).mkdir(parents=True)
    found = find_images(given, n_images) if given else None
    for index in tqdm(range(n_images), desc="images", unit="img", leave=False):
        path = root / str(index % N_CLASSES) / f"{index:07d}.jpg"
        if found:
            path.symlink_to(found[index])
        else:
            picture = cv2.cvtColor(draw_picture(index, size), cv2.COLOR_RGB2BGR)
            if not cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]):
                raise OSError(f"{path} cannot be written")


def find_images(folder: Path, n_images: int) -> list[Path]:
    """The first JPEGs below a folder, by name; SystemExit where there are too few."""
    every = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    if len(every) < n_images:
        sys.exit(f"--images-from: {folder} has {len(every)} JPEGs, not {n_images}")
    return [path.resolve() for path in every[:n_images]]


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
        jobs[precision] = explain.prepare(config, ops.Journal(config))
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
    return zoo.BUILDERS[config.model.kind](config.model, None).module.eval()


def batches(bench: Bench, shards: list[int]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """camaudit's own loading and preprocessing: plan positions (n,), float32 input (n, 3, h, w)."""
    job = bench.job
    loader = dataset.make_loader(
        job.source.read,
        job.classifier.preprocess.fit,
        job.plan.setup,
        shards,
        dataset.workers(job.config.loader.num_workers),
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
    explain.explain_shards(bench.jobs[precision], shards, bench.advance)
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


def upsampled(heatmaps: F32, size: tuple[int, ...]) -> F32:
    """Maps (n, h, w) as pytorch-grad-cam would return them, (n, *size): scaled twice, as it does.

    Its maps are compared at the input's size, by its own function: shrinking them back to the
    layer's grid would blur what bilinear interpolation has already blurred.
    """
    scale: Any = importlib.import_module("pytorch_grad_cam.utils.image").scale_cam_image
    scaled: F32 = scale(scale(heatmaps, size[::-1]))
    return scaled


def without_minimum(heatmaps: F32, _size: tuple[int, ...]) -> F32:
    """Maps (n, h, w) as torchcam returns them, but for their scale: it subtracts the minimum."""
    lowest: F32 = heatmaps.min(axis=(1, 2), keepdims=True)
    return heatmaps - lowest


def unchanged(heatmaps: F32, _size: tuple[int, ...]) -> F32:
    """Maps (n, h, w) as captum returns them, but for their scale."""
    return heatmaps


# camaudit's maps brought to what a peer hands out, so that the cosine tells of Grad-CAM alone.
LIKE: dict[str, Like] = {
    PYTORCH_GRAD_CAM: upsampled,
    "torchcam": without_minimum,
    "captum": unchanged,
}


def stored_maps(job: Job, shard: int) -> Maps:
    """What camaudit committed for a shard, without the images that could not be explained."""
    table = store.read(job.run.part(shard), ["index", "pred_index", "heatmap", "status"])
    table = table.filter(pc.equal(table["status"], "ok"))
    flat = pc.list_flatten(table["heatmap"]).to_numpy().astype(np.float32)
    return Maps(
        indices=table["index"].to_numpy(),
        predicted=table["pred_index"].to_numpy(),
        heatmaps=flat.reshape(len(table), *job.plan.setup.grid),
    )


def compare(first: str, second: str, pairs: Iterable[tuple[Maps, Maps]], like: Like) -> Agreement:
    """How far pairs of results for the same images agree; `like` is applied to the first maps."""
    same, cosines = [np.zeros(0, np.bool_)], [np.zeros(0)]
    for ours, theirs in pairs:
        _, at, other = np.intersect1d(ours.indices, theirs.indices, return_indices=True)
        same.append(ours.predicted[at] == theirs.predicted[other])
        at, other = at[same[-1]], other[same[-1]]  # other classes have other maps
        if ours.heatmaps is not None and theirs.heatmaps is not None and len(at):
            maps = theirs.heatmaps[other]
            cosines.append(cosine(like(ours.heatmaps[at], maps.shape[1:]), maps))
    agree, found = np.concatenate(same), np.concatenate(cosines)
    alive = found[np.isfinite(found)]
    return Agreement(
        first=first,
        second=second,
        n_images=len(agree),
        same_class=float(agree.mean()) if len(agree) else None,
        n_maps=len(alive),
        n_dead=len(found) - len(alive),
        mean_cosine=float(alive.mean()) if len(alive) else None,
        min_cosine=float(alive.min()) if len(alive) else None,
    )


def cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine (n,) of maps (n, h, w); NaN where one of the two is zero everywhere."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = np.full(len(a), np.nan)
    np.divide((a * b).sum(axis=1), lengths, out=found, where=lengths > 0)
    return found


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
