"""Previews: milestones with values, warnings that are due and no others, a line, a drawing."""

from __future__ import annotations

import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule

S = rs.schedules
SVG = "{http://www.w3.org/2000/svg}"


def _found(schedule: Schedule, steps: int | None = None) -> dict[str, tuple[float, str]]:
    preview = schedule.preview(steps)
    return {what: (m.step, m.value) for m in preview.milestones for what in m.what.split(", ")}


def test_milestones_are_where_something_happens() -> None:
    found = _found(S.cosine(0.1, steps=1000, warmup=50, floor=0.001))
    assert found == {
        "start": (0, "0.001961"),
        "warm-up ends": (50, "0.1"),
        "peak": (50, "0.1"),
        "end": (1000, "0.001"),
    }
    found = _found(S.cosine_restarts(0.1, period=100, steps=300, multiplier=2))
    assert found["restart 1"] == (100, "2.467e-05 → 0.1")
    found = _found(S.wsd(0.1, steps=500), 1000)
    assert found["keeps this value from here"] == (500, "0")
    assert found["cool-down begins"] == (400, "0.1")
    assert _found(S.one_cycle_momentum(steps=1000))["lowest"] == (299, "0.85")
    assert _found(S.constant(0.1), 100).keys() == {"start", "end"}


def test_of_many_restarts_the_first_and_the_last_are_listed() -> None:
    found = _found(S.cosine_restarts(0.1, period=10, steps=1000))
    assert {"restart 1", "restart 5", "restart 99 of 99"} <= found.keys()
    assert "restart 6" not in found


def test_what_a_schedule_names_is_listed_with_both_sides_of_a_jump() -> None:
    found = _found(S.multi_step(0.1, milestones=(300, 600, 5000)), 1000)
    assert found["drop 1"] == (300, "0.1 → 0.01")
    assert found["drop 2"] == (600, "0.01 → 0.001")
    assert "drop 3" not in found
    assert _found(S.step(0.1, steps=1000))["drop 2"] == (750, "0.01 → 0.001")
    many = _found(S.multi_step(0.1, milestones=tuple(range(100, 900, 10)), factor=0.9), 1000)
    assert {"drop 1", "drop 5", "drop 80 of 80"} <= many.keys()
    assert "drop 6" not in many
    through = S.piecewise((100, 300), (0.3, 0.15, 0.45), interpolate="cosine")
    assert _found(through, 400)["boundary 1"] == (100, "0.15")
    assert _found(S.piecewise((100,), (0.3, 0.1)), 200)["boundary"] == (100, "0.3 → 0.1")


def _marks(schedule: Schedule) -> list[tuple[float, str]]:
    """The named steps that a preview lists, in order."""
    return [
        (m.step, what)
        for m in schedule.preview().milestones
        for what in m.what.split(", ")
        if what not in ("start", "end", "peak", "lowest", "keeps this value from here")
    ]


def test_names_move_with_what_is_made_of_a_schedule() -> None:
    wsd = S.wsd(0.1, steps=1000)
    cools = "cool-down begins"
    assert _marks(0.5 * S.shift(wsd, by=50)) == [(850, cools)]
    assert _marks(S.join((S.constant(0.1), wsd), (60,))) == [
        (60, "next schedule begins"),
        (860, cools),
    ]
    assert _marks(S.until(wsd, steps=900)) == [(800, cools)]
    assert _marks(S.until(wsd, steps=700)) == []
    assert _marks(S.in_unit(wsd, "tokens", per_update=4096)) == [(800 * 4096, cools)]
    assert _marks(S.extend(wsd, at=600, steps=2000)) == [
        (600, "another horizon from here"),
        (1300, cools),
    ]
    assert _marks(S.cooldown_from(wsd, at=300, steps=500)) == [(300, cools)]
    assert _marks(S.rescale_from(wsd, at=300, peak=0.05)) == [
        (300, "another peak from here"),
        (800, cools),
    ]
    assert _marks(wsd + S.step(0.1, steps=1000)) == [
        (500, "drop 1"),
        (750, "drop 2"),
        (800, cools),
    ]
    assert _marks(S.repeat(wsd, times=2)) == []


def test_in_a_long_run_milestones_are_exact() -> None:
    plan = S.wsd(0.1, steps=10_000_000, warmup=12_345, cooldown=0.1234567)
    assert _found(plan, 12_000_000) == {
        "start": (0, "8.1e-06"),
        "warm-up ends": (12_345, "0.1"),
        "peak": (12_345, "0.1"),
        "cool-down begins": (8_765_433, "0.1"),
        "keeps this value from here": (10_000_000, "0"),
        "end": (12_000_000, "0"),
    }
    valley = S.in_unit(S.one_cycle_momentum(steps=1_000_000), "tokens", per_update=7)
    assert _found(valley)["lowest"][0] == pytest.approx(7 * 299_999, rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "steps", "usual", "message"),
    [
        (S.constant(0.1, warmup=2000), 1000, None, "the warm-up is longer than the run of 1,000"),
        (S.cosine(0.1, steps=9000, warmup=2000), 1000, None, "the warm-up is longer than the run"),
        (S.cosine(0.1, steps=2000), 1000, None, "planned for 2,000 updates: the run ends at 0.05"),
        (S.cosine(0.1, steps=500), 1000, None, "ends at 500 updates and keeps 0 for the other 500"),
        (
            S.cosine_restarts(0.1, period=320, steps=1000),
            None,
            None,
            "a restart at 960 leaves 40 updates, less than 5% of the run",
        ),
        (S.cosine(0.1, steps=1000), None, (1e-4, 1e-2), "the peak, 0.1, is above what is usual"),
        (S.cosine(1e-5, steps=1000), None, (1e-4, 1e-2), "the peak, 1e-05, is below what is usual"),
        (S.multi_step(0.1, (300, 5000)), 1000, None, "the drop at 5,000 is never reached: the run"),
        (S.exponential(0.1, factor=1 - 1e-7, every=1), 1000, None, "the decay hardly begins"),
        (S.exponential(0.1, factor=1.0, every=9), 1000, None, "it keeps 0.1 throughout"),
        (S.power(0.1, scale=1e9), 1000, None, "it keeps 0.1 throughout"),
    ],
)
def test_what_a_reader_would_want_to_know_is_said(
    schedule: Schedule, steps: int | None, usual: tuple[float, float] | None, message: str
) -> None:
    preview = schedule.preview(steps, usual=usual)
    assert any(message in warning for warning in preview.warnings), preview.warnings
    assert f"warning: {preview.warnings[0]}" in str(preview)


@pytest.mark.parametrize(
    "schedule",
    [
        S.constant(0.1),
        S.constant(0.1, warmup=100),
        S.cosine(0.1, steps=1000, warmup=999),
        S.ramp(0.8, 0.95, steps=1000),
        S.one_cycle(0.1, steps=1000),
        S.restart_equal(0.1, steps=1000),
        S.inverse_sqrt(0.1, warmup=100),
        S.wsd(0.1, steps=1000),
        S.exponential(0.1, factor=0.5, every=300),
        0.5 * S.on_base(S.constant(1.0), base=0.1),
        S.triangular(0.1, rise=100),
    ],
)
def test_a_sound_plan_warns_of_nothing(schedule: Schedule) -> None:
    assert schedule.preview(1000, usual=(1e-3, 1.0)).warnings == ()


def test_printed_it_is_a_line_and_a_list() -> None:
    lines = str(S.linear(0.1, steps=1000).preview(title="lr")).splitlines()
    assert lines[0] == "lr over 1,000 updates"
    assert len(lines[1]) == 64
    assert list(lines[1]) == sorted(lines[1], reverse=True)
    assert set(lines[1]) == set("▁▂▃▄▅▆▇█")
    assert lines[2:] == ["      0  0.1  start, peak", "  1,000  0    end"]
    assert "▁" * 64 in str(S.constant(0.0).preview(100))


def test_a_line_is_scaled_to_what_it_shows_and_says_so() -> None:
    high = S.ramp(0.9, 0.99, steps=1000).preview()
    assert set(high.line) == set("▁▂▃▄▅▆▇█")
    assert f"{high.line}  from 0.9 to 0.99" in str(high)
    assert "0.9" in high.svg().split("<polyline")[0].split("text-anchor")[1]
    low = S.ramp(0.1, 0.99, steps=1000).preview()
    assert "from" not in str(low)
    assert "█" * 64 in str(S.constant(0.9).preview(100))
    # A plan and the one before it have one scale: half the peak is half as high.
    plan = S.constant(0.1)
    lines = str(S.rescale_from(plan, at=0, peak=0.05).preview(100, beside=plan)).splitlines()
    assert (set(lines[1]), set(lines[2].split()[0])) == ({"▄"}, {"█"})


def test_a_long_run_is_seen_with_its_restarts() -> None:
    preview = S.cosine_restarts(0.1, period=333_333, steps=10_000_000, multiplier=2).preview()
    found = {m.what: m for m in preview.milestones}
    assert found["restart 1"].step == 333_333
    assert found["restart 1"].value.endswith("→ 0.1")
    assert len(preview.svg()) < 200_000


def test_a_run_without_a_length_is_refused() -> None:
    with pytest.raises(InputError, match="give the length of the run"):
        S.constant(0.1).preview()
    with pytest.raises(InputError, match="steps=0"):
        S.constant(0.1).preview(0)


def test_the_drawing_is_whole_and_can_be_read_out() -> None:
    plan = S.cosine_restarts(0.1, period=100, steps=400)
    preview = S.rescale_from(plan, at=150, peak=0.05).preview(beside=plan, title="lr <of> & all")
    root = ElementTree.fromstring(preview.svg())
    assert root.get("role") == "img"
    told = {element.tag: element for element in root}
    assert root.get("aria-labelledby") == " ".join(
        str(told[SVG + tag].get("id")) for tag in ("title", "desc")
    )
    assert told[SVG + "title"].text == "lr <of> & all"
    assert "100: 2.467e-05 → 0.1, restart 1" in str(told[SVG + "desc"].text)
    texts = [element.text for element in root.iter(SVG + "text")]
    assert "progress [updates]" in texts
    assert {"0", "100", "400", "0.1"} <= set(texts)
    assert len(list(root.iter(SVG + "polyline"))) == 2
    # One colour, that of the text around it, so that it is seen on light and on dark.
    assert {e.get("stroke") for e in root.iter() if e.get("stroke")} == {"currentColor"}
    for line in root.iter(SVG + "polyline"):
        points = [tuple(map(float, p.split(","))) for p in str(line.get("points")).split()]
        assert all(0 <= x <= 640 and 0 <= y <= 300 for x, y in points)


def test_a_notebook_shows_the_drawing_and_the_list() -> None:
    html = S.cosine(0.1, steps=100).preview(title="<b>")._repr_html_()
    assert html.startswith("<figure><svg")
    assert "<b>" not in html
    assert "start, peak" in html


@pytest.mark.parametrize("unit", ["tokens", "epochs", "fraction"])
def test_other_units_are_shown_as_such(unit: str) -> None:
    per_update = {"tokens": 4096, "epochs": 0.125, "fraction": 1 / 400}[unit]
    plan = S.in_unit(S.cosine_restarts(0.1, period=100, steps=400), unit, per_update=per_update)
    preview = plan.preview()
    assert str(preview).startswith(f"schedule over {plan.horizon:,} {unit}")
    assert [m.step for m in preview.milestones if "restart" in m.what] == [
        pytest.approx(k * per_update) for k in (100, 200, 300)
    ]
    assert f"progress [{unit}]" in preview.svg()


@pytest.mark.chromium
def test_a_browser_draws_it(chromium: Path, tmp_path: Path) -> None:
    page, picture = tmp_path / "preview.svg", tmp_path / "preview.png"
    page.write_text(S.restart_rewarmed(0.1, steps=1000).preview().svg(), encoding="utf-8")
    command = [str(chromium), "--headless", "--no-sandbox", "--disable-gpu"]
    command += ["--window-size=700,340", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    blank = tmp_path / "blank.svg"
    blank.write_text('<svg xmlns="http://www.w3.org/2000/svg"/>', encoding="utf-8")
    empty = tmp_path / "blank.png"
    command[-2:] = [f"--screenshot={empty}", blank.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    assert picture.stat().st_size > 4 * empty.stat().st_size
