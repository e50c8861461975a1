"""Reports as one HTML file: no network, no clock, the same bytes for one record."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from rheostat.core.durable import write_file
from rheostat.core.errors import MachineError
from rheostat.lab.results import Results
from rheostat.report import evidence, sections
from rheostat.report.figures import draw
from rheostat.report.markup import Html, data_block, element, join
from rheostat.report.plot import Figure, styles

# The page may run and style itself, and nothing else: whatever would leave it is an error in
# the browser's console. Blobs are how Plotly saves a figure as an image.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)


def write_study(results: Results, path: Path) -> None:
    """Write the report of a study to `path`, whole or not at all.

    Raises `MachineError` where the disk refuses or plotly is not installed.
    """
    write_file(path, page(results).encode("utf-8"))


def page(results: Results) -> str:
    """The report of a study: the answer first, then numbers, figures, and what they rest on."""
    look = styles(results.arms, results.plan["baseline"])
    drawn = draw(results)
    parts = (
        sections.warnings(results),
        sections.answer(results, look),
        sections.intention(results),
        sections.arms(results, look),
        sections.comparisons(results, look),
        sections.under_conditions(results),
        sections.figures(drawn),
        evidence.fairness(results),
        evidence.provenance(results, look),
        sections.rule(results),
        evidence.problems(results),
    )
    return document("Study", results.plan["study"], parts, drawn)


def document(kind: str, title: str, parts: Iterable[str], drawn: list[Figure]) -> str:
    """A page of these parts, with the figures that they have places for."""
    body = element(
        "main",
        {},
        element("header", {}, element("p", {"class": "kind"}, kind), element("h1", {}, title)),
        *parts,
    )
    head = element(
        "head",
        {},
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("link", {"rel": "icon", "href": "data:,"}),
        element("title", {}, f"{title} · Rheostat"),
        element("style", {}, _part("page.css")),
    )
    scripts = _scripts(drawn) if drawn else Html("")
    made = element("html", {"lang": "en"}, head, element("body", {}, body, scripts))
    return f"<!DOCTYPE html>\n{made}\n"


def _scripts(drawn: list[Figure]) -> Html:
    data = [
        {"name": figure.name, "traces": figure.traces, "layout": figure.layout} for figure in drawn
    ]
    return join(
        [
            data_block("figures", data),
            element("script", {}, _plotly()),
            element("script", {}, _part("page.js")),
        ]
    )


def _part(name: str) -> Html:
    return Html(files("rheostat.report").joinpath(name).read_text("utf-8"))


def _plotly() -> Html:
    """The source of plotly.js, which comes with the Python package."""
    try:
        offline = importlib.import_module("plotly.offline")
    except ImportError as error:
        raise MachineError(
            'the report needs plotly, which is not installed: pip install "rheostat[study]"'
        ) from error
    return Html(offline.get_plotlyjs())
