"""doctor: what keeps a run from replaying is found, said, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import rheostat as rs
from rheostat.cli import doctor  # noqa: F401 - importing it makes the command known
from rheostat.cli.app import app
from rheostat.recipes import environments
from rheostat.recipes.environments import obstacles
from rheostat.record.environment import VARIABLES


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment in which nothing is found."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def _run(directory: Path) -> Path:
    recipe = {"optimizer": "sgd", "lr": 0.1}
    rs.attach(recipe, nn.Linear(2, 1), steps=3, directory=directory).close()
    return directory


def _subjects(run: Path | None = None) -> list[str]:
    return [one.subject for one in obstacles(run)]


def test_nothing_is_found_where_nothing_is_off(tmp_path: Path) -> None:
    assert obstacles() == []
    assert obstacles(_run(tmp_path / "run")) == []


@pytest.mark.parametrize(
    ("name", "value", "subject"),
    [
        ("OMP_NUM_THREADS", None, "threads"),
        ("PYTHONHASHSEED", None, "PYTHONHASHSEED"),
        ("PYTHONHASHSEED", "random", "PYTHONHASHSEED"),
        ("MKL_NUM_THREADS", "3", "MKL_NUM_THREADS"),
        ("OMP_DYNAMIC", "true", "OMP_DYNAMIC"),
    ],
)
def test_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, subject: str
) -> None:
    run = _run(tmp_path / "run")
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    (one,) = obstacles()
    assert one.subject == subject
    assert "the run's variables" in _subjects(run)


def test_mkl_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert _subjects() == ["MKL_DYNAMIC"]
    monkeypatch.setenv("MKL_DYNAMIC", "FALSE")
    assert _subjects() == []


def test_cuda_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert _subjects() == ["cuBLAS", "CUDA kernels", "cuDNN"]
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert _subjects() == ["CUDA kernels", "cuDNN"]


def test_a_run_of_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _run(tmp_path / "run")
    found = {**environments.environment(), "torch": "0.0.1"}
    monkeypatch.setattr(environments, "environment", lambda: found)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    monkeypatch.setenv("MKL_DYNAMIC", "FALSE")
    said = {one.subject: one.found for one in obstacles(run)}
    threads, version = sorted(one.found for one in obstacles(run) if "ment" in one.subject)
    assert version.endswith("in the first, '0.0.1' in the second")
    assert threads == "threads: 1 in the first, 7 in the second"
    assert said["the run's variables"].startswith("MKL_DYNAMIC: only in the second")


def test_what_a_run_itself_left_to_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states: dict[str, Any] = {"commit": "a" * 40, "dirty": True}
    monkeypatch.setattr("rheostat.recipes.attach.git_state", lambda _: dict(states))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setenv("MKL_DYNAMIC", "FALSE")
    run = _run(tmp_path / "run")
    monkeypatch.setattr(environments, "git_state", lambda _: {"commit": "b" * 40, "dirty": False})
    kernels, commit, dirty = obstacles(run)
    assert kernels.subject == "the run's kernels"
    assert "aaaaaaaaaaaa, here is bbbbbbbbbbbb" in commit.found
    assert "no commit holds" in dirty.found
    monkeypatch.setattr(environments, "git_state", lambda _: states)
    assert _subjects(run) == ["git", "the run's kernels", "the run's code"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, done.stdout) == (0, "nothing here keeps a run from replaying\n")
    assert CliRunner().invoke(app, ["doctor", str(_run(tmp_path / "run"))]).exit_code == 0
    monkeypatch.delenv("OMP_NUM_THREADS")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [one._asdict() for one in obstacles()]
    assert "threads: " in CliRunner().invoke(app, ["doctor"]).stdout
