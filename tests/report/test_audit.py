"""The timeline as text, filtered, and as JSON that accounts are read back from."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.references import audited

from rheostat.core.errors import InputError
from rheostat.record.run import RunRecord
from rheostat.regimes.account import Account
from rheostat.report.audit import WIDTH, Filter, data, lines
from rheostat.report.timeline import Entry, timeline

TEXT = """\
run: 400 batches, done

batch  update  seg  who              verdict      what
   60      61    0  plateau          bounded      lr 0.1 → 0.05
                    no better for 60 updates; bounded to a factor of 0.5 (best 0.91, waited 60)
                    loss before and after: 0.95 → 0.76 (−20 %)
   70      71    0  plateau          refused ×14  lr × 0.25
                    lr was changed less than 20 steps ago; asked: no better for 60 updates (best
                    0.91, waited 60)
                    loss before and after: 0.7106 → 0.6271 (−12 %)
   89      90    0  spike_guard      accepted     limit norms up to 4.5
                    a gradient 9.2 deviations above its median: skip the like
                    loss before and after: 0.6432 → 0.5692 (−11 %)
   90      90    0  run              skipped
                    the gradient's norm 7.1 is above the limit 4.5
                    loss before and after: 0.6432 → 0.5692 (−11 %)
  120     120    0  loss_trend       trial        lr 0.05 → 0.1
                    the loss falls by 3.1 standard errors (loss_significance −3.1) [trial 3]
                    loss before and after: 0.5537 → 0.4986 (−9.9 %)
  150     150    0  loss_trend       undone       lr 0.1 → 0.05
                    the loss is 0.55, 0.51 was forecast without it (z = −1.50) (forecast 0.51, found
                    0.55, z −1.5) [ends trial 3]
                    loss before and after: 0.4865 → 0.4436 (−8.8 %)
  210     180    0  safeguard        accepted     roll_back 20 steps back
                    5 losses in a row are not finite
                    loss before and after: 0.4072 → 0.3674 (−9.8 %)
  280     250    1  restart_trigger  accepted     restart
                    a plateau, 100 updates after the last
                    loss before and after: 0.33 → 0.3155 (−4.4 %)
  281     251    1  restart_trigger  restarted    lr 0.01 → 0.1
                    cycle 1 of group 0; the state is keep
                    loss before and after: 0.33 → 0.3155 (−4.4 %)
  300     270    1  user             replanned    lr
                    extend, group 0: cosine(peak=0.1, steps=400) becomes cosine(peak=0.1, steps=600)
                    loss before and after: 0.3183 → 0.3059 (−3.9 %)
  330     300    1  arbiter          undone       ease back to the plan
                    the budget of 4 octaves is spent: back to the plan, gradually
                    loss before and after: 0.3028 → 0.2932 (−3.2 %)

21 decisions: 3 accepted, 1 bounded, 14 refused, 1 trial, 2 undone; 3 octaves spent; rolled back
once"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return RunRecord.read(audited.write_run(tmp_path_factory.mktemp("audited") / "run"))


@pytest.fixture(scope="module")
def entries(run: RunRecord) -> list[Entry]:
    return timeline(run)


def test_the_timeline_as_a_person_reads_it(run: RunRecord, entries: list[Entry]) -> None:
    first, *rest = lines(run, entries, entries)
    assert [first.replace(str(run.directory), "run"), *rest] == TEXT.split("\n")
    assert max(map(len, rest)) <= WIDTH


@pytest.mark.parametrize(
    ("asked", "batches"),
    [
        (Filter(), [60, 70, 89, 90, 120, 150, 210, 280, 281, 300, 330]),
        (Filter(who=("plateau",)), [60, 70]),
        (Filter(who=("plateau", "user")), [60, 70, 300]),
        (Filter(subjects=("lr",)), [60, 70, 120, 150, 281, 300]),
        (Filter(verdicts=("undone", "skipped")), [90, 150, 330]),
        (Filter(first=150, last=280), [150, 210, 280]),
        (Filter(who=("loss_trend",), verdicts=("undone",), first=151), []),
    ],
)
def test_filters(entries: list[Entry], asked: Filter, batches: list[int]) -> None:
    assert [entry.batch for entry in asked.chosen(entries)] == batches
    assert bool(asked) == (len(batches) < len(entries))


def test_updates_that_were_skipped_in_a_row_are_found_by_any_of_their_batches(
    entries: list[Entry],
) -> None:
    skipped = next(entry for entry in entries if entry.verdict == "skipped")
    five = replace(skipped, times=5)
    found = {at for at in range(80, 100) if Filter(first=at, last=at).chosen([five])}
    assert found == {90, 91, 92, 93, 94}
    refused = next(entry for entry in entries if entry.times == 14)
    assert Filter(first=71).chosen([refused]) == [], "the others are not in a row"


def test_what_is_left_out_is_said(run: RunRecord, entries: list[Entry]) -> None:
    told = lines(run, entries, Filter(who=("plateau",)).chosen(entries))
    assert "2 of 11 entries shown" in told
    assert told[-1].startswith(
        "15 decisions: 0 accepted, 1 bounded, 14 refused, 0 undone; 1 octave"
    )
    nothing = lines(run, entries, [])
    assert nothing[-1].startswith("0 decisions")


def test_a_name_that_nobody_has_is_refused_with_the_nearest(entries: list[Entry]) -> None:
    for asked, words in (
        (Filter(first=300, last=10), "--from 300: should be at most --to, which is 10"),
        (Filter(who=("zzz",)), "none; known are: arbiter, loss_trend, plateau, restart_trigger,"),
        (Filter(who=("platau",)), "--controller 'platau': there is none; did you mean 'plateau'?"),
        (Filter(subjects=("lrr",)), "--hyperparameter 'lrr': there is none; did you mean 'lr'?"),
        (Filter(verdicts=("skiped",)), "--verdict 'skiped': there is none; did you mean 'skipped'"),
    ):
        with pytest.raises(InputError) as error:
            asked.check(entries, ["early_stop"], ["momentum"])
        assert words in str(error.value)
    Filter(("early_stop",), ("momentum",), ("kept",)).check(entries, ["early_stop"], ["momentum"])


def test_json_holds_accounts_that_are_read_back(run: RunRecord, entries: list[Entry]) -> None:
    found = json.loads(json.dumps(data(run, entries, entries), allow_nan=False))
    newest = {a.number: a for told in audited.accounts().values() for a in told}
    read = [Account.read(entry["account"]) for entry in found["entries"] if entry["account"]]
    assert {account.number: account for account in read} == newest
    assert len(read) == len(newest)
    assert (found["batches"], found["of"], found["summary"]["decisions"]) == (400, 11, 21)


def test_json_is_strict_where_numbers_are_not_finite(tmp_path: Path) -> None:
    one = audited.account(
        0, 3, "spike_guard", "accepted", "inf", evidence={"gradient_norm": math.inf, "z": math.nan}
    )
    with audited.RunWriter(tmp_path / "run", {"recipe": {}}) as writer:
        for batch in range(5):
            writer.step(batch, {"loss": 1.0})
        writer.event("decision", audited.decision(4, one))
    record = RunRecord.read(tmp_path / "run")
    (entry,) = timeline(record)
    assert math.isnan(entry.evidence["z"])
    found = json.dumps(data(record, [entry], [entry]), allow_nan=False)
    assert json.loads(found)["entries"][0]["evidence"] == {"gradient_norm": "inf", "z": "nan"}
