"""The Controller shape: measurements in, decisions out.

A controller touches nothing. It reads the signals that it needs and returns decisions; the arbiter
(`rheostat.regimes.arbiter`) is the only one that changes anything, and keeps an account of each.
Every decision is taken after a step, from what was measured up to it, and takes effect with the
next: so it can be replayed, and no accelerator has to wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar, cast

from rheostat.core.errors import InputError, nearest
from rheostat.core.signal import Memory


@dataclass(frozen=True, kw_only=True)
class Request:
    """What every decision has: `reason` in words, with the numbers that triggered it in
    `evidence`, and the param group that it is about, None for all of them."""

    kind: ClassVar[str]

    reason: str
    evidence: Mapping[str, float] = field(default_factory=dict[str, float])
    group: int | None = None

    def written(self) -> dict[str, Any]:
        """As plain values that strict JSON holds, for the record; `read` takes it back."""
        return {"kind": self.kind, **spelled(asdict(self))}


def spelled(values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with the numbers that JSON lacks as "nan", "inf" and "-inf", inner ones too."""
    return {
        key: spelled(cast("Mapping[str, Any]", value))
        if isinstance(value, Mapping)
        else str(value)
        if isinstance(value, float) and not math.isfinite(value)
        else value
        for key, value in values.items()
    }


@dataclass(frozen=True, kw_only=True)
class Scale(Request):
    """Multiply the regime's factor on a hyperparameter; see `scaled` for what it does to a value.

    `trial` asks that it be measured against the forecast without it, and undone if it did not
    help; the arbiter makes a trial of whatever is large, asked or not.
    """

    kind = "scale"
    hyperparameter: str
    factor: float
    trial: bool = False


@dataclass(frozen=True, kw_only=True)
class Move(Request):
    """Bring a hyperparameter that is a share in [0, 1] (the weight of a blend) to a value, in
    equal steps over so many updates."""

    kind = "move"
    hyperparameter: str
    to: float
    over: int = 1


@dataclass(frozen=True, kw_only=True)
class Limit(Request):
    """From now on, skip updates whose gradient's global norm is above this; infinity lifts it."""

    kind = "limit"
    norm: float


@dataclass(frozen=True, kw_only=True)
class Restart(Request):
    """Begin the learning rate's schedule again; `state` as in `Plan.restart`."""

    kind = "restart"
    state: str | None = None


@dataclass(frozen=True, kw_only=True)
class RollBack(Request):
    """Put back the newest known-good weights, optimizer and schedules that are at least `before`
    updates old, or those of the start of the run; the position in the data stays.

    `on_time`: what is left of the schedules goes by faster, so that they end as many updates from
    now as they would have.
    """

    kind = "roll_back"
    before: int = 0
    start: bool = False
    on_time: bool = False


@dataclass(frozen=True, kw_only=True)
class Grow(Request):
    """Multiply the batch: by accumulation where the optimizer does it, or as the loop reads it."""

    kind = "grow"
    factor: float


@dataclass(frozen=True, kw_only=True)
class Anchor(Request):
    """Take the present weights as the reference that they are pulled towards from now on."""

    kind = "anchor"


@dataclass(frozen=True, kw_only=True)
class Stop(Request):
    """Training should end; `run.stop_reason` says so, and whoever owns the loop decides."""

    kind = "stop"


Decision = Scale | Move | Limit | Restart | RollBack | Grow | Anchor | Stop

_NUMBERS = ("factor", "to", "norm")
_COUNTS = (("over", 1), ("before", 0))
"""Whole numbers, and the least that each may be."""
_SWITCHES = ("trial", "start", "on_time")
_KINDS: Mapping[str, type[Decision]] = {
    one.kind: one for one in (Scale, Move, Limit, Restart, RollBack, Grow, Anchor, Stop)
}


def read(written: Mapping[str, Any]) -> Decision:
    """The decision that `written()` gave. Raises InputError for what is none."""
    fields = dict(written)
    kind = fields.pop("kind", None)
    if kind not in _KINDS:
        raise InputError(f"a decision of the kind {kind!r}; {nearest(str(kind), _KINDS)}")
    try:
        fields.update({name: float(fields[name]) for name in _NUMBERS if name in fields})
        evidence = {name: float(value) for name, value in fields.pop("evidence", {}).items()}
        return _KINDS[kind](**fields, evidence=evidence)
    except (TypeError, ValueError) as error:
        raise InputError(f"a decision of the kind {kind!r}: {error}") from None


def name_of(hyperparameter: str, group: int | None) -> str:
    """What a hyperparameter of all param groups, or of one, is called: "lr", "lr[1]"."""
    return hyperparameter if group is None else f"{hyperparameter}[{group}]"


_COMPLEMENTS = ("momentum", "betas")


def scaled(hyperparameter: str, value: float, factor: float) -> float:
    """The value of a hyperparameter under a factor.

    value · factor; for a momentum or a beta 1 − (1 − value) · factor, and 0 where that is negative,
    since what is meant is how fast it forgets. "momentum" stands for a rule's own `momentum`, or
    for the first of its `betas`.
    """
    if factor == 1.0:
        return value  # to the bit
    if hyperparameter in _COMPLEMENTS:
        return max(0.0, 1.0 - (1.0 - value) * factor)
    return value * factor


@dataclass(frozen=True)
class Now:
    """What a controller sees after a step: `now["loss_slope"]` is a signal's latest value, NaN
    where there is none."""

    step: int
    """Updates applied so far. A roll back takes it back too: count what you see, not steps."""
    applied: bool
    loss: float
    signals: Mapping[str, float] = field(default_factory=dict[str, float])
    fresh: frozenset[str] = frozenset()
    """The signals that were measured in this very step."""
    factors: Mapping[str, float] = field(default_factory=dict[str, float])
    """The regime's present factor on each hyperparameter; 1 where it leaves the schedule alone."""
    shares: Mapping[str, float] = field(default_factory=dict[str, float])
    """This controller's own part in each factor: what it may take back. The parts multiply. Those
    in one param group are called "lr[1]"."""
    backed_off: frozenset[str] = frozenset()
    """The hyperparameters that the safeguard holds lower, for a while after a roll back."""
    planned: Mapping[str, float] = field(default_factory=dict[str, float])
    """What the schedule says of each hyperparameter, for the coming update: of any that is there,
    whoever acts on it. Of several param groups that of the largest in which it is not 0."""
    reason: str | None = None
    """Why the step was not applied."""

    def __getitem__(self, signal: str) -> float:
        return self.signals.get(signal, math.nan)

    def share(self, hyperparameter: str, group: int | None = None) -> float:
        """This controller's own part in the factor of all param groups, or what it has asked for in
        one besides; 1 where it has none."""
        return self.shares.get(name_of(hyperparameter, group), 1.0)

    def evidence(self, *signals: str) -> dict[str, float]:
        """These signals with their values, for a decision."""
        return {name: self[name] for name in signals}


Decide = Callable[[Now, Memory], Decision | Sequence[Decision] | None]


@dataclass(frozen=True)
class Controller:
    """A small rule that watches signals and asks for changes.

    Attributes:
        decide: what it sees now and its memory, which it may write -> decisions.
        needs: the signals that it reads; it is asked only where at least one of them is fresh and
            none is missing.
        acts_on: the hyperparameters that it may scale or move.
        memory: what it starts from: plain values, saved with the run.
        priority: where two want opposite things of one hyperparameter in one step, the higher one
            is heard. Safety is 100, stability 50, progress 10.
        keeps_start: whether it may ask for the start of the run, so that its state has to be kept.
        name, arguments: who made it, as the registry stamps it.
    """

    decide: Decide
    needs: tuple[str, ...] = ()
    acts_on: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict[str, Any])
    priority: int = 10
    keeps_start: bool = False
    name: str = "a controller"
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Raises InputError for a name where a tuple of names is meant, a memory that is no
        mapping, and a priority that is no number."""
        for name in ("needs", "acts_on"):
            if isinstance(getattr(self, name), str):
                said = f"{name}={getattr(self, name)!r}"
                raise InputError(f"{self.name}: {said}: should be a tuple; put a comma behind it")
        if not isinstance(cast("object", self.memory), Mapping):
            raise InputError(f"{self.name}: memory={self.memory!r}: should be a mapping")
        if not isinstance(cast("object", self.priority), int):
            raise InputError(f"{self.name}: priority={self.priority!r}: should be a whole number")

    def stamped(
        self, component: str, arguments: Mapping[str, Any], numbers: set[str]
    ) -> Controller:
        """The controller, marked with the component that made it."""
        del numbers
        return replace(self, name=component, arguments=arguments)

    def hears(self, now: Now) -> bool:
        """Whether nothing that it needs is missing."""
        return not any(math.isnan(now[signal]) for signal in self.needs)

    def due(self, now: Now) -> bool:
        """Whether it is to be asked: something that it needs is fresh, or it needs nothing."""
        fresh = not self.needs or any(signal in now.fresh for signal in self.needs)
        return fresh and self.hears(now)

    def asked(self, now: Now, memory: Memory) -> tuple[Decision, ...]:
        """What it decides, as a tuple.

        Raises InputError where it wants to change what it has not declared, returns no decision, or
        one with something else in the place of a number or of words.
        """
        try:
            found = self.decide(now, memory)
        except Exception as error:
            error.add_note(f"raised by the controller {self.name} after update {now.step}")
            raise
        if found is None:
            return ()
        listed = isinstance(found, list | tuple)
        many = tuple(cast("Sequence[Decision]", found)) if listed else (cast("Decision", found),)
        for one in many:
            if not isinstance(cast("object", one), Request):
                raise InputError(f"{self.name} returned {one!r}, which is no decision")
            if isinstance(one, Scale | Move) and one.hyperparameter not in self.acts_on:
                raise InputError(
                    f"{self.name} wants to change {one.hyperparameter!r}; it declares "
                    f"acts_on={self.acts_on}"
                )
            if isinstance(one, RollBack) and one.start and not self.keeps_start:
                raise InputError(
                    f"{self.name} wants to go back to the start; it should declare keeps_start=True"
                )
        return tuple([self._plain(one) for one in many])

    def _plain(self, one: Decision) -> Decision:
        """The decision with plain numbers, which a record can hold: those of numpy and torch are
        taken for what they say."""
        try:
            numbers = {n: _number(n, getattr(one, n)) for n in _NUMBERS if hasattr(one, n)}
            counts = {n: _count(n, getattr(one, n), of) for n, of in _COUNTS if hasattr(one, n)}
            if not isinstance(cast("object", one.evidence), Mapping):
                raise ValueError(f"evidence={one.evidence!r} should map names to numbers")
            evidence = {str(name): _number(name, value) for name, value in one.evidence.items()}
            yes = {n: bool(getattr(one, n)) for n in _SWITCHES if hasattr(one, n)}
            group = None if one.group is None else _count("group", one.group, 0)
        except (ValueError, RuntimeError) as wrong:
            raise InputError(f"{self.name} returned {one!r}: {wrong}") from None
        if not isinstance(cast("object", one.reason), str):
            raise InputError(f"{self.name} returned {one!r}: its reason should be words")
        return replace(one, evidence=evidence, group=group, **numbers, **counts, **yes)


def _number(name: str, value: Any) -> float:
    """A number as Python's own. Raises ValueError for what is none."""
    try:
        if not isinstance(value, str):
            return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # torch's for several elements
        pass
    raise ValueError(f"{name}={value!r} should be a number")


def _count(name: str, value: Any, least: int) -> int:
    """A whole number as Python's own. Raises ValueError for what is none, or too small."""
    number = _number(name, value)
    if not number.is_integer() or number < least:
        raise ValueError(f"{name}={value!r} should be a whole number from {least} on")
    return int(number)
