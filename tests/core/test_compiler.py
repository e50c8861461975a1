"""C++ compiled on the user's machine: kept, said once where it cannot be, nobody else's."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from rheostat.core import compiler

SOURCE = 'extern "C" int twice(int x) { return 2 * x; }'


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and nothing known from other tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for known in (compiler.library, compiler._command, compiler._machine, compiler.warn_once):
        known.cache_clear()
    yield
    for known in (compiler.library, compiler._command, compiler._machine, compiler.warn_once):
        known.cache_clear()


def test_a_text_becomes_functions_and_is_kept(tmp_path: Path) -> None:
    found = compiler.library(SOURCE, "speed")
    assert found is not None
    assert found.twice(21) == 42
    (kept,) = (tmp_path / "rheostat" / "kernels").iterdir()
    made = kept.stat().st_mtime_ns
    compiler.library.cache_clear()
    assert compiler.library(SOURCE, "speed") is not None
    assert kept.stat().st_mtime_ns == made


def test_a_text_that_does_not_compile_is_said_once() -> None:
    with pytest.warns(UserWarning, match="no compiled kernels .*; all is lost"):
        assert compiler.library("this is no C++", "all is lost") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiler.library("this is no C++", "all is lost") is None


def test_without_a_compiler_what_is_lost_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(compiler.shutil, "which", lambda _: None)
    with pytest.warns(UserWarning, match=r"no C\+\+ compiler found: install g\+\+\); speed"):
        assert not compiler.at_hand("speed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not compiler.at_hand("speed")


def test_a_folder_of_somebody_elses_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to another user"):
        compiler._cache()
