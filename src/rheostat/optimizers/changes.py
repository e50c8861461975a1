"""Structural changes of a saved state: each an operation that somebody asked for, none by silence.

`opt.load_state_dict` takes what fits and nothing else. Where a model or a rule has changed since,
say how, and `load_changed` (or `rs.attach(…, resume="must", changes=[…])`) takes the rest::

    load_changed(opt, saved, [rename({"encoder.": "backbone."}), drop("old_head.*"), add("head.*")])

A tensor is never reshaped. Patterns are the shell's, over parameter names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal, TypeVar, cast, get_args

from torch import Tensor

from rheostat.core.errors import InputError, closest, nearest
from rheostat.optimizers.fitting import Fitting
from rheostat.optimizers.loop import Optimizer

Kind = Literal[
    "rename", "drop", "add", "replace_rule", "insert", "remove", "take_here", "take_saved"
]
Value = TypeVar("Value")


@dataclass(frozen=True)
class Change:
    """One operation; the functions of this module make them, and say what they do.

    `names` are what it is about; `to` are the new names of "rename", one for each, and `keep` the
    buffers that "replace_rule" keeps.
    """

    kind: Kind
    names: tuple[str, ...]
    to: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError(f"{self.kind}: it is about nothing; name something")

    def __str__(self) -> str:
        new = [f" → {name}" for name in self.to] or [""] * len(self.names)
        shown = [f"{old}{then}" for old, then in zip(self.names, new, strict=True)]
        return f"{self.kind}({', '.join(shown)})"

    def data(self) -> dict[str, Any]:
        """It as JSON, for the record."""
        names = dict(zip(self.names, self.to, strict=True)) if self.to else list(self.names)
        return {self.kind: names, **({"keep": list(self.keep)} if self.keep else {})}


def rename(names: Mapping[str, str]) -> Change:
    """Parameters that were saved under other names: old to new. A name that ends in a dot stands
    for all that begin with it."""
    return Change("rename", tuple(names), tuple(names.values()))


def drop(*patterns: str) -> Change:
    """Parameters that were saved and are no more; by their saved names."""
    return Change("drop", patterns)


def add(*patterns: str) -> Change:
    """Parameters that are new: they begin with their first update."""
    return Change("add", patterns)


def replace_rule(*patterns: str, keep: Sequence[str] = ()) -> Change:
    """Parameters that have another rule than they were saved under: they begin with their first
    update under it. Buffers of the names in `keep` go on ("step" is the count of updates)."""
    return Change("replace_rule", patterns, keep=tuple(keep))


def insert(*pieces: str) -> Change:
    """Transforms that came into the chains, by name: their buffers and hyperparameters begin, and
    all others go on. ("accumulated" and "master", of `accumulate` and `precision`, too.)"""
    return Change("insert", pieces)


def remove(*pieces: str) -> Change:
    """Transforms that went out of the chains, by name, with their buffers and hyperparameters."""
    return Change("remove", pieces)


def take_here(*hyperparameters: str) -> Change:
    """Hyperparameters, and their schedules, as they are here; the schedule goes on at the saved
    count."""
    return Change("take_here", hyperparameters)


def take_saved(*hyperparameters: str) -> Change:
    """Hyperparameters as they were saved, where they are other numbers here."""
    return Change("take_saved", hyperparameters)


def from_data(data: Mapping[str, Any]) -> Change:
    """What `Change.data` gave. Raises InputError for anything else."""
    rest = {key: value for key, value in data.items() if key != "keep"}
    if len(rest) != 1:
        raise InputError(f"a change is one operation, not {sorted(rest)}")
    ((kind, names),) = rest.items()
    if kind not in get_args(Kind):
        raise InputError(f"{kind!r} is no change; {nearest(kind, get_args(Kind))}")
    to = tuple(names.values()) if kind == "rename" else ()
    return Change(cast("Kind", kind), tuple(names), to, tuple(data.get("keep", ())))


def load_changed(optimizer: Optimizer, saved: Mapping[str, Any], changes: Sequence[Change]) -> None:
    """Load a state dict into an optimizer that differs from the saved one as the changes say.

    Load the model's weights first: a buffer that begins as a copy of the parameter copies it here.

    Raises:
        InputError: a difference that no change explains, all of them listed with the nearest name;
            a change that finds nothing to do. Nothing is changed then.
    """
    check_used(changes, saved_names(saved), optimizer)
    optimizer.load_state_dict(changed_state(optimizer, saved, changes))


def changed_state(
    optimizer: Optimizer,
    saved: Mapping[str, Any],
    changes: Sequence[Change],
    weights: Mapping[str, Tensor] | None = None,
) -> dict[str, Any]:
    """The state dict that `optimizer.load_state_dict` takes; see `load_changed`. Buffers that begin
    as a copy of a parameter copy it from `weights`, where it is there."""
    named: dict[Kind, list[str]] = {kind: [] for kind in get_args(Kind)}
    for change in changes:
        named[change.kind] += change.names
    return Fitting(
        optimizer,
        relabelled_state(saved, changes),
        added=named["add"],
        replaced={n: c.keep for c in changes if c.kind == "replace_rule" for n in c.names},
        inserted=frozenset(named["insert"]),
        removed=frozenset(named["remove"]),
        here=named["take_here"],
        there=named["take_saved"],
        weights=weights or {},
    ).state()


def relabelled_state(saved: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """A state dict with its parameters renamed, and without those that are dropped."""
    groups: list[dict[str, Any]] = []
    left: set[Any] = set()
    for group in saved["param_groups"]:
        numbers = dict(zip(group["param_names"], group["params"], strict=True))
        renamed = relabelled(numbers, changes)
        left |= set(numbers.values()) - set(renamed.values())
        names = {"param_names": list(renamed), "params": list(renamed.values())}
        received = relabelled(dict.fromkeys(group.get("received", ())), changes)
        groups.append({**group, **names, "received": tuple(received)})
    state = {number: entry for number, entry in saved["state"].items() if number not in left}
    return {"state": state, "param_groups": groups}


def relabelled(
    named: Mapping[str, Value], changes: Sequence[Change], *, modules: bool = False
) -> dict[str, Value]:
    """What is kept by parameter name, renamed and without what is dropped, in the same order.

    `modules` says that the names are those of modules, which "encoder." renames too. Raises
    InputError where two get one name.
    """
    found: dict[str, Value] = {}
    for old, value in named.items():
        if any(change.kind == "drop" and _matches(old, change.names) for change in changes):
            continue
        name = new_name(f"{old}." if modules else old, changes)
        name = name.removesuffix(".") if modules else name
        if name in found:
            raise InputError(f"rename: two parameters would be named {name}")
        found[name] = value
    return found


def new_name(name: str, changes: Sequence[Change]) -> str:
    """A parameter's name after every renaming, in order."""
    for change in changes:
        if change.kind == "rename":
            for old, new in zip(change.names, change.to, strict=True):
                if name == old:
                    name = new
                    break
                if old.endswith(".") and name.startswith(old):
                    name = new + name.removeprefix(old)
                    break
    return name


def saved_names(saved: Mapping[str, Any]) -> list[str]:
    """The names of the parameters in a state dict.

    Raises:
        InputError: it has none.
    """
    if any("param_names" not in group for group in saved["param_groups"]):
        raise InputError(
            "the saved state has no parameter names, so nothing can be changed by name"
        )
    return [name for group in saved["param_groups"] for name in group["param_names"]]


def check_used(
    changes: Sequence[Change], saved: Iterable[str], optimizer: Optimizer | None
) -> None:
    """Refuse a change that finds nothing to do: it was misspelt, or made already.

    `saved` are the names that were saved, of parameters and whatever else; `optimizer` None knows
    only these. Raises InputError.
    """
    names = list(saved)
    here: list[str] = []
    if optimizer is not None:
        here = [name for group in optimizer.param_groups for name in group["param_names"]]
    for change in changes:
        known = {"rename": names, "drop": names, "add": here, "replace_rule": here}.get(change.kind)
        if known is None:
            continue  # about rules and numbers, which `Fitting` knows
        for wanted in change.names:
            if not any(fnmatchcase(n, wanted) or _within(n, wanted) for n in known):
                near = closest(wanted, known)
                hint = f"; the nearest is {near}" if near else ""
                raise InputError(f"{change}: no parameter is named {wanted}{hint}")
        names = [new_name(name, [change]) for name in names]


def _within(name: str, prefix: str) -> bool:
    return prefix.endswith(".") and name.startswith(prefix)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
