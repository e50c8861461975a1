"""Markup: what is text stays text, wherever it stands."""

from __future__ import annotations

import json
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from rheostat.report.markup import Html, data_block, element, join, pretty_json, table


class Reader(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    return reader


NASTY = st.text(st.sampled_from("<>&\"'/ab =-!;") | st.characters(min_codepoint=32))


@given(NASTY, NASTY)
def test_text_and_attributes_come_out_as_they_went_in(text: str, attribute: str) -> None:
    seen = read(element("p", {"title": attribute}, text, element("b", {}, text)))
    assert seen.tags == [("p", {"title": attribute}), ("b", {})]
    assert seen.text == text + text


def test_markup_is_not_escaped_twice() -> None:
    assert join(["<", Html("<br>"), "&"]) == "&lt;<br>&amp;"
    assert element("meta", {"charset": "utf-8"}) == '<meta charset="utf-8">'


@given(st.dictionaries(NASTY, NASTY))
def test_a_data_block_ends_where_it_should_and_holds_its_value(value: dict[str, str]) -> None:
    block = data_block("data", [value, "</script><script>alert(1)</script>", "<!--"])
    body = block.removeprefix('<script type="application/json" id="data">')
    assert body.endswith("</script>")
    body = body.removesuffix("</script>")
    assert "<" not in body
    assert json.loads(body)[0] == value


def test_pretty_json_is_sorted_and_keeps_alphabets() -> None:
    assert pretty_json({"b": [1], "a": "ü"}) == '{\n  "a": "ü",\n  "b": [\n    1\n  ]\n}'


def test_a_table_names_its_rows_and_columns() -> None:
    seen = read(table("Sums", ("what", "how <much>"), [("all", "1"), ("none", "0")]))
    names = [tag for tag, _ in seen.tags]
    assert names.count("caption") == 1
    scopes = [attributes["scope"] for tag, attributes in seen.tags if tag == "th"]
    assert scopes == ["col", "col", "row", "row"]
    assert "how <much>" in seen.text
