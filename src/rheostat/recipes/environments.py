"""What in this environment would keep a run from replaying to the same bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rheostat.checkpoint.compare import values_that_differ
from rheostat.record.environment import environment, git_state
from rheostat.record.run import RunRecord


def run_environment() -> dict[str, Any]:
    """What has to be the same for the same bits: code, versions, processor, devices, threads."""
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **environment(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "devices": devices,
    }


def obstacles(run: str | Path | None = None) -> list[dict[str, str]]:
    """What would keep a run from replaying here: for each its subject, what was found, what helps.

    Args:
        run: the directory of a recorded run to compare with; None looks at this environment alone.

    Raises:
        InputError, MachineError: as `RunRecord.read`.
    """
    found: list[dict[str, str]] = []

    def say(subject: str, what: str, remedy: str) -> None:
        found.append({"subject": subject, "found": what, "remedy": remedy})

    if run is None and "OMP_NUM_THREADS" not in os.environ:
        say(
            "threads",
            f"their number ({torch.get_num_threads()}) follows from this machine's cores, and the "
            "order of sums from it",
            "set OMP_NUM_THREADS, or call torch.set_num_threads",
        )
    if torch.cuda.is_available():
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):
            say("cuBLAS", "may sum in another order", "set CUBLAS_WORKSPACE_CONFIG=:4096:8")
        if not torch.are_deterministic_algorithms_enabled():
            say(
                "CUDA kernels",
                "those that are not deterministic are allowed",
                "call torch.use_deterministic_algorithms(True) in the program",
            )
        if torch.backends.cudnn.benchmark:
            say(
                "cuDNN",
                "chooses kernels by their speed",
                "set torch.backends.cudnn.benchmark = False",
            )
    if git_state(Path.cwd()).get("dirty"):
        say(
            "git",
            "files here differ from the commit",
            "commit them: a record names the commit alone",
        )
    if run is not None:
        header = RunRecord.read(run).header
        saved = {**header.get("environment", {}), "threads": header.get("threads")}
        here = {key: value for key, value in run_environment().items() if key != "devices"}
        for line in values_that_differ(saved, here):
            say("the run's environment", line, "use what the run was recorded with (the first)")
    return found
