"""What in this environment would keep a run from replaying to the same bits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rheostat.checkpoint.compare import values_that_differ
from rheostat.record.environment import VARIABLES, environment, git_state
from rheostat.record.run import FACTS, RunRecord

SETTINGS = ("deterministic", "matmul_precision", "cudnn_benchmark")
"""Of `run_environment`, what a program sets for itself: another process cannot see it."""


class Obstacle(NamedTuple):
    """Something that keeps a run from replaying: of what, what was found, what helps."""

    subject: str
    found: str
    remedy: str


def run_environment() -> dict[str, Any]:
    """What has to be the same for the same bits: code, versions, processor, devices, threads, and
    the settings of torch."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **environment(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
        **({"devices": devices, "cudnn_benchmark": _cudnn_benchmark()} if devices else {}),
    }


def obstacles(run: str | Path | None = None) -> list[Obstacle]:
    """What would keep a run from replaying here.

    Args:
        run: the directory of a recorded run to compare with; None looks at this environment alone.

    Raises:
        InputError, MachineError: as `RunRecord.read`.
    """
    git = git_state(Path.cwd())
    found = [*_variables(), *(_devices() if torch.cuda.is_available() else ())]
    if run is None:
        found = [*_threads(), *found]
    if git.get("dirty"):
        remedy = "commit them: a record names the commit alone"
        found.append(Obstacle("git", "files here differ from the commit", remedy))
    return found if run is None else [*found, *_unlike(RunRecord.read(run), git)]


def _threads() -> Iterator[Obstacle]:
    if "OMP_NUM_THREADS" not in os.environ:
        yield Obstacle(
            "threads",
            f"their number ({torch.get_num_threads()}) follows from this machine's cores, and the "
            "order of sums from it",
            "set OMP_NUM_THREADS, or call torch.set_num_threads",
        )


def _variables() -> Iterator[Obstacle]:
    seed = os.environ.get("PYTHONHASHSEED", "random")
    if seed == "random":
        yield Obstacle(
            "PYTHONHASHSEED",
            "is not set, so sets of strings have another order in each process",
            "set PYTHONHASHSEED=0, or sort what comes out of a set",
        )
    ours, mkl = (os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"))
    if mkl is not None and ours != mkl:
        yield Obstacle(
            "MKL_NUM_THREADS",
            f"is {mkl}, and OMP_NUM_THREADS {'not set' if ours is None else ours}",
            "give both the same number: which of them counts depends on who asks first",
        )
    adapts = torch.backends.mkl.is_available() and torch.get_num_threads() > 1
    if adapts and os.environ.get("MKL_DYNAMIC", "").upper() not in ("FALSE", "0"):
        yield Obstacle(
            "MKL_DYNAMIC",
            "MKL may take fewer threads than it is given, and sum in another order",
            "set MKL_DYNAMIC=FALSE, or run on one thread",
        )
    if os.environ.get("OMP_DYNAMIC", "").upper() in ("TRUE", "1"):
        yield Obstacle("OMP_DYNAMIC", "lets the number of threads change", "set OMP_DYNAMIC=FALSE")


def _devices() -> Iterator[Obstacle]:
    if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
        what = "may sum in another order"
        yield Obstacle("cuBLAS", what, "set CUBLAS_WORKSPACE_CONFIG=:4096:8")
    if not torch.are_deterministic_algorithms_enabled():
        yield Obstacle(
            "CUDA kernels",
            "those that are not deterministic are allowed",
            "call torch.use_deterministic_algorithms(True) in the program",
        )
    if _cudnn_benchmark():
        what = "chooses kernels by their speed"
        yield Obstacle("cuDNN", what, "set torch.backends.cudnn.benchmark = False")


def _unlike(record: RunRecord, git: dict[str, object]) -> Iterator[Obstacle]:
    """What differs from where a run was recorded, and what that run itself left to chance."""
    saved, here = dict(record.header.get("environment", {})), run_environment()
    settings = {name: saved.pop(name, None) for name in SETTINGS}
    for name in SETTINGS:
        here.pop(name, None)
    for line in values_that_differ(saved, here):
        remedy = "use what the run was recorded with (the first)"
        yield Obstacle("the run's environment", line, remedy)
    if settings["deterministic"] is False and (saved.get("devices") or saved.get("threads") != 1):
        yield Obstacle(
            "the run's kernels",
            "it was recorded with those allowed that are not deterministic",
            "call torch.use_deterministic_algorithms(True) in the program",
        )
    facts = record.header.get(FACTS, {})
    variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    for line in values_that_differ(facts.get("variables", {}), variables):
        remedy = "set it as it was (the first)"
        yield Obstacle("the run's variables", line, remedy)
    theirs = facts.get("git", {})
    if theirs.get("commit") != git.get("commit"):
        names = (str(side.get("commit", "none"))[:12] for side in (theirs, git))
        what = "it was recorded at commit {}, here is {}".format(*names)
        yield Obstacle("the run's code", what, "check out that commit")
    if theirs.get("dirty"):
        yield Obstacle(
            "the run's code",
            "it was recorded with files that no commit holds",
            "commit before a run that is to be replayed",
        )


def _cudnn_benchmark() -> bool:
    return bool(torch.backends.cudnn.benchmark)
