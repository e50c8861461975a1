"""Decisions across runs: counted, grouped, in order, with the median of what the loss did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.references import audited

from rheostat.core.errors import InputError
from rheostat.record.run import RunRecord
from rheostat.regimes.account import Outcome
from rheostat.report.patterns import ABSENT, Where, check_key, patterns, table, value_at
from rheostat.report.timeline import Entry

HEADER = {"arm": "a", "recipe": {"optimizer": "adamw@1"}, "parameters": 30, "seeds": [1, 2]}


def decided(who: str, after: float, verdict: str = "accepted", times: int = 1) -> Entry:
    """A decision before which the loss was 2."""
    outcome = None if math.isnan(after) else Outcome(2.0, after)
    return Entry(0, None, None, who, verdict, "lr", "", "", {}, outcome, times)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    with audited.RunWriter(tmp_path / "run", {}) as run:
        run.step(0, {"loss": 1.0})
    return RunRecord.read(tmp_path / "run")


def runs_of(
    record: RunRecord, *runs: tuple[Mapping[str, Any], Sequence[Entry]]
) -> list[tuple[RunRecord, Sequence[Entry]]]:
    return [(replace(record, header=dict(header)), entries) for header, entries in runs]


def test_decisions_are_counted_and_the_median_change_is_told(record: RunRecord) -> None:
    changes = (1.0, 3.0, 1.8, math.nan)
    first = [decided("plateau", after) for after in changes]
    second = [decided("plateau 2", 1.0, times=5), decided("run", 1.0, verdict="skipped")]
    (found,) = patterns(runs_of(record, (HEADER, first), (HEADER, second)))
    assert (found.who, found.decisions, found.runs, found.measured) == ("plateau", 9, 2, 4)
    assert found.moved == pytest.approx((-0.5 - 0.1) / 2)


def test_groups_come_by_size_and_what_is_frequent_first(record: RunRecord) -> None:
    often = [decided("plateau", 1.0), decided("plateau", 1.0), decided("spike_guard", math.nan)]
    sizes: list[dict[str, Any]] = [*({"parameters": n} for n in (1000, 30, 200)), {}]
    found = patterns(runs_of(record, *((size, often) for size in sizes)), "parameters")
    groups = ["30", "200", "1000", ABSENT]
    assert [(row.group, row.who) for row in found] == [
        (group, who) for group in groups for who in ("plateau", "spike_guard")
    ]
    text = table(found, "parameters")
    assert text[0].split()[:3] == ["parameters", "controller", "verdict"]
    assert text[1].split() == ["30", "plateau", "accepted", "lr", "2", "1", "−50", "%", "2"]
    assert text[2].split()[-2:] == [ABSENT, "0"]


def test_keys_of_a_header_are_dotted_and_anything_has_a_text() -> None:
    assert value_at(HEADER, "recipe.optimizer") == "adamw@1"
    assert value_at(HEADER, "parameters") == "30"
    assert value_at(HEADER, "seeds") == "[1,2]"
    assert value_at(HEADER, "arm.of") == value_at(HEADER, "x") == ABSENT
    with pytest.raises(InputError, match=r"--by 'recipe.optimiser': .* mean 'recipe.optimizer'"):
        check_key("--by", "recipe.optimiser", [HEADER, {}])
    check_key("--by", "arm", [HEADER, {}])


def test_a_condition_is_a_pattern() -> None:
    assert Where.read("recipe.optimizer=adam*").holds(HEADER)
    assert not Where.read("arm=b").holds(HEADER)
    assert Where.read("arm=a=b") == Where("arm", "a=b")
    for text in ("arm", "=a"):
        with pytest.raises(InputError, match="should be KEY=PATTERN"):
            Where.read(text)
