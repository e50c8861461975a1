"""Hostile and broken recipes: refused in words, at once, and nothing else is touched."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.core.errors import InputError
from rheostat.recipes.formats import read_text
from rheostat.recipes.recipe import Recipe

CHILD = Path(__file__).with_name("fuzz_child.py")


@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, 2000), *(pytest.param(n, 10_000, marks=pytest.mark.slow) for n in range(2, 12))],
)
def test_mutated_recipes(seed: int, count: int, tmp_path: Path) -> None:
    command = [sys.executable, str(CHILD), str(seed), str(count), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert not found["failures"]
    assert not found["offences"]
    assert found["slowest"] < 1
    assert found["megabytes"] < 500
    # The fuzz reaches what lies behind the reader.
    assert found["accepted"] > count / 20
    assert found["built"] > count / 100


@settings(max_examples=300)
@given(st.text() | st.binary().map(lambda b: b.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    for suffix in (".yaml", ".json", ".toml"):
        with contextlib.suppress(InputError):
            Recipe.load(read_text(text, "x", suffix))
