"""The page in a browser: figures drawn, no error in the console, no request that leaves it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.references import audited
from tests.report.regimes import with_regime

from rheostat.lab.results import Results
from rheostat.record.run import RunRecord
from rheostat.report.figures import draw
from rheostat.report.html import page
from rheostat.report.run_page import run_page
from rheostat.report.timeline import timeline

pytestmark = pytest.mark.chromium


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page: its DOM, and what its console said."""

    dom: str
    console: tuple[str, ...]

    @property
    def drawn(self) -> list[str]:
        """The ids of the plots that Plotly filled with a drawing."""
        return re.findall(
            r'<div id="(figure-[a-z0-9-]+)" class="plot js-plotly-plot"[^>]*>(?=.{0,600}main-svg)',
            self.dom,
        )


@pytest.fixture
def browse(chromium: Path, tmp_path: Path) -> Callable[[str], Seen]:
    """A function that opens a page in headless Chromium, which can resolve no name."""

    def see(text: str) -> Seen:
        path = tmp_path / "page.html"
        path.write_text(text, "utf-8")
        command = [
            str(chromium),
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={tmp_path / 'profile'}",
            *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=10000", "--dump-dom"),
            path.as_uri(),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=True, errors="replace"
        )
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return Seen(done.stdout, tuple(console))

    return see


def test_figures_are_drawn_and_the_console_is_silent(
    browse: Callable[[str], Seen], results: Results
) -> None:
    marked = with_regime(results, "cosine", "step")
    seen = browse(page(marked))
    assert seen.console == ()
    assert seen.drawn == [figure.name for figure in draw(marked)]
    assert len(seen.drawn) == 8


def test_the_page_of_a_run_is_drawn(browse: Callable[[str], Seen], tmp_path: Path) -> None:
    record = RunRecord.read(audited.write_run(tmp_path / "run"))
    seen = browse(run_page(record, timeline(record)))
    assert seen.console == ()
    assert seen.drawn == ["figure-0", "figure-1", "figure-2", "figure-3"]


def test_a_request_would_be_seen(browse: Callable[[str], Seen], results: Results) -> None:
    # The silence above proves something only if a page that does ask is heard.
    leaky = page(results).replace("</main>", '<img src="http://evil.example/x.png"></main>')
    assert any("evil.example" in line for line in browse(leaky).console)


def test_a_failing_figure_would_be_seen(browse: Callable[[str], Seen], results: Results) -> None:
    broken = page(results).replace('id="figure-loss"', 'id="figure-lost"')
    seen = browse(broken)
    assert seen.console
    assert "figure-lost" not in seen.drawn
