"""Arguments: the type is the schema; strict about kinds, lenient about spelling."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import annotated_types as at
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.core.errors import InputError
from rheostat.core.hyper import (
    Argument,
    Betas,
    Count,
    Fraction,
    NonNegative,
    Positive,
    Steps,
    UnitInterval,
    arguments_of,
    check_arguments,
)
from rheostat.schedules.annealing import constant


@pytest.mark.parametrize(
    ("annotation", "given", "made"),
    [
        (NonNegative, 1, 1.0),
        (Count, 2.0, 2),
        (Count, np.int64(3), 3),
        (Betas, [0, 0.5], (0.0, 0.5)),
        (tuple[Count, ...], [1.0, 2], (1, 2)),
        (int | None, 4.0, 4),
        (int | None, None, None),
        (bool, True, True),
        (str, "", ""),
        (Literal["a", "b"], "b", "b"),
    ],
)
def test_spelling_is_forgiven(annotation: Any, given: object, made: object) -> None:
    value, faults = Argument("x", annotation).check(given)
    assert faults == []
    assert value == made
    assert type(value) is type(made)


@pytest.mark.parametrize(
    ("annotation", "given", "path", "message"),
    [
        (NonNegative, -1, (), "should be greater than or equal to 0"),
        (NonNegative, True, (), "should be a number"),
        (NonNegative, "1", (), "should be a number, not text"),
        (NonNegative, float("nan"), (), "should be finite"),
        (NonNegative, 10**400, (), "should be a number"),
        (Fraction, 1, (), "should be less than 1"),
        (Count, 2.5, (), "should be a whole number"),
        (Count, True, (), "should be a whole number"),
        (Count, "2", (), "should be a whole number"),
        (Steps, 2**53 + 1, (), f"should be less than or equal to {2**53}"),
        (bool, 1, (), "should be a boolean, true or false"),
        (bool, "yes", (), "should be a boolean, true or false"),
        (str, 1, (), "should be text"),
        (Literal["a", "b"], "c", (), "should be 'a' or 'b'"),
        (Betas, 0.5, (), "should be a pair"),
        (Betas, [0.5], (), "should be a pair"),
        (Betas, [0.5, 1], (1,), "should be less than 1"),
        (Betas, [0.5, 0.5, 0.5], (), "should be a pair"),
        (Annotated[tuple[float, ...], at.MinLen(1)], [], (), "should have at least 1 item, not 0"),
    ],
)
def test_a_wrong_kind_is_a_fault(
    annotation: Any, given: object, path: tuple[int, ...], message: str
) -> None:
    _, faults = Argument("x", annotation).check(given)
    assert [(fault.path, fault.message) for fault in faults] == [(path, message)]


def test_every_fault_of_a_value_is_found() -> None:
    _, faults = Argument("betas", Betas).check([-1, 2])
    assert [(fault.path, fault.found) for fault in faults] == [((0,), -1), ((1,), 2)]


def test_parts_of_a_tuple() -> None:
    parts = Argument("betas", Betas).parts(2)
    assert parts is not None
    assert [part.name for part in parts] == ["betas[0]", "betas[1]"]
    assert all(part.scalar for part in parts)
    assert Argument("betas", Betas).parts(3) is None
    assert Argument("lr", NonNegative).parts(1) is None
    many = Argument("drops", Annotated[tuple[float, ...], at.MinLen(1)])
    assert len(many.parts(3) or []) == 3
    assert many.number
    assert not many.scalar


def rule(lr: NonNegative, betas: Betas = (0.9, 0.99), nesterov: bool = False) -> None:
    """A factory to check arguments for."""


def test_arguments_are_those_of_the_signature() -> None:
    known = arguments_of(rule)
    assert list(known) == ["lr", "betas", "nesterov"]
    assert [argument.required for argument in known.values()] == [True, False, False]
    assert [argument.number for argument in known.values()] == [True, True, False]


def test_schedules_and_tensors_stay_as_they_were_given() -> None:
    schedule, tensor = constant(0.5), torch.tensor(0.1)
    made = check_arguments(rule, {"betas": [schedule, 0], "lr": tensor}, "rule")
    assert list(made) == ["lr", "betas", "nesterov"]
    assert made["lr"] is tensor
    assert made["betas"][0] == schedule
    assert made["betas"] == (schedule, 0.0)
    assert made["nesterov"] is False


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "rule: lr: is required"),
        ({"lr": 1, "nestrov": True}, "rule: unknown argument 'nestrov'; did you mean 'nesterov'?"),
        ({"lr": -1.0}, "rule: lr=-1.0: should be greater than or equal to 0"),
        ({"lr": 1, "betas": (0.9, 1.0)}, "rule: betas.1=1.0: should be less than 1"),
        ({"lr": 1, "betas": (0.9, constant(1.0))}, "rule: betas.1=1.0: should be less than 1"),
        ({"lr": torch.tensor(-1.0)}, "rule: lr=-1.0: should be greater than or equal to 0"),
        (
            {"lr": 1, "betas": constant(0.5)},
            "rule: betas=0.5: should be a pair; each of its parts may be a schedule",
        ),
    ],
)
def test_bad_arguments_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        check_arguments(rule, given, "rule")
    assert str(caught.value) == message


@given(st.floats(allow_nan=True) | st.sampled_from([0.0, 1.0, 5e-324, math.nextafter(1, 0)]))
def test_the_interval_of_an_argument_is_what_its_check_allows(value: float) -> None:
    for annotation in (float, NonNegative, Positive, Fraction, UnitInterval):
        argument = Argument("x", annotation)
        low, high = argument.interval
        assert (low <= value <= high) == (not argument.check(value)[1]), annotation
