"""`rheostat new`: what it writes installs, is found, and passes its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rheostat.cli import new
from rheostat.core.component import SHELVES
from rheostat.core.errors import InputError

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def _run(*command: str, site: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**ENVIRONMENT, **({"PYTHONPATH": str(site)} if site else {})}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize(
    "kind",
    [k if k == "optimizer" else pytest.param(k, marks=pytest.mark.slow) for k in new.kinds()],
)
def test_it_installs_and_is_found_and_passes_its_tests(kind: str, tmp_path: Path) -> None:
    name = f"my_{kind}"
    new.new(kind, name)
    package = tmp_path / f"rheostat-my-{kind}"
    site = tmp_path / "site"
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--no-compile", "--quiet")
    pip = _run(
        sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(package)
    )
    assert pip.returncode == 0, pip.stderr
    rheostat = (sys.executable, "-m", "rheostat.cli")
    listed = _run(*rheostat, "list", kind, "my-*", "--json", site=site)
    assert listed.returncode == 0, listed.stderr
    (row,) = json.loads(listed.stdout)
    assert (row["name"], row["version"], row["broken"]) == (name, 1, None)
    assert row["plugin"] == package.name
    tested = _run(sys.executable, "-m", "pytest", "-q", "-W", "error", str(package), site=site)
    assert tested.returncode == 0, tested.stdout
    assert "passed" in tested.stdout


def test_what_it_writes_is_formatted_and_linted(tmp_path: Path) -> None:
    for kind in new.kinds():
        new.new(kind, f"my_{kind}")
    for words in (("format", "--check"), ("check", "--select", "E,F,I,B,UP")):
        done = _run(sys.executable, "-m", "ruff", *words, "--line-length", "100", str(tmp_path))
        assert done.returncode == 0, done.stdout


def test_there_is_a_template_for_every_kind_but_transforms() -> None:
    assert set(new.kinds()) == set(SHELVES) - {"transform"}


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("optimiser", "mine", "did you mean 'optimizer'"),
        ("optimizer", "Mine", "lower-case letters"),
        ("optimizer", "class", "lower-case letters"),
        ("optimizer", "adamw", "belongs to adamw@1, of kind optimizer"),
    ],
)
def test_what_it_refuses(kind: str, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        new.new(kind, name)
    assert not list(tmp_path.iterdir())


def test_it_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    with pytest.raises(InputError, match="exists already; name another with --folder"):
        new.new("optimizer", "mine", Path("here"))
