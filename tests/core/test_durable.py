"""Files are whole or untouched, and one value has one JSON text."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.core import durable
from rheostat.core.errors import MachineError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(VALUES)
def test_canonical_json_is_strict_ascii_and_stable_under_reading_back(value: object) -> None:
    text = durable.canonical_json(value)

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not strict JSON")

    assert text.isascii()
    assert durable.canonical_json(json.loads(text, parse_constant=refuse)) == text


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_round_trip_bit_for_bit(value: float) -> None:
    back = json.loads(durable.canonical_json(value))
    assert (back, math.copysign(1, back)) == (value, math.copysign(1, value))


def test_hash_ignores_the_order_of_keys_and_the_kind_of_sequence_and_nothing_else() -> None:
    one = durable.content_hash({"a": 1, "b": (1.5, [math.nan])})
    assert one == durable.content_hash({"b": [1.5, (math.nan,)], "a": 1})
    assert one == durable.content_hash({"b": [np.float64(1.5), ["nan"]], "a": 1})
    assert one != durable.content_hash({"b": [1.5, [math.inf]], "a": 1})
    assert durable.content_hash(0.0) != durable.content_hash(-0.0)
    assert durable.content_hash(1) != durable.content_hash(1.0)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {3.0}}, object(), b"bytes", np.int64(3)])
def test_what_has_no_json_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        durable.canonical_json(value)


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    durable.write_json(path, {"b": 1, "a": [math.inf]}, indent=2)
    assert path.read_text() == '{\n  "a": [\n    "inf"\n  ],\n  "b": 1\n}\n'
    durable.write_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["plan.json"]


@pytest.mark.parametrize(
    ("call", "code", "advice"),
    [
        ("write", errno.ENOSPC, "free some space"),
        ("fsync", errno.EIO, "device"),
        ("write", errno.EDQUOT, "quota"),
        ("open", errno.EACCES, "permissions"),
        ("open", errno.EROFS, "read-only"),
    ],
)
def test_a_disk_error_keeps_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int, advice: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(MachineError) as caught:
            durable.write_file(path, b"new")
    said = str(caught.value)
    assert str(path) in said
    assert os.strerror(code) in said
    assert advice in said
    assert "\n" not in said
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_an_interrupt_leaves_nothing_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            durable.write_file(tmp_path / "file", b"new")
    assert names(tmp_path) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    durable.write_file(tmp_path / "file", b"more than three bytes")
    assert (tmp_path / "file").read_bytes() == b"more than three bytes"


def test_a_folder_under_a_file_is_a_machine_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match=r"cannot create the folder .*file/sub.*not a folder"):
        durable.make_directory(tmp_path / "file" / "sub")
    with pytest.raises(MachineError, match="in the way"):
        durable.make_directory(tmp_path / "file")


def test_new_folders_survive_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(durable, "sync_directory", synced.append)
    durable.make_directory(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    durable.make_directory(tmp_path / "a" / "b")
    assert len(synced) == 2
