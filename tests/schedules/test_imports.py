"""Schedules of a user's function and of a CSV file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.schedules.imports import from_csv, from_function


def test_a_function_of_steps_is_a_schedule() -> None:
    schedule = from_function(lambda k: 0.1 / (1 + k), steps=10)
    assert schedule(4) == 0.1 / 5
    assert schedule(10) == schedule(99)
    assert from_function(lambda k: 0.1).values([[0, 1], [2, 3]]).tolist() == [
        [0.1, 0.1],
        [0.1, 0.1],
    ]
    assert from_function(lambda k: k, unit="tokens").unit == "tokens"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda k: -1.0, "gives -1; should be finite and not negative"),
        (lambda k: k / 0.0, "gives nan|gives inf"),
        (lambda k: np.ones(7), r"shape \(7,\) at steps of shape \(2,\)"),
    ],
)
def test_what_a_function_may_not_give_is_refused(function: object, message: str) -> None:
    schedule = from_function(function)
    with np.errstate(all="ignore"), pytest.raises(InputError, match=message):
        schedule.values([0, 1])


def test_a_csv_becomes_a_table_that_holds_its_values(tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text("step,lr,note\n0,0.1,a\n10,0.3,b\n20,0.2,c\n", encoding="utf-8")
    schedule = from_csv(path, column="lr", every=10, interpolate="linear")
    assert schedule(5) == pytest.approx(0.2)
    assert schedule.written()["values"] == [0.1, 0.3, 0.2]
    path.write_text("0.1\n0.3\n", encoding="utf-8")
    assert from_csv(path).values(range(3)).tolist() == [0.1, 0.3, 0.3]
    path.write_text("lr\n0.1\n", encoding="utf-8")
    assert from_csv(path).origin == rs.schedules.table((0.1,)).origin


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("lr\n0.1\nfast\n", None, "row 3: 'fast' should be a number"),
        ("a,b\n1,2\n", "lr", "there is no column 'lr'"),
        ("lr\n", None, "values=.*at least 1"),
        ("lr\n-1\n", None, "values.0=-1.0"),
        (None, None, "No such file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    tmp_path: Path, text: str | None, column: str | None, message: str
) -> None:
    path = tmp_path / "rates.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        from_csv(path, column=column)


def test_a_function_of_one_step_is_called_for_each() -> None:
    drops = from_function(lambda k: 0.1 if k < 10 else 0.01)
    assert drops.values([[3, 30], [9, 10]]).tolist() == [[0.1, 0.01], [0.1, 0.01]]
    falls = from_function(lambda k: math.exp(-k / 10))
    assert falls.values([1, 2]).tolist() == [math.exp(-0.1), math.exp(-0.2)]
    with pytest.raises(InputError, match=r"0\.1: should be a function of steps"):
        from_function(0.1)  # type: ignore[arg-type]  # what is tried
    with pytest.raises(InputError, match="gives inf; should be finite"):
        from_function(lambda k: 1 / k)(0)
