"""Time and energy of a step, by counters that are planted."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import rheostat as rs
from rheostat.core.signal import Memory, Reading, Signal
from rheostat.signals import expense


def _make(name: str) -> tuple[Signal, Memory]:
    signal = rs.component(name, "signal").factory()
    return signal, dict(signal.memory)


def _zone(root: Path, name: str, microjoules: int) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    (root / name / "energy_uj").write_text(f"{microjoules}\n", encoding="ascii")


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(expense, "POWERCAP", tmp_path)
    monkeypatch.setattr(expense, "_nvml", lambda: None)
    return tmp_path


def test_time_is_by_update_between_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    signal, memory = _make("step_time")
    values: list[float] = []
    for step, now in ((1, 100.0), (2, 100.5), (2, 101.0), (6, 103.0)):
        monkeypatch.setattr(time, "perf_counter", lambda now=now: now)
        values.append(signal.measure(Reading(step), memory))
    assert values == pytest.approx([math.nan, 0.5, math.nan, 0.5], nan_ok=True)
    memory["process"] = os.getpid() + 1  # saved by another
    assert math.isnan(signal.measure(Reading(7), memory))


def test_energy_is_summed_over_packages_and_not_over_their_parts(powercap: Path) -> None:
    signal, memory = _make("step_energy")
    for step, one, two in ((16, 5_000_000, 0), (32, 9_000_000, 4_000_000)):
        _zone(powercap, "intel-rapl:0", one)
        _zone(powercap, "intel-rapl:1", two)
        _zone(powercap, "intel-rapl:0:0", one // 2)
        value = signal.measure(Reading(step), memory)
    assert value == pytest.approx(8.0 / 16)
    _zone(powercap, "intel-rapl:0", 1)  # the counter has begun anew
    assert math.isnan(signal.measure(Reading(48), memory))
    _zone(powercap, "intel-rapl:0", 2_000_001)
    assert signal.measure(Reading(50), memory) == pytest.approx(1.0)


def test_without_a_counter_that_may_be_read_energy_is_nan(powercap: Path) -> None:
    signal, memory = _make("step_energy")
    assert expense.joules() == {}
    assert math.isnan(signal.measure(Reading(16), memory))
    (powercap / "intel-rapl:0").mkdir()
    assert math.isnan(signal.measure(Reading(32), memory))


def test_devices_are_counted(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class NVMLError(Exception):
        pass

    def used(handle: int) -> int:
        if handle == 1:
            raise NVMLError
        return 7_500

    nvml: Any = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=used,
    )
    monkeypatch.setattr(expense, "_nvml", lambda: nvml)
    assert expense.joules() == {"nvml:0": 7.5}
