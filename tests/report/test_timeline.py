"""What happened to a run, read from its record: places, authors, outcomes, sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from tests.references import audited

from rheostat.core.errors import InputError
from rheostat.record.run import RunRecord
from rheostat.record.writer import RunWriter
from rheostat.regimes.account import Ease, Outcome
from rheostat.regimes.grants import Terms
from rheostat.report.timeline import Entry, account_of, summary, timeline

WINDOW = Terms().window


def entries_of(
    directory: Path,
    events: Mapping[int, Sequence[tuple[str, Mapping[str, Any]]]],
    *,
    steps: int = 60,
    header: Mapping[str, Any] | None = None,
    columns: Mapping[str, float] | None = None,
) -> list[Entry]:
    """The timeline of a run whose loss is the number of the batch."""
    with RunWriter(directory / "run", {"recipe": {}, **(header or {})}) as run:
        for batch in range(steps):
            run.step(batch, {"loss": float(batch), **(columns or {})})
            for kind, fields in events.get(batch, []):
                run.event(kind, {"step": batch, **fields})
    return timeline(RunRecord.read(directory / "run"))


def test_an_account_comes_back_from_its_event() -> None:
    for told in audited.accounts().values():
        for one in told:
            event = {**audited.decision(99, one), "facts": {"seconds": 3.0}}
            assert account_of(event) == one


def test_it_stays_where_it_was_first_and_takes_what_came_later(tmp_path: Path) -> None:
    first, second = entries_of(tmp_path, {
        batch: [("decision", audited.decision(batch, one)) for one in told]
        for batch, told in audited.accounts().items()
        if told[0].number < 2
    }, steps=120)  # fmt: skip
    assert (first.batch, first.update, first.outcome) == (60, 61, Outcome(0.95, 0.76))
    assert first.moved == pytest.approx(-0.2)
    assert (second.batch, second.times, second.verdict) == (70, 14, "refused")


def around(learnt: list[int], before: int, after: int) -> Outcome:
    """Of losses that are the numbers of their batches."""
    earlier, later = [k for k in learnt if k < before], [k for k in learnt if k >= after]
    return Outcome(median(earlier[-WINDOW:]), median(later[:WINDOW]))


def test_outcomes_are_medians_of_the_recorded_losses(tmp_path: Path) -> None:
    one = audited.account(0, 29, "plateau", "refused", "a trial is under way")
    decided, skipped, resumed = entries_of(
        tmp_path,
        {
            29: [("decision", audited.decision(29, one))],
            30: [("skipped", {"reason": "nan"})],
            31: [("unrecorded", {"updates": 2})],
        },
    )
    # A decision after batch 29 takes effect with 30, what came before batch 31 with 31.
    # A batch that was skipped counts for neither.
    learnt = [batch for batch in range(100) if batch != 30]
    for entry, effect in ((decided, 30), (skipped, 31), (resumed, 31)):
        assert entry.outcome == around(learnt, effect, effect)


def test_a_window_that_is_not_full_says_nothing(tmp_path: Path) -> None:
    found = entries_of(
        tmp_path, {22: [("skipped", {"reason": "a"})], 36: [("skipped", {"reason": "b"})]}
    )
    assert [entry.outcome for entry in found] == [None, None]


def test_skipped_updates_in_a_row_are_one_entry_where_only_numbers_differ(tmp_path: Path) -> None:
    reasons = {30: "norm 1.5e+03", 31: "norm 7", 32: "norm 0.2", 33: "a NaN", 35: "a NaN"}
    found = entries_of(
        tmp_path, {batch: [("skipped", {"reason": why})] for batch, why in reasons.items()}
    )
    assert [(one.batch, one.times, one.why) for one in found] == [
        (30, 3, "norm 1.5e+03"),
        (33, 1, "a NaN"),
        (35, 1, "a NaN"),
    ]
    learnt = [batch for batch in range(100) if batch not in reasons]
    assert found[0].outcome == around(learnt, before=31, after=33)


def test_who_did_what_is_no_decision(tmp_path: Path) -> None:
    replan = {"operation": "extend", "group": 0, "hyperparameter": "lr", "at": 3}
    curves = {
        "old": {"schedule": "constant@1", "value": 0.1},
        "new": {"schedule": "x@1", "of": [1]},
    }
    begun = {"hyperparameter": "lr", "group": 0, "cycle": 2, "before": 0.1, "after": 0.2}
    found = entries_of(
        tmp_path,
        {
            1: [("skipped", {"reason": "a NaN"}), ("evaluation", {"metrics": {}})],
            2: [("restart", {**begun, "state": "keep"})],
            3: [("replan", {**replan, **curves}), ("replan", {**replan, **curves, "who": "me"})],
        },
        columns={"update": 5.0, "segment": 1.0},
    )
    assert [(entry.who, entry.verdict, entry.subject) for entry in found] == [
        ("run", "skipped", None),
        ("plan", "restarted", "lr"),
        ("user", "replanned", "lr"),
        ("me", "replanned", "lr"),
    ]
    assert {(entry.update, entry.segment) for entry in found} == {(5, 1)}
    assert found[2].why == "extend, group 0: constant(value=0.1) becomes x(of=[1])"
    assert summary(found).decisions == 0


def test_a_resumption_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunWriter(run, {}) as writer:
        for batch in range(10):
            writer.step(batch, {"loss": 1.0})
        writer.event("skipped", {"step": 8, "reason": "superseded"})
    told = {"checkpoint": "step-5", "passed_over": ["step-7 is damaged"], "notes": ["2 threads"]}
    with RunWriter.resume(run, 5, told, {}) as writer:
        writer.step(5, {"loss": 1.0})
    (entry,) = timeline(RunRecord.read(run))
    assert (entry.batch, entry.who, entry.verdict, entry.update) == (5, "run", "resumed", None)
    assert entry.why == "from step-5; step-7 is damaged; 2 threads"


def test_a_restart_is_of_who_decided_it_and_the_next_is_not(tmp_path: Path) -> None:
    begun = {"group": 0, "cycle": 1, "before": 0.1, "after": 0.2, "state": "keep"}
    decided = next(a for told in audited.accounts().values() for a in told if a.number == 6)
    pair = [("restart", {**begun, "hyperparameter": name}) for name in ("lr", "momentum")]
    found = entries_of(
        tmp_path,
        {5: [("decision", audited.decision(5, decided))], 7: pair, 20: pair},
    )
    assert [entry.who for entry in found] == [*(["restart_trigger"] * 3), "plan", "plan"]


def test_a_dry_run_restarts_nothing(tmp_path: Path) -> None:
    begun = {"group": 0, "cycle": 1, "before": 0.1, "after": 0.2, "state": "keep"}
    decided = next(a for told in audited.accounts().values() for a in told if a.number == 6)
    dry = audited.decision(5, replace(decided, dry=True))
    restart = ("restart", {**begun, "hyperparameter": "lr"})
    found = entries_of(tmp_path, {5: [("decision", dry)], 7: [restart]})
    assert [entry.who for entry in found] == ["restart_trigger", "plan"]
    assert summary(found).dry


@pytest.mark.parametrize(
    ("who", "said"), [("loss_trend", "loss_trend's part back to 1"), (None, "back to the plan")]
)
def test_a_part_that_is_taken_back_is_not_the_whole(
    who: str | None, said: str, tmp_path: Path
) -> None:
    ease = Ease(who=who, reason="it is deaf")
    eased = audited.account(0, 31, "arbiter", "undone", ease.reason, done=ease.written())
    (entry,) = entries_of(tmp_path, {30: [("decision", audited.decision(30, eased))]})
    assert entry.change == said


def test_what_another_library_did_is_told_too(tmp_path: Path) -> None:
    scale = {"kind": "scale", "hyperparameter": "lr", "factor": 0.1}
    (entry,) = entries_of(
        tmp_path, {3: [("decision", scale)]}, header={"recipe": {"contestant": "plateau_lr"}}
    )
    told = entry.who, entry.verdict, entry.subject, entry.change, entry.account
    assert told == ("plateau_lr", "accepted", "lr", "× 0.1", None)
    assert summary([entry]).verdicts["accepted"] == 1


def test_sums(tmp_path: Path) -> None:
    found = timeline(RunRecord.read(audited.write_run(tmp_path / "run")))
    sums = summary(found)
    assert sums.verdicts == {
        "accepted": 3, "bounded": 1, "refused": 14, "trial": 1, "kept": 0, "undone": 2,
    }  # fmt: skip
    # ½ and 2 are an octave each, so is the restart; what the arbiter takes back costs nothing.
    assert (sums.decisions, sums.octaves, sums.rollbacks, sums.dry) == (21, 3.0, 1, False)


def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"events\.jsonl:3: this is no account"):
        entries_of(tmp_path, {0: [("decision", {"number": 1, "who": "x"})]}, steps=1)
    with pytest.raises(InputError, match=r"events\.jsonl:3: no skipped of ours \(KeyError"):
        entries_of(tmp_path / "note", {0: [("skipped", {})]}, steps=1)
    with pytest.raises(InputError, match="this is no account"):
        account_of({"number": 1})
