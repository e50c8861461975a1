"""What every test shares: one torch thread, repeatable examples, and a directory of its own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from hypothesis import settings

# One thread: the order of summation, so the last bits of a result, depends on their number.
torch.set_num_threads(1)

# A failure today is a failure tomorrow: examples follow from the test, not from a clock or a file.
settings.register_profile("house", derandomize=True, deadline=None, database=None)
settings.load_profile("house")

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")


def missing(program: str, package: str) -> NoReturn:
    """Skip the test that needs `program`; fail it where the programs are promised to be there."""
    reason = f"{program} is not installed (Debian's package: {package})"
    if os.environ.get("RHEOSTAT_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and RHEOSTAT_REQUIRE_SERVICES=1 promises it", pytrace=False)
    pytest.skip(reason)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test works in an empty directory, so that no `.rheostat/` is shared or left behind."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def chromium() -> Path:
    """The browser that opens a report. Absent: skipped, or failed (see `missing`)."""
    found = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        missing("chromium", "chromium")
    return Path(found)
