"""Rounds of the benchmark: every side warmed and compared, then all in turns; memory, storage."""

from __future__ import annotations

import ctypes
import gc
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq
import torch
from agreement import LIKE, Agreement, Maps, compare, stored_maps, unchanged
from sides import BF16, CAMAUDIT, FP32, SIDES, Bench, synchronize
from tqdm import tqdm

from pipeline.run.worker import ShardWorker
from pipeline.storage import run_folder

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Result:
    """One side in one precision: images per second of every round, memory and storage in bytes.

    memory_peak is the main process's resident memory, or what PyTorch allocated on the GPU;
    memory_before is the same when the round with that peak began.
    """

    side: str
    precision: str
    images_per_second: list[float] = field(default_factory=list)
    memory_peak: int | None = None
    memory_before: int | None = None
    stored_per_image: float | None = None
    stored_without_embedding: float | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """Side and precision."""
        return f"{self.side} {self.precision}"

    @property
    def median(self) -> float | None:
        """Images per second."""
        return median(self.images_per_second) if self.images_per_second else None


def run(bench: Bench, names: list[str], rounds: int) -> tuple[list[Result], list[Agreement]]:
    """Warm every side and compare it with camaudit, then measure all of them in turns."""
    results = [Result(name, precision) for precision in bench.jobs for name in names]
    setup = bench.job.plan.setup
    total = len(results) * (len(setup.rows(0)) + rounds * setup.n_images)
    agreements = []
    with tqdm(total=total, unit="img", smoothing=0, mininterval=0.5, leave=False) as bar:
        bench.advance = bar.update
        # camaudit comes first, so that all others can be compared with what it committed.
        for result in sorted(results, key=lambda each: each.side != CAMAUDIT):
            bar.set_description(f"warm-up: {result.name}")
            with noted_failure(result):
                agreements += warm(bench, result)
        for number in range(1, rounds + 1):
            for result in (each for each in results if each.error is None):
                bar.set_description(f"round {number} of {rounds}: {result.name}")
                with noted_failure(result):
                    measure(bench, result)
    return results, agreements + precision_agreement(bench, names)


@contextmanager
def noted_failure(result: Result) -> Iterator[None]:
    """Note why a peer cannot do it, and go on; where camaudit fails, so does the benchmark."""
    try:
        yield
    except Exception as error:
        if result.side not in LIKE:
            raise
        text = (str(error).splitlines() or [""])[0]
        result.error = f"{type(error).__name__}: {text}"


def warm(bench: Bench, result: Result) -> list[Agreement]:
    """Run a side once, on the first shard; its agreement with camaudit, where both are fp32."""
    job, maps = bench.jobs[result.precision], SIDES[result.side](bench, result.precision, [0])
    theirs = result.side != CAMAUDIT and result.precision == FP32
    if not theirs or not run_folder.is_committed(job.run, job.plan.setup, 0):
        drain(maps)
        return []
    ours = stored_maps(job, 0)
    like = LIKE.get(result.side, unchanged)
    return [compare(f"{CAMAUDIT} {FP32}", result.name, ((ours, each) for each in maps), like)]


def measure(bench: Bench, result: Result) -> None:
    """Add one round of a side to its result."""
    job = bench.jobs[result.precision]
    if result.side == CAMAUDIT:
        shutil.rmtree(job.run.part(0).parent)  # committed parts may not spare it any work
    bench.network.zero_grad()  # pytorch-grad-cam leaves the gradients of all parameters
    before = reset_peak(job.device)
    begun = time.perf_counter()
    drain(SIDES[result.side](bench, result.precision, bench.shards))
    synchronize(job.device)
    seconds = time.perf_counter() - begun
    result.images_per_second.append(job.plan.setup.n_images / seconds)
    peak = None if before is None else read_peak(job.device)
    if peak is not None and peak > (result.memory_peak or 0):
        result.memory_peak, result.memory_before = peak, before
    if result.side == CAMAUDIT:
        note_stored(job, result)


def drain(maps: Iterable[Maps]) -> None:
    """Let a side work and keep nothing: the maps of a large dataset fit in no memory."""
    for _ in maps:
        pass


def reset_peak(device: torch.device) -> int | None:
    """Bytes in use now, from which the peak counts anew; None where that cannot be known."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # glibc keeps what the side before has freed, and a round would begin with it
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")  # proc(5): resets VmHWM
    except OSError:
        return None
    return read_status("VmRSS")


def read_peak(device: torch.device) -> int | None:
    """Most bytes in use since `reset_peak`: of PyTorch on a GPU, else of the main process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return read_status("VmHWM")


def read_status(key: str) -> int | None:
    """A size in bytes from /proc/self/status; None on systems other than Linux."""
    if not STATUS.is_file():
        return None
    fields = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    return int(fields[key].split()[0]) * 1024


def note_stored(job: ShardWorker, result: Result) -> None:
    """Check that camaudit committed every shard, and note the bytes it took per image."""
    setup = job.plan.setup
    missing = run_folder.missing_shards(job.run, setup)
    if missing:
        raise RuntimeError(f"{len(missing)} of {setup.n_shards} shards were not committed")
    size = embedding = 0
    for shard in range(setup.n_shards):
        size += job.run.part(shard).stat().st_size
        embedding += embedding_size(job.run.part(shard))
    result.stored_per_image = size / setup.n_images
    result.stored_without_embedding = (size - embedding) / setup.n_images


def embedding_size(part: Path) -> int:
    """Compressed bytes of the embedding in a part."""
    footer = pq.read_metadata(part)
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sum(
        column.total_compressed_size
        for column in columns
        if column.path_in_schema.split(".")[0] == "embedding"
    )


def precision_agreement(bench: Bench, names: list[str]) -> list[Agreement]:
    """camaudit's bf16 rows beside its fp32 rows, over all shards, where both were asked for."""
    if CAMAUDIT not in names or not {FP32, BF16} <= bench.jobs.keys():
        return []
    full, half = bench.jobs[FP32], bench.jobs[BF16]
    pairs = ((stored_maps(full, shard), stored_maps(half, shard)) for shard in bench.shards)
    return [compare(f"{CAMAUDIT} {FP32}", f"{CAMAUDIT} {BF16}", pairs, unchanged)]
