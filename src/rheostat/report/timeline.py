"""What happened to a run beside plain updates, in order: every decision of its regime, skipped
updates, restarts, changes of plan, interruptions; and what the loss did after each."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias, cast, get_args

import numpy as np

from rheostat.core.controller import Grow, Restart, Scale
from rheostat.core.durable import JsonObject
from rheostat.core.errors import InputError
from rheostat.record.log import Event
from rheostat.record.run import LOG_NAME, RESUME, RunRecord
from rheostat.regimes.account import SAFEGUARD, Account, Outcome, Verdict
from rheostat.regimes.grants import Terms, cost

DECISION = "decision"
"""The kind of the events that hold accounts."""
VERDICTS: tuple[str, ...] = get_args(Verdict)
OTHERS = ("skipped", "restarted", "replanned", "resumed", "unrecorded")
"""What takes the place of a verdict in an entry that is no decision."""

_WINDOW = Terms().window
_NUMBER = re.compile(r"\d[\d.e+-]*")
_FIELDS = frozenset(field.name for field in fields(Account))
_Told: TypeAlias = tuple[str, str, str | None, str, str]
"""Who, verdict, subject, change and why of an entry."""


@dataclass(frozen=True)
class Entry:
    """One line of the timeline.

    Attributes:
        batch: the batch after which it was decided, or with which it took effect; counts from 0,
            as the series of the record do.
        update: updates applied by then, `segment` how often the run had been rolled back; None
            where it is not recorded.
        who: the controller, "arbiter" or "safeguard"; "user", "schedule" or "run" for the rest.
        verdict: one of `VERDICTS`, or of `OTHERS`.
        subject: the hyperparameter, or what else it is about: "roll_back", "limit" …; None of a
            whole update.
        change: from what to what, in words.
        why: in words; `evidence` the numbers that triggered it.
        outcome: what the loss did: medians of the windows up to it and after it; None where a
            window is not full. The regime's own where it gave one.
        times: how often it was refused, or updates were skipped for this reason, in a row.
        account: of a decision.
    """

    batch: int
    update: int | None
    segment: int | None
    who: str
    verdict: str
    subject: str | None
    change: str
    why: str
    evidence: Mapping[str, float]
    outcome: Outcome | None
    times: int = 1
    account: Account | None = None

    @property
    def until(self) -> int:
        """The last batch that it is about: of updates in a row that were skipped, that of the last;
        else `batch`."""
        return self.batch + self.times - 1 if self.verdict == "skipped" else self.batch

    @property
    def moved(self) -> float:
        """The relative change of the loss, NaN where it is not known."""
        if self.outcome is None or not self.outcome.before:
            return math.nan
        return (self.outcome.after - self.outcome.before) / abs(self.outcome.before)


@dataclass(frozen=True)
class Summary:
    """How many decisions there were by verdict, what they took of the budget in octaves, how often
    the run was rolled back, and whether nothing of it was done (a dry run)."""

    verdicts: Mapping[str, int]
    octaves: float
    rollbacks: int
    dry: bool

    @property
    def decisions(self) -> int:
        """How many in all, each refusal counted."""
        return sum(self.verdicts.values())


def account_of(written: Mapping[str, Any]) -> Account:
    """The account that a decision's event holds: there "step" is the batch, and "update" what the
    account calls its step. Raises InputError for what is none."""
    found = {name: value for name, value in written.items() if name in _FIELDS}
    return Account.read({**found, "step": written.get("update")})


def timeline(record: RunRecord) -> list[Entry]:
    """Everything that happened, by batch.

    Raises InputError naming file and line where something cannot be read.
    """
    course = _Course(record)
    found: list[Entry] = []
    places: dict[tuple[int, int], int] = {}
    for event in record.events:
        try:
            if event.kind == DECISION and "number" in event.fields:
                account = account_of(event.fields)
                # It comes again with its outcome, or once more refused: it stays where it was.
                place = places.setdefault((account.number, account.at), len(found))
                if place == len(found):
                    found.append(course.decision(int(event.fields["step"]), account))
                else:
                    found[place] = course.decision(found[place].batch, account)
            elif event.kind == DECISION:
                found.append(course.foreign(event))
            elif event.kind in _TELLERS:
                found.append(course.other(event))
        except (KeyError, TypeError, ValueError) as error:
            why = error if isinstance(error, InputError) else f"no {event.kind} of ours ({error!r})"
            line = f"{record.directory / LOG_NAME}:{event.seq + 1}"
            raise InputError(f"{line}: {why}") from error
    return _folded(sorted(found, key=lambda entry: entry.batch))


def _folded(entries: list[Entry]) -> list[Entry]:
    """One entry for updates in a row that were skipped for the same reason, up to its numbers."""
    found: list[Entry] = []
    for entry in entries:
        last = found[-1] if found else None
        if (
            last is not None
            and last.verdict == entry.verdict == "skipped"
            and entry.batch == last.batch + last.times
            and _NUMBER.sub("", entry.why) == _NUMBER.sub("", last.why)
        ):
            first, newest = last.outcome, entry.outcome
            outcome = first and newest and Outcome(first.before, newest.after)
            found[-1] = replace(last, times=last.times + 1, outcome=outcome)
        else:
            found.append(entry)
    return found


def summary(entries: Iterable[Entry]) -> Summary:
    """What the decisions among these come to."""
    decided = [entry for entry in entries if entry.verdict in VERDICTS]
    counts = Counter[str]()
    for entry in decided:
        counts[entry.verdict] += entry.times
    accounts = [entry.account for entry in decided if entry.account is not None]
    done = [account for account in accounts if account.done is not None]
    return Summary(
        verdicts={name: counts[name] for name in VERDICTS},
        octaves=sum(
            _spent(account)
            for account in done
            if account.asked is not None and account.who != SAFEGUARD
        ),
        rollbacks=sum(not a.dry and (a.done or {})["kind"] == "roll_back" for a in done),
        dry=any(account.dry for account in accounts),
    )


def _spent(account: Account) -> float:
    act = account.act
    return cost(act) if isinstance(act, Scale | Grow | Restart) else 0.0


class _Course:
    """A run's series, as what happened is put beside them."""

    def __init__(self, record: RunRecord) -> None:
        self._steps = record.steps
        self._series = record.series
        loss = record.series.get("loss", np.zeros(0))
        # As a regime counts: a batch that was not learnt tells of the data alone.
        skipped = [event.fields["step"] for event in record.events if event.kind == "skipped"]
        rows = np.flatnonzero(np.isfinite(loss) & ~np.isin(record.steps[: loss.size], skipped))
        self._batches, self._losses = record.steps[rows], loss[rows]
        self._author = record.header.get("recipe", {}).get("contestant", "run")
        self._restarting = ""
        """Who decided to restart with the next update."""
        self._restarters: dict[int, str] = {}
        """Batch -> who decided so; the groups begin again together."""

    def decision(self, batch: int, account: Account) -> Entry:
        """A regime's decision after a batch."""
        act = account.done or account.asked or {}
        done = account.done is not None and not account.dry
        if done and act.get("kind") == "restart" and account.outcome is None:
            self._restarting = account.who
        return Entry(
            batch=batch,
            update=account.step,
            segment=account.segment,
            who=account.who,
            verdict=account.verdict,
            subject=account.hyperparameter or act.get("hyperparameter") or act.get("kind"),
            change=_change(account.before, account.after) or _words(act),
            why=account.reason,
            evidence=account.evidence,
            outcome=account.outcome or self._outcome(batch + 1),
            times=account.times,
            account=account,
        )

    def foreign(self, event: Event) -> Entry:
        """What another library's rule did, which writes no accounts."""
        fields = event.fields
        subject = fields.get("hyperparameter", fields.get("kind"))
        told = self._author, "accepted", subject, _words(fields), ""
        return self._entry(int(fields["step"]), int(fields["step"]), told)

    def other(self, event: Event) -> Entry:
        """What is no decision."""
        batch = int(event.fields["step"])
        told = _TELLERS[event.kind](event.fields)
        who = told[0]
        if event.kind == "restart":
            if self._restarting and batch not in self._restarters:
                self._restarters[batch], self._restarting = self._restarting, ""
            who = self._restarters.get(batch, who)
        skipped = event.kind == "skipped"
        return self._entry(batch, batch + skipped, (event.fields.get("who", who), *told[1:]))

    def _entry(self, batch: int, effect: int, told: _Told) -> Entry:
        who, verdict, subject, change, why = told
        update, segment = self._at("update", batch), self._at("segment", batch)
        outcome = self._outcome(effect)
        return Entry(batch, update, segment, who, verdict, subject, change, why, {}, outcome)

    def _at(self, name: str, batch: int) -> int | None:
        if name not in self._series or not self._steps.size:
            return None
        row = min(int(np.searchsorted(self._steps, batch)), self._steps.size - 1)
        value = self._series[name][row]
        return int(value) if math.isfinite(value) else None

    def _outcome(self, effect: int) -> Outcome | None:
        """What the loss did before batch `effect`, and from it on."""
        at = int(np.searchsorted(self._batches, effect))
        before, after = self._losses[max(0, at - _WINDOW) : at], self._losses[at : at + _WINDOW]
        if min(before.size, after.size) < _WINDOW:
            return None
        return Outcome(float(np.median(before)), float(np.median(after)))


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.4g} → {after:.4g}"


def _words(act: Mapping[str, Any]) -> str:
    """What an act does, where it does not lead from one value to another."""
    match act.get("kind"):
        case "scale" | "grow":
            return f"× {float(act['factor']):.4g}"
        case "move":
            return f"→ {float(act['to']):.4g} over {act['over']} updates"
        case "limit":
            norm = float(act["norm"])
            return f"norms up to {norm:.4g}" if math.isfinite(norm) else "lifted"
        case "roll_back":
            said = f"{act['before']} steps back" if act.get("before") else ""
            return f"{said}, schedules on time" if said and act.get("on_time") else said
        case "wait":
            return "updates are left out" if act["on"] else "updates go on"
        case "leave_out":
            return f"batch {act['position']}"
        case "ease":
            return f"{act['who']}'s part back to 1" if act.get("who") else "back to the plan"
        case _:
            return ""


def _schedule(written: Any) -> str:
    """A schedule as the record writes it, in one line."""
    if isinstance(written, Mapping):
        given = {**cast("Mapping[str, Any]", written)}
        name = str(given.pop("schedule", "")).partition("@")[0]
        inner = (f"{key}={_schedule(value)}" for key, value in given.items() if value is not None)
        return f"{name}({', '.join(inner)})"
    if isinstance(written, list):
        return f"[{', '.join(map(_schedule, cast('list[Any]', written)))}]"
    return f"{written:g}" if isinstance(written, float) else str(written)


def _skipped(fields: JsonObject) -> _Told:
    return "run", "skipped", None, "", fields["reason"] or ""


def _restarted(fields: JsonObject) -> _Told:
    change = _change(fields["before"], fields["after"])
    why = f"cycle {fields['cycle']} of group {fields['group']}; the state is {fields['state']}"
    return "plan", "restarted", fields["hyperparameter"], change, why


def _replanned(fields: JsonObject) -> _Told:
    old = _schedule(fields["old"])
    new = _schedule(fields["new"]).replace(old, "it")
    why = f"{fields['operation']}, group {fields['group']}: {old} becomes {new}"
    return "user", "replanned", fields["hyperparameter"], "", why


def _resumed(fields: JsonObject) -> _Told:
    notes = [*fields.get("passed_over", []), *fields.get("notes", [])]
    saved = fields.get("checkpoint")
    why = "; ".join([f"from {saved}" if saved else "from the beginning", *notes])
    return "run", "resumed", None, "", why


def _unrecorded(fields: JsonObject) -> _Told:
    why = f"{fields['updates']} updates were made by optimizer.step itself"
    return "user", "unrecorded", None, "", why


_TELLERS: Mapping[str, Callable[[JsonObject], _Told]] = {
    "skipped": _skipped,
    "restart": _restarted,
    "replan": _replanned,
    RESUME: _resumed,
    "unrecorded": _unrecorded,
}
