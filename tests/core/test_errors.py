"""The nearest real name."""

from __future__ import annotations

import pytest

import rheostat as rs
from rheostat.core.errors import ALSO_CALLED, InputError, closest, nearest


def test_the_nearest_name_is_one_that_is_there() -> None:
    assert closest("weight_deca", ["lr", "weight_decay"]) == "weight_decay"
    assert closest("qqq", ["lr", "weight_decay"]) is None
    assert nearest("qqq", ["b", "a"]) == "known are: a, b"
    assert nearest("qqq", []) == "there is none to choose from"


def test_what_others_call_it_is_known_where_ours_is_there() -> None:
    for theirs, ours in ALSO_CALLED.items():
        assert closest(theirs, ["zzz", ours]) == ours
        assert closest(theirs, ["zzz"]) is None
    with pytest.raises(InputError, match=r"unknown .*did you mean 'lr'\?"):
        rs.Recipe.load({"optimizer": "adamw", "learning_rate": 0.001})
