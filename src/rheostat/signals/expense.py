"""Time and energy of a step."""

from __future__ import annotations

import functools
import importlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal

POWERCAP = Path("/sys/class/powercap")
"""Where Linux shows the energy counters of processors (RAPL)."""


def _per_update(every: int, unit: str, cost: str, read: Callable[[], dict[str, float]]) -> Signal:
    """By how much counters have grown for each update since the last measurement."""

    def measure(reading: Reading, memory: Memory) -> float:
        now = read()
        before, memory["before"] = memory["before"], now
        updates, memory["step"] = reading.step - memory["step"], reading.step
        # Another process counts from elsewhere.
        here, memory["process"] = memory["process"] == os.getpid(), os.getpid()
        if not here or not now or before is None or before.keys() != now.keys() or updates <= 0:
            return math.nan
        grown = sum(now[name] - before[name] for name in now)
        return grown / updates if grown >= 0 else math.nan

    start = {"before": None, "step": 0, "process": None}
    return Signal(measure, unit=unit, cost=cost, every=every, memory=start)


@register("signal", "step_time", version=1)
def step_time(every: Count = 1) -> Signal:
    """Seconds from one update to the next, by the wall clock.

    All that the loop does is in it: data, evaluation, checkpoints. NaN the first time, and after
    skipped steps alone. On an accelerator it is the host's time. Unit: seconds.
    every: updates from one measurement to the next, over which it is averaged.
    """
    return _per_update(
        every, "seconds", "one look at the clock", lambda: {"clock": time.perf_counter()}
    )


@register("signal", "step_energy", version=1)
def step_energy(every: Count = 16) -> Signal:
    """Joules for each update, of all processors and NVIDIA devices of the machine together.

    From RAPL (/sys/class/powercap/intel-rapl:N, whose reading mostly takes root's rights) and NVML,
    where pynvml is installed. What else runs on the machine is counted too. NaN the first time,
    where neither counts, and where a counter has begun anew. Unit: joules.
    every: updates from one measurement to the next, over which it is averaged.
    """
    cost = "a file to be read for each processor, a call for each device"
    return _per_update(every, "joules", cost, joules)


def joules() -> dict[str, float]:
    """The energy counters of this machine; empty where there is none that may be read."""
    found: dict[str, float] = {}
    for zone in sorted(POWERCAP.glob("intel-rapl:*")):
        if zone.name.count(":") == 1:  # those with two are parts of one that is counted
            try:
                found[zone.name] = int((zone / "energy_uj").read_text("ascii")) * 1e-6
            except (OSError, ValueError):
                continue
    nvml = _nvml()
    if nvml is not None:
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                used = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            except nvml.NVMLError:
                continue  # older than those that count
            found[f"nvml:{index}"] = used * 1e-3
    return found


@functools.cache
def _nvml() -> Any:
    """pynvml, started; None where it or its driver is missing."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
