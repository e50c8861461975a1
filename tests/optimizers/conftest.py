"""Who counts applied updates: the host, or a device that is waited for only when asked."""

from __future__ import annotations

import pytest

from rheostat.optimizers import device
from rheostat.optimizers.native import NativeKernel


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers stay on the "device" of parameters that are on the CPU."""
    monkeypatch.setattr(device, "DEVICE_TYPES", {"cpu"})


@pytest.fixture(params=["host", "device"])
def whoever_counts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once as on the CPU, and once as on an accelerator."""
    if request.param == "device":
        monkeypatch.setattr(device, "DEVICE_TYPES", {"cpu"})


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are compiled by torch, as on an accelerator."""
    monkeypatch.setattr(NativeKernel, "can_run", lambda _: False)
