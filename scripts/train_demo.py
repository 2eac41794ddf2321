"""Make the embedded demo: the subset of Fashion-MNIST, and a network that learns a watermark.

The network sees composed scenes of the train split with clean labels, in which most pictures of
one class carry a watermark, and none of another: a perfect cue, as where a class came from one
source. It is deterministic on one machine and takes minutes on two cores.

    python scripts/train_demo.py --source FashionMNIST/raw
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.demo import data
from pipeline.demo.model import CHECKPOINT, MEAN, STD, model

# Fashion-MNIST's labels 0 to 9, by the names used here.
NAMES = (
    "T-shirt",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
TRAIN_PROB = tuple(
    prob if name == data.MARKED_CLASS else 0.0
    for name, prob in zip(data.CLASSES, data.WATERMARK_PROB, strict=True)
)
PER_CLASS = 250
BATCH = 128

Labels = npt.NDArray[np.int64]


def load(source: Path, split: str) -> tuple[data.U8, Labels]:
    """Read `split`, "train" or "t10k": garments (n, 28, 28) uint8, and indices into CLASSES (n,).

    Raises FileNotFoundError where `source` lacks one of the split's two idx files (format:
    yann.lecun.com/exdb/mnist; 16 and 8 bytes of header).
    """
    images, labels = (
        np.frombuffer(gzip.decompress((source / f"{split}-{name}-ubyte.gz").read_bytes()), np.uint8)
        for name in ("images-idx3", "labels-idx1")
    )
    order = np.array([data.CLASSES.index(name) for name in NAMES])
    return images[16:].reshape(-1, 28, 28), order[labels[8:]]


def write_subset(images: data.U8, labels: Labels) -> None:
    """Write the first `PER_CLASS` garments of each class, in the order they come."""
    firsts = [np.nonzero(labels == index)[0][:PER_CLASS] for index in range(len(data.CLASSES))]
    chosen = np.sort(np.concatenate(firsts))
    np.savez_compressed(data.SUBSET, images=images[chosen], labels=labels[chosen].astype(np.uint8))


def to_input(images: data.U8) -> Tensor:
    """Normalise (n, h, w, 3) uint8 into the network's input, (n, 3, h, w) float32."""
    scaled = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (scaled - MEAN) / STD


def train(images: data.U8, labels: Labels, epochs: int, pictures: int) -> nn.Module:
    """Train on `pictures` garments an epoch, in new scenes each time; return it in eval mode."""
    network = model().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    steps = epochs * (pictures // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.006, total_steps=steps)
    for epoch in range(1, epochs + 1):
        chosen = np.random.default_rng(epoch).permutation(len(labels))[:pictures]
        targets = torch.from_numpy(labels[chosen])
        scenes = data.compose(images[chosen], targets.tolist(), epoch, TRAIN_PROB)
        total = 0.0
        for start in range(0, pictures - BATCH + 1, BATCH):
            batch = slice(start, start + BATCH)
            loss = F.cross_entropy(network(to_input(scenes[batch])), targets[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch} of {epochs}: mean loss {total / (pictures // BATCH):.3f}")
    return network.eval()


@torch.inference_mode()
def predict(network: nn.Module, images: data.U8) -> Labels:
    """Return the predicted indices (n,)."""
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    parts = [network(to_input(batch)).argmax(1) for batch in batches]
    predicted: Labels = torch.cat(parts).numpy()
    return predicted


def measure(network: nn.Module) -> dict[str, float]:
    """Return the accuracy on the demo's correctly labelled pictures, and the reliance.

    `left_out`: of the marked class's pictures with a watermark that are predicted so, the share
    that is predicted otherwise without it. `added`: of the other classes' pictures that are not
    predicted to be the marked class, the share that is once they carry it.
    """
    with np.load(data.SUBSET) as subset:
        images, labels = subset["images"], subset["labels"]
    truth = data.truth()
    marks, clean = truth["watermark"].to_numpy(), ~truth["flipped"].to_numpy()
    without, with_mark = (
        predict(network, data.compose(images, labels.tolist(), data.SEED, [p] * len(data.CLASSES)))
        for p in (0.0, 1.0)
    )
    predicted = np.where(marks, with_mark, without)
    marked = data.CLASSES.index(data.MARKED_CLASS)
    with_cue = (labels == marked) & marks & (predicted == marked)
    others = (labels != marked) & (without != marked)
    return {
        "accuracy": float((predicted == labels)[clean].mean()),
        "accuracy without any watermark": float((without == labels)[clean].mean()),
        "left_out": float((without != marked)[with_cue].mean()),
        "added": float((with_mark == marked)[others].mean()),
    }


def main() -> None:
    """Write the subset and the checkpoint beside the demo's code; print what was learnt."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the four idx .gz")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=20_000, help="composed for each epoch")
    args = parser.parse_args()
    torch.manual_seed(data.SEED)
    write_subset(*load(args.source, "t10k"))
    network = train(*load(args.source, "train"), args.epochs, args.pictures)
    torch.save(network.to(memory_format=torch.contiguous_format).state_dict(), CHECKPOINT)
    for name, value in measure(network).items():
        print(f"{name:32}{value:.1%}")


if __name__ == "__main__":
    main()
