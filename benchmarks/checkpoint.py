"""What checkpoints cost: blocked time, verifying and loading, against torch.save and torch.load.

    python benchmarks/checkpoint.py [--millions N] [--repeats N] [--directory PLACE]

The state of AdamW over N million float32 parameters (12 N MB: weights and two moments), saved to
the same disk by both, in turn. Ratios are medians over pairs; times are the best of each, since
whatever else runs can only add. `blocked` is the time that the training stands still, from the
second save on, when the buffers are there; the write behind has ended before each. Each load has a
process of its own, as a run that resumes. It needs 40 N MB of memory and of disk. "warm" reads what
the page cache holds, "cold" has it dropped before. Reading uses the cores there are, so each figure
has its CPU seconds beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor

from rheostat.checkpoint.generations import Keep, generations
from rheostat.checkpoint.load import read
from rheostat.checkpoint.save import AsyncWriter
from rheostat.checkpoint.verify import verify

Tensors = dict[str, dict[str, Tensor]]


def state(millions: int) -> Tensors:
    """Weights and moments of a network of 16 square layers and their biases."""
    width = round((millions * 1e6 / 16) ** 0.5)
    generator = torch.Generator().manual_seed(0)
    shapes = {
        name: shape
        for i in range(16)
        for name, shape in ((f"{i}.weight", (width, width)), (f"{i}.bias", (width,)))
    }
    made = lambda: {n: torch.randn(s, generator=generator) for n, s in shapes.items()}  # noqa: E731
    moments = {f"{n}.{key}": t for key in ("exp_avg", "exp_avg_sq") for n, t in made().items()}
    return {"model": made(), "optimizer": moments}


def timed(act: Callable[[], object]) -> float:
    """Seconds."""
    return both(act)[0]


def both(act: Callable[[], object]) -> tuple[float, float]:
    """Seconds, and seconds of all cores."""
    start, used = time.perf_counter(), time.process_time()
    act()
    return time.perf_counter() - start, time.process_time() - used


def drop(paths: list[Path]) -> None:
    """Have the system forget what it has cached of these files."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def report(name: str, value: str, holds: bool | None = None) -> None:
    """One line of the table."""
    print(
        f"{name:<44} {value}{'' if holds is None else '  ok' if holds else '  MISSED'}", flush=True
    )


def copy_all(tensors: Tensors, buffers: Tensors) -> None:
    """A plain copy of the bytes, as fast as it goes on one thread."""
    for file, named in tensors.items():
        for name, tensor in named.items():
            np.copyto(buffers[file][name].numpy(), tensor.numpy())


def saving(tensors: Tensors, place: Path, repeats: int) -> Path:
    """The table of saving; returns the newest checkpoint."""
    size = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
    buffers = {
        f: {n: torch.zeros_like(t) for n, t in named.items()} for f, named in tensors.items()
    }
    theirs, blocked, behind, copies = [], [], [], []
    with AsyncWriter(place / "ours", Keep(last=1)) as writer:
        for i in range(repeats + 1):
            if i == repeats:
                buffers.clear()
            (place / "theirs.pt").unlink(missing_ok=True)
            theirs.append(timed(lambda: torch.save(tensors, place / "theirs.pt")))
            drop([place / "theirs.pt"])
            if buffers:
                copies.append(timed(lambda: copy_all(tensors, buffers)))
            blocked.append(
                timed(lambda step=i: writer.save(step, tensors, {"run": {"step": step}}))
            )
            behind.append(timed(writer.wait))
    first, later, saved = blocked[0], min(blocked[1:]), min(theirs)
    report("torch.save", f"{saved:6.3f} s")
    report("blocked, the first save", f"{first:6.3f} s")
    report("blocked, later", f"{later:6.3f} s")
    ratio = median(a / b for a, b in zip(blocked[1:], theirs[1:], strict=True))
    report("  against torch.save, wanted ≤ 0.20", f"{ratio:6.3f}", ratio <= 0.2)
    plain = median(a / b for a, b in zip(blocked[1:-1], copies[1:], strict=True))
    report("  against a plain copy, wanted ≤ 1.20", f"{plain:6.3f}", plain <= 1.2)
    report("written, synced, read back behind", f"{min(behind):6.3f} s")
    report("  that is", f"{size / min(behind) / 1e9:6.2f} GB/s")
    return generations(place / "ours")[-1].path


ACTS: dict[str, Callable[[Path], object]] = {
    "torch.load": lambda path: torch.load(path, weights_only=True),
    "read": read,
    "verify": verify,
}


def alone(act: str, path: Path) -> tuple[float, float]:
    """`both` in a process of its own, as a run that resumes is: its memory is new."""
    command = [sys.executable, __file__, "--act", act, "--directory", str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return float(said[0]), float(said[1])


def loading(ours: Path, theirs: Path, repeats: int) -> None:
    """The table of reading: medians of paired ratios, each pair in processes of their own."""
    size = theirs.stat().st_size
    for kind in ("warm", "cold"):
        times: dict[str, list[tuple[float, float]]] = {act: [] for act in ACTS}
        for _ in range(repeats):
            for act, taken in times.items():
                path = theirs if act == "torch.load" else ours
                if kind == "cold":
                    drop([path] if path.is_file() else list(path.iterdir()))
                taken.append(alone(act, path))
        for act, taken in times.items():
            wall, used = (min(column) for column in zip(*taken, strict=True))
            report(f"{kind}: {act}", f"{wall:6.3f} s, {used:6.3f} of CPU")
        ratio = paired(times["read"], times["torch.load"], 0)
        report("  read against torch.load, wanted ≤ 1.10", f"{ratio:6.3f}", ratio <= 1.1)
        ratio = paired(times["read"], times["torch.load"], 1)
        report("  the same of CPU seconds", f"{ratio:6.3f}")
        rate = size / min(used for _, used in times["verify"]) / 1e9
        report("  verified in a second of one core, GB", f"{rate:6.2f}, wanted ≥ 1", rate >= 1)


def paired(ours: list[tuple[float, float]], theirs: list[tuple[float, float]], which: int) -> float:
    """The median of the ratios of what was measured one after the other."""
    return median(a[which] / b[which] for a, b in zip(ours, theirs, strict=True))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--millions", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--directory", type=Path, default=None)
    parser.add_argument("--act", choices=ACTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.act:
        print(*both(lambda: ACTS[options.act](options.directory)))
        return
    place = Path(tempfile.mkdtemp(prefix="rheostat-checkpoint-", dir=options.directory))
    try:
        tensors = state(options.millions)
        size = sum(tensor.nbytes for named in tensors.values() for tensor in named.values())
        cores = len(os.sched_getaffinity(0))
        print(f"torch {torch.__version__}, {size / 1e9:.2f} GB, {cores} cores, in {place.parent}")
        ours = saving(tensors, place, options.repeats)
        del tensors
        torch.save({f: dict(n) for f, n in read(ours).tensors.items()}, place / "theirs.pt")
        loading(ours, place / "theirs.pt", options.repeats)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
