"""Files as plain data: every value as written, every position right, every fault in one line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rheostat.core.errors import InputError, MachineError, RheostatError
from rheostat.core.schedule import Schedule
from rheostat.recipes.document import (
    Document,
    KeyPath,
    Problem,
    quoted,
    refuse,
    show,
)
from rheostat.recipes.formats import LARGEST, open_document

# YAML takes no key beyond 1,024 characters, escapes included.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def read(text: str | bytes, name: str = "file.yaml") -> Document:
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_document(name, "unused")


def refusal(text: str | bytes, name: str = "file.yaml") -> str:
    with pytest.raises(InputError) as caught:
        read(text, name)
    return str(caught.value)


def paths(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    yield path, value
    if isinstance(value, dict):
        for key, part in value.items():
            yield from paths(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from paths(part, (*path, index))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e3", 1000.0),
        ("-1.5", -1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("20", 20),
        ("+7", 7),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("1.2.3", "1.2.3"),
        ("'true'", "true"),
        ('"3e-4"', "3e-4"),
        ("|\n  7", "7"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    made = read(f"key: {text}").data["key"]
    assert made == value
    assert type(made) is type(value)


def test_not_a_number_is_one() -> None:
    assert math.isnan(read("key: .NaN").data["key"])


@given(st.dictionaries(TEXTS, PLAIN), st.sampled_from([None, 1, 2, "\t"]))
def test_json_reads_as_json_and_every_position_leads_to_its_token(
    value: dict[str, Any], indent: int | str | None
) -> None:
    text = json.dumps(value, indent=indent)
    document = read(text, "file.json")
    assert document.data == json.loads(text)
    assert set(document.positions) == {path for path, _ in paths(value)}
    lines = text.split("\n")
    for path, part in paths(value):
        line, column = document.positions[path].value
        begin = {"{": dict, "[": list}.get(lines[line - 1][column - 1])
        token = lines[line - 1][column - 1 :]
        assert isinstance(part, begin) if begin else token.startswith(json.dumps(part))
        if path and isinstance(path[-1], str):
            line, column = document.positions[path].key
            assert lines[line - 1][column - 1 :].startswith(json.dumps(path[-1]))


def test_positions_in_block_style() -> None:
    document = read("# a comment\na: 1\nb:\n  - x\n  - {c: [2, 3]}\n")
    assert document.where(("a",)) == "file.yaml:2:4"
    assert document.where(("a",), key=True) == "file.yaml:2:1"
    assert document.where(("b", 1, "c", 1)) == "file.yaml:5:13"
    assert document.where(("b", 1, "c"), key=True) == "file.yaml:5:6"
    # What is not there stands where it should be.
    assert document.where(("b", 1, "missing")) == "file.yaml:5:5"
    assert document.where(("b", 1, "missing"), key=True) == "file.yaml:5:5"
    assert document.where(()) == "file.yaml:2:1"


def test_keys_are_text_whatever_they_look_like() -> None:
    assert read("1: a\non: b\nnull: c\n<<: {d: 1}").data == {
        "1": "a",
        "on": "b",
        "null": "c",
        "<<": {"d": 1},
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "file.yaml:3:1: a: is written twice; first on line 1"),
        ("x: {b: 1, 'b': 2}", "file.yaml:1:11: x.b: is written twice; first on line 1"),
        ("a: &x 1", "file.yaml:1:4: the anchor &x is not supported; write values out"),
        ("&x a: 1", "file.yaml:1:1: the anchor &x is not supported; write values out"),
        ("a: 1\nb: *x", "file.yaml:2:4: the alias *x is not supported; write the value out"),
        ("a: !python/name:os.system x", "file.yaml:1:4: the tag !python/name:os.system is not"),
        ("a: !!float 1", "file.yaml:1:4: the tag tag:yaml.org,2002:float is not supported"),
        ("a: ! 1", "file.yaml:1:4: the tag ! is not supported"),
        ("a: 1\n---\nb: 2", "file.yaml:2:1: a second document begins here; a file holds one"),
        ("%YAML 1.1\n---\na: on", "file.yaml:2:1: asks for another YAML than 1.2"),
        ("? [a]\n: 1", "file.yaml:1:3: a key should be a plain name"),
        ("a: [1,\n", "file.yaml:2:1: is not valid YAML: while parsing a flow node expected"),
        ("a: b: c", "file.yaml:1:5: is not valid YAML: mapping values are not allowed here"),
        ("a:\n\t- 1", "file.yaml:2:1: is not valid YAML: while scanning for the next token"),
        ("b: 1\na: \x07", "file.yaml:2: is not valid YAML: the character '\\x07' is not allowed"),
        ('a: "\\UFFFFFFFF"', "file.yaml: is not valid YAML: no such character"),
        ('a: "\\ud83d"', "file.yaml:1:4: holds half of a surrogate pair"),
        ("", "file.yaml:1:1: holds nothing but white space and comments"),
        ("# nothing\n", "file.yaml:2:1: holds nothing but white space and comments"),
        ("a: " + "[" * 40 + "]" * 40, "file.yaml:1:36: is nested deeper than 32 levels"),
        ("[" * 100_000, "file.yaml:1:34: is nested deeper than 32 levels"),
        (b"a: 1\nb: \xff", "file.yaml:2: is not UTF-8 text (byte 0xff); save it as UTF-8"),
        ("a: 1".encode("utf-16"), "file.yaml:1: is not UTF-8 text (byte 0xff)"),
        (b"#" * (LARGEST + 1), "file.yaml: is larger than 256 KiB"),
    ],
)
def test_what_is_not_ours_is_refused_in_one_line(text: str | bytes, message: str) -> None:
    told = refusal(text)
    assert told.startswith(message)
    assert "\n" not in told


def test_a_file_that_cannot_be_read_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("folder").mkdir()
    Path("file").write_text("a: 1")
    for path, message in [
        ("nowhere.yaml", "nowhere.yaml: no such file"),
        ("folder", "folder: is a folder; should be a YAML, TOML or JSON file"),
        ("file/below", "'file/below': cannot be read: Not a directory"),
        ("null\0byte", "'null\\x00byte': cannot be read: embedded null byte"),
    ]:
        with pytest.raises(InputError) as caught:
            open_document(path, "unused")
        assert str(caught.value) == message

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"^'file': cannot be read: Permission denied$"):
        open_document("file", "unused")

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", broken)
    with pytest.raises(MachineError, match=r"^cannot read file: Input/output error; check"):
        open_document("file", "unused")


def test_a_byte_order_mark_and_tabs_in_json_are_harmless() -> None:
    assert read(b"\xef\xbb\xbfa: 1").data == {"a": 1}
    document = read('{\n\t"a": "\\ud83d\\ude00 \\/",\n\t"b": 1}', "file.json")
    assert document.data == {"a": "😀 /", "b": 1}
    assert document.where(("b",), key=True) == "file.json:3:2"


MARKS = [*"ab:-?,[]{}&*!|>'\"%@`#=~ \n\t", ": ", "- ", "\n  ", "---\n", "...\n", "%YAML 1.2\n"]
ODDITIES = ["!<x> ", '"\\UFFFFFFFF"', "\x85", "\u2028", "\ufeff", "\0", "😀", "3e-4", "&a ", "*a"]


@given(
    st.lists(st.sampled_from([*MARKS, *ODDITIES]), max_size=14).map("".join),
    st.sampled_from(["f.yaml", "f.json"]),
)
def test_no_text_escapes_the_readers_own_errors(text: str, name: str) -> None:
    told = ""
    try:
        read(text, name)
    except RheostatError as error:
        told = str(error)
    assert not told or (told.startswith(name) and "\n" not in told)


def test_a_mapping_is_a_document_whose_places_are_its_keys() -> None:
    source = {"a": {"b": (1, 2)}}
    document = open_document(source, "recipe")
    assert document.data == {"a": {"b": [1, 2]}}
    assert document.where(("a", "b", 1)) == "a.b[1]"
    assert document.where(()) == "recipe"
    assert document.problem(("a",), "is wrong").line == "a: is wrong"
    assert document.problem((), "is wrong").line == "recipe: is wrong"
    source["a"]["b"] = (3, 4)
    assert document.data == {"a": {"b": [1, 2]}}
    assert open_document(document, "other") is document


def test_a_mapping_holds_plain_data_only() -> None:
    with pytest.raises(InputError, match=r"^lr: should be plain data, .* not a Schedule$"):
        open_document({"lr": Schedule(lambda steps: steps)}, "recipe")
    with pytest.raises(InputError, match=r"^a: a key should be text, not 1$"):
        open_document({"a": {1: 2}}, "recipe")
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InputError, match="nested deeper than 32 levels"):
        open_document(endless, "recipe")


def test_an_overlay_knows_where_each_key_came_from() -> None:
    document = read("base: {a: 1, b: {c: 2}}\nover:\n  a: 3\n  d: 4\n")
    merged = document.overlaid(("base",), ("over",))
    assert merged.data == {"a": 3, "b": {"c": 2}, "d": 4}
    assert merged.problem(("a",), "m").line == "file.yaml:3:6: over.a: m"
    assert merged.problem(("b", "c"), "m").line == "file.yaml:1:21: base.b.c: m"
    assert merged.problem(("missing",), "m").line == "file.yaml:3:3: over.missing: m"
    assert merged.problem((), "m").line == "file.yaml:3:3: over: m"


def test_problems_are_refused_together_in_the_order_of_the_file() -> None:
    refuse([])
    problems = [
        Problem("f:10:1", "b", "two", (10, 1)),
        Problem("f:9:3", "a", "one", (9, 3)),
        Problem("f:10:1", "b", "two", (10, 1)),
    ]
    with pytest.raises(InputError) as caught:
        refuse(problems)
    assert str(caught.value) == "f:9:3: a: one\nf:10:1: b: two"


def test_values_and_paths_are_shown_as_the_file_spells_them() -> None:
    assert quoted(True) == "true"
    assert quoted(None) == "null"
    assert quoted("ja") == '"ja"'
    assert len(quoted("x" * 1000)) == 58
    assert show(("arms", "cosine", "betas", 1)) == "arms.cosine.betas[1]"
