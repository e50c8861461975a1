"""Documents come back as they were, and hostile JSON is refused in bounded time and memory."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.documents import MAX_BYTES, MAX_DEPTH, decode, encode, parse
from rheostat.core.errors import InputError

KEYS = st.text().filter(lambda key: not key.startswith("$"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
    max_leaves=8,
)


@settings(max_examples=30)
@given(st.dictionaries(KEYS, VALUES))
def test_a_document_comes_back_in_value_type_and_order(document: dict[str, object]) -> None:
    back = decode(encode(document, "it"), "it")
    assert repr(back) == repr(document)  # tells -0.0 from 0.0, 1 from 1.0 and from True


def test_what_json_lacks_and_what_it_bends_come_back() -> None:
    document = {"nan": math.nan, "inf": [math.inf, -math.inf], "text": "nan", "big": -(7**300)}
    back = decode(encode({**document, "pair": (1, 2), "numpy": np.float64(0.1)}, "it"), "it")
    assert repr(back) == repr({**document, "pair": [1, 2], "numpy": 0.1})


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [0, {1, 2}]}, r"it\.a\[1\] is a set"),
        ({"a": {1: 2}}, r"it\.a has the key 1"),
        ({"$float": "nan"}, "begin with"),
        ({"a": np.int64(3)}, "int64"),
        ({"a": 10**5000}, "cannot be saved"),
        ({"a": "x" * MAX_BYTES}, "save its bulk as tensors"),
    ],
)
def test_what_cannot_come_back_is_refused_by_its_place(
    value: dict[str, object], where: str
) -> None:
    with pytest.raises(InputError, match=where):
        encode(value, "it")


def _nested(depth: int) -> dict[str, object]:
    value: object = math.nan
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def test_depth_is_bounded_in_both_directions() -> None:
    deepest = _nested(MAX_DEPTH)
    assert repr(decode(encode(deepest, "it"), "it")) == repr(deepest)
    with pytest.raises(InputError, match="nested deeper"):
        encode(_nested(MAX_DEPTH + 1), "it")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1, "a": 2}', "'a' is there twice"),
        (b'{"a": {"b": 1, "b": 2}}', "twice"),
        (b'{"a": NaN}', "finite"),
        (b'{"a": Infinity}', "finite"),
        (b'{"a": 1e999}', "finite"),
        (b'{"a": {"$float": "1"}}', "float"),
        (b'{"a": {"$float": "nan", "b": 1}}', "float"),
        (b"[1]", "object"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b'{"a": 1} {}', "not JSON"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "not JSON"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "deeper"),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "deeper|not JSON"),
        (b"[" * 10_000_000, "not JSON"),
        (b'{"a":' * 3_000_000, "not JSON"),
        (b" " * (MAX_BYTES + 1), "more than"),
    ],
)
def test_hostile_json_is_refused_at_once(data: bytes, says: str) -> None:
    start = time.perf_counter()
    with pytest.raises(DamageError, match=says) as caught:
        decode(data, "it")
    assert len(str(caught.value)) < 400
    assert time.perf_counter() - start < 5  # no figure: an hour and a second are told apart
    with pytest.raises(DamageError):
        parse(data, "it") if b"$float" not in data else decode(data, "it")
