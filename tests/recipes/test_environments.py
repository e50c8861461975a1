"""doctor: what keeps a run from replaying is found, said, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import rheostat as rs
from rheostat.cli import doctor  # noqa: F401 - importing it makes the command known
from rheostat.cli.app import app
from rheostat.recipes.environments import obstacles


def _run(directory: Path) -> None:
    recipe = {"optimizer": "sgd", "lr": 0.1}
    rs.attach(recipe, nn.Linear(2, 1), steps=3, directory=directory).close()


def test_threads_that_follow_from_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert obstacles() == []
    monkeypatch.delenv("OMP_NUM_THREADS")
    (one,) = obstacles()
    assert one["subject"] == "threads"


def test_a_run_of_another_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _run(tmp_path / "run")
    assert obstacles(tmp_path / "run") == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    (one,) = obstacles(tmp_path / "run")
    assert one["found"] == "threads: 1 in the first, 7 in the second"


def test_cuda_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert [one["subject"] for one in obstacles()] == ["cuBLAS", "CUDA kernels", "cuDNN"]


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    done = CliRunner().invoke(app, ["doctor"])
    assert (done.exit_code, done.stdout) == (0, "nothing here keeps a run from replaying\n")
    monkeypatch.delenv("OMP_NUM_THREADS")
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == obstacles()
    assert "threads: " in CliRunner().invoke(app, ["doctor"]).stdout
