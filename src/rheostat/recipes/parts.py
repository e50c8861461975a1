"""What a recipe consists of once it is read: rules made of pieces, the lines of a policy.

Plain data all of it: components by reference, schedules as mappings. `data()` gives the canonical
form of each part, and `essence()` what of that says something: the arguments that are not at
their default. `path` is where the part stands in the document, and is no part of its identity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, TypeAlias, cast

from rheostat.core.hyper import Argument, NonNegative, arguments_of
from rheostat.core.registry import component
from rheostat.core.schedule import Unit
from rheostat.recipes.document import KeyPath
from rheostat.regimes.grants import Terms
from rheostat.regimes.safeguard import Care

Data: TypeAlias = dict[str, Any]

LR = Argument("lr", NonNegative, 1e-3)
"""The step size of a chain that has none of its own."""


@dataclass(frozen=True)
class Piece:
    """A component and all its arguments, as data; `named` is the prefix of its names in a chain."""

    kind: Literal["optimizer", "transform", "controller"]
    ref: str
    values: Mapping[str, Any] = field(hash=False)
    named: str = ""
    path: KeyPath = field(default=(), compare=False)

    def data(self) -> Data:
        """`{transform: trace@1, momentum: 0.9, …}`."""
        return {self.kind: self.ref, **copied(self.values), **self._named}

    def essence(self) -> Data:
        """The same without what is at its default."""
        return {self.kind: self.ref, **essence(self.kind, self.ref, self.values), **self._named}

    @property
    def _named(self) -> Data:
        return {"named": self.named} if self.named else {}


@dataclass(frozen=True)
class Rule:
    """One optimizer, or a chain of transforms, and what comes before it.

    `lr` is that of a chain, where no piece of it has a step size.
    """

    pieces: tuple[Piece, ...]
    before: tuple[Piece, ...] = ()
    lr: Any = field(default=None, hash=False)
    path: KeyPath = field(default=(), compare=False)

    @property
    def optimizer(self) -> Piece | None:
        """The optimizer, where the rule is one by name."""
        return self.pieces[0] if self.pieces[0].kind == "optimizer" else None

    def data(self) -> Data:
        """`{optimizer: adamw@1, lr: …}` or `{chain: […], lr: …}`."""
        return self._written(
            [piece.data() for piece in self.before], [p.data() for p in self.pieces]
        )

    def essence(self) -> Data:
        """The same without what is at its default."""
        return self._written(
            [piece.essence() for piece in self.before], [p.essence() for p in self.pieces]
        )

    def _written(self, before: list[Data], pieces: list[Data]) -> Data:
        made: Data = {"before": before} if before else {}
        if self.optimizer:
            return {**made, **pieces[0]}
        return {**made, "chain": pieces, **({} if self.lr is None else {"lr": copied(self.lr)})}


@dataclass(frozen=True)
class Line:
    """One line of a policy: which parameters, and their rule; see `rheostat.optimizers.policy`."""

    match: Mapping[str, Any] = field(hash=False)
    rule: Rule
    lr_factor: float = 1.0
    path: KeyPath = field(default=(), compare=False)

    def data(self) -> Data:
        """`{match: {…}, optimizer: …, …}`."""
        return {"match": copied(self.match), **self.rule.data(), "lr_factor": self.lr_factor}

    def essence(self) -> Data:
        """The same without what is at its default."""
        match = {key: value for key, value in self.match.items() if value}
        factor = {} if self.lr_factor == 1.0 else {"lr_factor": self.lr_factor}
        return {"match": match, **self.rule.essence(), **factor}


def copied(value: Any) -> Any:
    """A copy of plain data."""
    if isinstance(value, Mapping):
        return {key: copied(part) for key, part in cast("Data", value).items()}
    if isinstance(value, list):
        return [copied(part) for part in cast("list[Any]", value)]
    return value


def essence(kind: str, ref: str, values: Mapping[str, Any]) -> Data:
    """The arguments of a component that are not at their default, in the order of their names."""
    known = arguments_of(component(ref, kind).factory)
    return {
        name: _essence_of_value(values[name])
        for name in sorted(values)
        if name not in known
        or known[name].required
        or values[name] != as_data(known[name].check(known[name].default)[0])
    }


def _essence_of_value(value: Any) -> Any:
    """The value with the defaults of the schedules and transforms in it left out."""
    if isinstance(value, list):
        return [_essence_of_value(part) for part in cast("list[Any]", value)]
    for kind in ("schedule", "transform"):
        if isinstance(value, dict) and kind in value:
            given = cast("Data", value)
            name = {"named": given["named"]} if "named" in given else {}
            inner = without(given, (kind, "named"))
            ref: str = given[kind]
            return {kind: ref, **essence(kind, ref, inner), **name}
    return copied(value)


def as_data(value: Any) -> Any:
    """A checked value as a file would hold it: tuples are lists there."""
    if isinstance(value, tuple | list):
        return [as_data(part) for part in cast("list[Any]", value)]
    if isinstance(value, Mapping):
        return {key: as_data(part) for key, part in cast("Data", value).items()}
    return value


def without(values: Mapping[str, Any], keys: Collection[str]) -> Data:
    """The mapping without these keys."""
    return {key: value for key, value in values.items() if key not in keys}


def standard(of: type) -> Data:
    """The fields of a dataclass at their defaults, as data."""
    return {
        name: standard(cast("type", argument.annotation))
        if is_dataclass(argument.annotation)
        else as_data(argument.default)
        for name, argument in arguments_of(of).items()
    }


def changed(values: Mapping[str, Any], usual: Mapping[str, Any]) -> Data:
    """What of some fields is not as usual."""
    found: Data = {}
    for name, value in values.items():
        if value != usual[name]:
            inner = isinstance(usual[name], dict) and usual[name]
            found[name] = changed(value, usual[name]) if inner else copied(value)
    return found


@dataclass(frozen=True)
class RegimePart:
    """The controllers of a regime and the terms of its arbiter; or the run whose decisions are done
    again (`replay`, a directory or an id), and then nothing else."""

    controllers: tuple[Piece, ...]
    terms: Mapping[str, Any] = field(default_factory=lambda: standard(Terms), hash=False)
    dry_run: bool = False
    replay: str | None = None

    def data(self) -> Data:
        """`{controllers: […], terms: {…}, dry_run: false}`, or `{replay: …}`."""
        if self.replay is not None:
            return {"replay": self.replay}
        controllers = [piece.data() for piece in self.controllers]
        return {"controllers": controllers, "terms": copied(self.terms), "dry_run": self.dry_run}

    def essence(self) -> Data:
        """The same without what is at its default."""
        if self.replay is not None:
            return {"replay": self.replay}
        controllers = [piece.essence() for piece in self.controllers]
        terms = changed(self.terms, standard(Terms))
        return {
            **({"controllers": controllers} if controllers else {}),
            **({"terms": terms} if terms else {}),
            **({"dry_run": True} if self.dry_run else {}),
        }


@dataclass(frozen=True)
class Parts:
    """A whole recipe: what comes before every rule, the lines of the policy, the rule of the rest.

    `settings` are those of the loop (none, where another library's optimizer has a loop of its
    own), `horizon` is a number of `unit` (None: not known yet), and `silence` holds the codes of
    checks that are not to be told of. `regime` and `safeguards` (the fields of `Care`) are about
    the run, not the optimizer.
    """

    rule: Rule
    lines: tuple[Line, ...]
    before: tuple[Piece, ...]
    settings: Mapping[str, Any] = field(hash=False)
    horizon: int | None
    unit: Unit
    silence: tuple[str, ...]
    regime: RegimePart | None = None
    safeguards: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def steps(self) -> int | None:
        """The horizon in updates; None where it is not known, or counts something else."""
        return self.end("updates")

    def end(self, unit: Unit) -> int | None:
        """The horizon, if it is in this unit."""
        return self.horizon if unit == self.unit else None

    @property
    def _horizon(self) -> Data:
        if self.horizon is None:
            return {}
        if self.unit == "updates":
            return {"steps": self.horizon}
        return {"horizon": {self.unit: self.horizon}}

    def data(self) -> Data:
        """The canonical form, but for the number of the format."""
        return {
            **({"before": [piece.data() for piece in self.before]} if self.before else {}),
            **({"policy": [line.data() for line in self.lines]} if self.lines else {}),
            **self.rule.data(),
            **self.settings,
            **({"regime": self.regime.data()} if self.regime else {}),
            **({} if self.safeguards is None else {"safeguards": copied(self.safeguards)}),
            **({"silence": list(self.silence)} if self.silence else {}),
            **self._horizon,
        }

    def essence(self, defaults: Mapping[str, Any]) -> Data:
        """What of it says something about the run, given the defaults of the settings."""
        said = {k: v for k, v in self.settings.items() if v != defaults[k]}
        return {
            **({"before": [piece.essence() for piece in self.before]} if self.before else {}),
            **({"policy": [line.essence() for line in self.lines]} if self.lines else {}),
            **self.rule.essence(),
            **said,
            **self._watching,
            **self._horizon,
        }

    @property
    def _watching(self) -> Data:
        """What of the regime and the safeguards says something; a regime of which nothing does is
        none."""
        regime = self.regime.essence() if self.regime else {}
        made: Data = {"regime": regime} if regime else {}
        if self.safeguards is not None:
            made["safeguards"] = changed(self.safeguards, standard(Care))
        return made
