"""HTML that cannot be injected into: text is escaped unless it is markup already."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping

from rheostat.core.durable import canonical_json

VOID = frozenset({"link", "meta"})


class Html(str):
    """Markup. Only `element`, `join` and the page's own constants make it."""

    __slots__ = ()


def element(tag: str, attributes: Mapping[str, str], *children: str) -> Html:
    """`<tag …>children</tag>`; attribute values are escaped, and children that are not `Html`."""
    start = "".join([tag, *(f' {key}="{html.escape(attributes[key])}"' for key in attributes)])
    if tag in VOID:
        return Html(f"<{start}>")
    return Html(f"<{start}>{join(children)}</{tag}>")


def join(children: Iterable[str]) -> Html:
    """The children one after another, those that are not `Html` escaped."""
    return Html("".join(c if isinstance(c, Html) else html.escape(c) for c in children))


def data_block(name: str, value: object) -> Html:
    """A script element that holds `value` as JSON, for a script to read by its id.

    NaN and infinities must not occur; `<` and `&` are written as JSON escapes, so that no text
    in `value` can end the element.
    """
    text = canonical_json(value).replace("<", "\\u003c").replace("&", "\\u0026")
    return Html(f'<script type="application/json" id="{html.escape(name)}">{text}</script>')


def pretty_json(value: object) -> str:
    """JSON for people: indented, keys sorted, any alphabet readable."""
    return json.dumps(
        json.loads(canonical_json(value)), indent=2, sort_keys=True, ensure_ascii=False
    )


def table(caption: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> Html:
    """A table that scrolls sideways where it does not fit; the first cell names its row."""
    columns = [element("th", {"scope": "col"}, cell) for cell in head]
    body: list[Html] = []
    for first, *rest in rows:
        cells = [element("th", {"scope": "row"}, first)]
        cells += [element("td", {}, cell) for cell in rest]
        body.append(element("tr", {}, *cells))
    return element(
        "div",
        {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption},
        element(
            "table",
            {},
            element("caption", {}, caption),
            element("thead", {}, element("tr", {}, *columns)),
            element("tbody", {}, *body),
        ),
    )


def details(summary: str, *children: str) -> Html:
    """A part that is folded until asked for."""
    return element("details", {}, element("summary", {}, summary), *children)


def paragraph(text: str) -> Html:
    return element("p", {}, text)
