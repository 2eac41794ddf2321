"""Measure camaudit beside a forward pass alone and its peers: one process, the same files.

Every side is warmed once, on the first shard, where its results are compared with camaudit's. Then
the sides take turns, round after round, and the median of each side's rounds counts. Files are made
up and weights are random, neither of which changes the work.

    scripts/benchmarks/speed/run --model resnet50 --images 1024
    scripts/benchmarks/speed/run --memory --images 50000 --model small --size 64
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from agreement import Agreement
from jpegs import make_images
from rounds import Result, drain, read_status, run
from sides import (
    BF16,
    CAMAUDIT,
    FORWARD,
    FP32,
    PYTORCH_GRAD_CAM,
    SIDES,
    SMALL,
    make_bench,
    model_overrides,
)
from tqdm import tqdm

from pipeline.data.loader import n_loader_processes
from pipeline.engine import precision
from pipeline.errors import AuditError
from pipeline.model.device import pick_device
from pipeline.run.versions import versions

CPU_INFO = Path("/proc/cpuinfo")
LIBRARIES = ("grad-cam", "torchcam", "captum")
MIB = 2**20


def as_dict(result: Result, results: list[Result]) -> dict[str, Any]:
    """A result with what follows from it: median, spread, and ratios to the sides of reference."""
    rates = result.images_per_second
    medians = {other.name: other.median for other in results}
    return asdict(result) | {
        "median": result.median,
        "min": min(rates, default=None),
        "max": max(rates, default=None),
        "ratio_to_forward": ratio(result.median, medians.get(f"{FORWARD} {result.precision}")),
        "ratio_to_pytorch_grad_cam": ratio(
            result.median, medians.get(f"{PYTORCH_GRAD_CAM} {FP32}")
        ),
    }


def ratio(value: float | None, reference: float | None) -> float | None:
    """value / reference, where both are known."""
    return None if value is None or reference is None else value / reference


def sides_table(lines: list[dict[str, Any]]) -> str:
    """The results for people; memory is the peak and, in brackets, how far it rose in the round."""
    rows = [["side", "precision", "images/s", "x forward", "x pytorch-grad-cam"]]
    rows[0] += ["memory, MiB", "bytes/image", "(no embedding)"]
    for line in lines:
        row = [line["side"], line["precision"], shown(line["median"], ".1f")]
        row += [shown(line[f"ratio_to_{key}"], ".2f") for key in ("forward", "pytorch_grad_cam")]
        row.append(shown_memory(line["memory_peak"], line["memory_before"]))
        row += [shown(line[f"stored_{key}"], ".0f") for key in ("per_image", "without_embedding")]
        rows.append([*row[:2], line["error"]] if line["error"] else row)
    return aligned(rows)


def agreement_table(agreements: list[Agreement]) -> str:
    """The agreements for people."""
    rows = [
        ["first", "second", "images", "same class", "maps", "dead", "mean cosine", "min cosine"]
    ]
    for each in agreements:
        row = [each.first, each.second, str(each.n_images), shown(each.same_class, ".4f")]
        row += [str(each.n_maps), str(each.n_dead)]
        rows.append([*row, shown(each.mean_cosine, ".6f"), shown(each.min_cosine, ".6f")])
    return aligned(rows)


def shown(value: float | None, spec: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, spec)


def shown_memory(peak: int | None, before: int | None) -> str:
    """Peak and rise in MiB."""
    if peak is None or before is None:
        return "-"
    return f"{peak / MIB:.0f} (+{max(0, peak - before) / MIB:.0f})"


def aligned(rows: list[list[str]]) -> str:
    """Rows as text in columns; a shorter row ends in a remark, which may be as long as it likes."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(map(len, column)) for column in zip(*full, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def hardware(args: argparse.Namespace) -> dict[str, Any]:
    """What the figures were measured on."""
    device = pick_device(args.device)
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "workers": n_loader_processes(args.workers),
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.system(),
        "versions": versions() | peer_versions(),
    }


def cpu_name() -> str:
    """The model of the processor."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def peer_versions() -> dict[str, str]:
    """The versions of the peers that are installed."""
    return {each.name: each.version for each in metadata.distributions() if each.name in LIBRARIES}


def overrides(args: argparse.Namespace, root: Path, output: Path) -> list[str]:
    """camaudit's settings for the options, the images and a folder for its results."""
    return [
        *model_overrides(args.model),
        f"model.preprocess.resize={args.size}",
        f"dataset.root='{root}'",
        f"output_dir='{output}'",
        f"device={args.device}",
        f"loader.batch_size={args.batch}",
        f"loader.num_workers={args.workers}",
        *args.override,
    ]


def benchmark(args: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Measure the sides and print both tables; everything, for JSON."""
    make_images(scratch / "images", args.images, args.size, args.images_from)
    bench = make_bench(overrides(args, scratch / "images", scratch / "runs"), args.precision)
    results, agreements = run(bench, args.sides, args.rounds)
    lines = [as_dict(result, results) for result in results]
    print(sides_table(lines))
    if agreements:
        print(f"\n{agreement_table(agreements)}")
    layer = bench.job.classifier.layer_name
    return {"layer": layer, "sides": lines, "agreement": [asdict(each) for each in agreements]}


def memory_growth(args: argparse.Namespace, scratch: Path, argv: list[str]) -> dict[str, Any]:
    """camaudit's peak memory for a tenth of the images and for all, in a process each."""
    peaks = {}
    for n_images in (max(1, args.images // 10), args.images):
        root = scratch / f"images-{n_images}"
        make_images(root, n_images, args.size, args.images_from)
        command = [sys.executable, __file__, *argv, "--alone", str(root)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
        peaks[n_images] = int(told.stdout)
        print(f"{n_images} images: {peaks[n_images] / MIB:.0f} MiB at the peak")
    few, many = peaks.values()
    print(f"ratio: {many / few:.3f}")
    return {"peak_memory": peaks, "ratio": many / few}


def alone(args: argparse.Namespace, scratch: Path) -> int:
    """Peak resident memory in bytes of a process that does nothing but explain the images."""
    bench = make_bench(overrides(args, args.alone, scratch), args.precision[:1])
    with tqdm(total=bench.job.plan.setup.n_images, unit="img", mininterval=0.5) as bar:
        bench.advance = bar.update
        drain(SIDES[CAMAUDIT](bench, args.precision[0], bench.shards))
    # Linux hands ru_maxrss on to the programs that a process starts; VmHWM is a process's own.
    peak = read_status("VmHWM")
    if peak is None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return peak


def parse(argv: list[str]) -> argparse.Namespace:
    """The options, with what was left open decided."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    add = parser.add_argument
    add("--model", default="resnet50", help=f"of torchvision, or {SMALL}")
    add("--size", type=int, default=224, help="of the model's input in pixels")
    add("--images", type=int, default=256, help="their number")
    add("--batch", type=int, default=16, help="images per batch")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    add("--rounds", type=int, default=5)
    add("--threads", type=int, help="of PyTorch in the main process; default: its own choice")
    add("--workers", type=workers, default="auto", help="processes that load images")
    add("--sides", type=side_names, default=list(SIDES), help=f"some of {','.join(SIDES)}")
    add("--precision", nargs="+", choices=(FP32, BF16), help="default: those the device has")
    add("--images-from", type=Path, metavar="FOLDER", help="JPEGs to take instead of made-up ones")
    add("--override", action="append", default=[], metavar="KEY=VALUE", help="camaudit's settings")
    add("--json", type=Path, metavar="FILE", help="where to write everything that was measured")
    add("--memory", action="store_true", help="only how camaudit's memory grows with the images")
    add("--alone", type=Path, help=argparse.SUPPRESS)  # the child of --memory
    args = parser.parse_args(argv)
    fastest = precision.fastest(pick_device(args.device))
    args.precision = args.precision or ([FP32, BF16] if fastest == BF16 else [FP32])
    return args


def workers(text: str) -> int | str:
    """Number of loader processes, or auto."""
    return text if text == "auto" else int(text)


def side_names(text: str) -> list[str]:
    """The named sides, in the order of a round."""
    wanted = text.split(",")
    unknown = sorted(set(wanted) - set(SIDES))
    if unknown:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: none of {', '.join(SIDES)}")
    return [name for name in SIDES if name in wanted]


def main(argv: list[str] | None = None) -> None:
    """Measure, print and write what the options say."""
    argv = sys.argv[1:] if argv is None else argv
    args = parse(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="camaudit-benchmark-") as folder:
        if args.alone:
            print(alone(args, Path(folder)))
            return
        found = {"hardware": hardware(args), "options": vars(args)}
        print_hardware(found["hardware"], args)
        if args.memory:
            found |= memory_growth(args, Path(folder), argv)
        else:
            found |= benchmark(args, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, default=str), encoding="utf-8")


def print_hardware(machine: dict[str, Any], args: argparse.Namespace) -> None:
    """What was measured, and on what, above the table."""
    print(f"{machine['cpu']}, {machine['cores']} cores, {machine['gpu'] or 'no GPU'}")
    torch_version = machine["versions"]["torch"]
    print(
        f"torch {torch_version}, {machine['threads']} threads, {machine['workers']} loader workers"
    )
    print(f"{args.model}, {args.images} JPEGs, input {args.size}, batch {args.batch}\n")


if __name__ == "__main__":
    logging.getLogger("pipeline").setLevel(logging.ERROR)  # random weights need no warning here
    try:
        main()
    except AuditError as error:
        sys.exit(f"{error}")
