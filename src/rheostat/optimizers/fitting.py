"""A saved state fitted to an optimizer that differs from the saved one, where that was allowed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError, closest, nearest
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.scheduled import START, at_counts, base_key, log_key
from rheostat.optimizers.state import ALGORITHM, LABELS, SHARED, is_label, pieces_in

OWN = ("accumulated", "master")
"""Buffers of the loop, which belong to no piece."""

_APART = ("plan", "mode", "received", "renewed", "skipped", "observed")
"""Group keys that may differ between groups whose parameters come together."""
_PROGRESS = (*START, "uncounted", "phase", "evaluating")
"""Group keys that say how far the optimizer is: the saved ones go on."""


@dataclass
class Fitting:
    """What was allowed: `added` are patterns of new parameters, `replaced` of those with another
    rule, with the buffers that outlive the old one; `inserted` and `removed` are names of pieces;
    `here` and `there` are patterns of hyperparameters, by whose number counts. `weights` are what
    buffers that begin as a copy of a parameter copy; those that are not there copy the parameter.
    """

    optimizer: Optimizer
    saved: Mapping[str, Any]
    added: Sequence[str]
    replaced: Mapping[str, tuple[str, ...]]
    inserted: frozenset[str]
    removed: frozenset[str]
    here: Sequence[str]
    there: Sequence[str]
    weights: Mapping[str, Tensor]
    _problems: list[str] = field(default_factory=list[str])
    _used: set[str] = field(default_factory=set[str])

    def state(self) -> dict[str, Any]:
        """The state dict that the optimizer takes.

        Raises:
            InputError: every difference that was not allowed.
        """
        groups = self.saved["param_groups"]
        self._group_of = {name: group for group in groups for name in group["param_names"]}
        self._number_of = {
            name: number
            for group in groups
            for name, number in zip(group["param_names"], group["params"], strict=True)
        }
        fitted = self.optimizer.state_dict()
        self._compare_names({n: None for g in fitted["param_groups"] for n in g["param_names"]})
        if any(group["evaluating"] for group in groups):
            self._problems.append("it was saved while it showed its evaluation view")
        for index, group in enumerate(fitted["param_groups"]):
            params = self.optimizer.param_groups[index]["params"]
            for name, number, param in zip(
                group["param_names"], group["params"], params, strict=True
            ):
                entry = self._entry(index, name, param)
                if entry is not None:
                    fitted["state"][number] = entry
            group.update(self._numbers(index, group))
        for name in sorted((self.inserted | self.removed) - self._used):
            self._problems.append(f"{name}: no rule differs by it")
        rules = [self.optimizer.rule(i) for i in range(len(self.optimizer.param_groups))]
        numbers = [name for rule in rules for name in rule.hyperparameters]
        for pattern in (*self.here, *self.there):
            if not any(fnmatchcase(name, pattern) for name in numbers):
                self._problems.append(
                    f"no hyperparameter is {pattern}; {nearest(pattern, numbers)}"
                )
        if self._problems:
            told = "; ".join(dict.fromkeys(self._problems))
            raise InputError(f"the saved state differs in more than was said: {told}")
        return fitted

    def _compare_names(self, names: Mapping[str, Any]) -> None:
        for name in self._group_of:
            if name not in names:
                self._unmatched(name, "was saved, and is not here: drop it or rename it", names)
        for name in names:
            if name not in self._group_of and not _matches(name, self.added):
                self._unmatched(name, "was not saved: add it or rename one", self._group_of)
            elif name in self._group_of and _matches(name, self.added):
                self._problems.append(f"{name} is no new parameter: it was saved")

    def _unmatched(self, name: str, said: str, others: Iterable[str]) -> None:
        near = closest(name, others)
        self._problems.append(f"{name} {said}" + (f" (nearest: {near})" if near else ""))

    def _kept(self, name: str) -> tuple[str, ...] | None:
        """The buffers that a parameter keeps under another rule; None where it has the same."""
        found = [keep for pattern, keep in self.replaced.items() if fnmatchcase(name, pattern)]
        return found[0] if found else None

    # -- buffers --------------------------------------------------------------------------------

    def _entry(self, index: int, name: str, param: Tensor) -> dict[str, Tensor] | None:
        """The state of a parameter; None where it has none, being frozen."""
        saved = self.saved["state"].get(self._number_of.get(name), {})
        if not saved and not param.requires_grad:
            return None
        keep = self._kept(name)
        same = keep is None and name in self._group_of
        if same:
            self._compare_rules(index, name)
            if not saved:
                self._problems.append(f"no state was saved for {name}: add it")
        wanted = self.optimizer.buffers_of(param, index)
        found = {"step": torch.zeros((), dtype=torch.float32)}
        for buffer, declared in {"step": None, **wanted}.items():
            if buffer in saved and (same or (keep is not None and buffer in keep)):
                found[buffer] = saved[buffer]
            elif declared is not None:
                found[buffer] = declared.make(self.weights.get(name, param))
                if same and buffer in OWN:
                    self._own(name, buffer, self.inserted, "insert")
        for buffer in saved:
            if same and buffer not in found and buffer in OWN:
                self._own(name, buffer, self.removed, "remove")
        for buffer in keep or ():
            if buffer not in saved or buffer not in found:
                self._problems.append(
                    f"{name}: {buffer} cannot be kept, for not both rules have it"
                )
        return found

    def _own(self, name: str, buffer: str, allowed: frozenset[str], operation: str) -> None:
        self._used.add(buffer)
        if buffer not in allowed:
            self._problems.append(f"{name}: {operation}({buffer!r}) was not said")

    def _compare_rules(self, index: int, name: str) -> None:
        """Refuse another rule than the parameter was saved under, but for what came and went."""
        mine = self.optimizer.param_groups[index][ALGORITHM]
        theirs = self._group_of[name][ALGORITHM]
        here = [(short, piece) for short, piece in pieces_in(mine) if short not in self.inserted]
        there = [(short, piece) for short, piece in pieces_in(theirs) if short not in self.removed]
        came = {short for short, _ in pieces_in(mine)} & self.inserted
        went = {short for short, _ in pieces_in(theirs)} & self.removed
        self._used |= came | went
        if here != there:
            self._problems.append(
                f"{name} was saved under {theirs}, here it has {mine}: insert, remove or "
                "replace_rule"
            )

    # -- param groups ---------------------------------------------------------------------------

    def _numbers(self, index: int, group: Mapping[str, Any]) -> dict[str, Any]:
        """What a group goes on with: progress as saved, hyperparameters as was said."""
        going_on = [n for n in group["param_names"] if n in self._group_of]
        kept = [n for n in going_on if self._kept(n) is None]
        sources = {id(self._group_of[n]): self._group_of[n] for n in kept or going_on}
        # Progress is of the whole optimizer, so any saved group tells it.
        first = next(iter(sources.values()), self.saved["param_groups"][0])
        found = {key: first[key] for key in _PROGRESS}
        received = (n for n in going_on if n in self._group_of[n].get("received", ()))
        found |= {"received": tuple(received), "skipped": first.get("skipped", 0)}
        found["renewed"] = first.get("renewed", False)
        # The most of all, so that no signs are drawn again.
        found["observed"] = max((g.get("observed", 0) for g in sources.values()), default=0)
        if kept:
            for source in sources.values():
                for key in first:
                    taken = key in (*LABELS, *_APART) or _matches(key, self.here)
                    if not taken and source.get(key) != first[key]:
                        self._problems.append(
                            f"group {index}: {key} was saved as {first[key]!r} for some of its "
                            f"parameters and {source.get(key)!r} for others"
                        )
            found |= {key: first[key] for key in ("seed", "lr_factor", "maximize")}
            if first[ALGORITHM] == group[ALGORITHM]:
                found["mode"] = first["mode"]
            found |= self._hyperparameters(index, group, first)
        counts = {**group, **found}
        scheduled = self.optimizer.scheduled(index)
        return found | {key: at_counts(s, counts, key) for key, s in scheduled.items()}

    def _hyperparameters(
        self, index: int, group: Mapping[str, Any], saved: Mapping[str, Any]
    ) -> dict[str, Any]:
        found: dict[str, Any] = {}
        plans = json.loads(group["plan"]), json.loads(saved["plan"])
        rule = self.optimizer.rule(index)
        for key in (*rule.hyperparameters, *rule.scalars):
            if key not in saved or (_matches(key, self.here) and key not in rule.scalars):
                continue
            if plans[0].get(key) != plans[1].get(key):
                self._problems.append(
                    f"group {index}: {key} had another schedule, or none: take_here({key!r})"
                )
                continue
            own = [k for k in (key, log_key(key), base_key(key)) if k in saved]
            found |= {k: saved[k] for k in own}
            scheduled = key in plans[0] or key in rule.scalars
            if saved[key] != group[key] and not scheduled and not _matches(key, self.there):
                self._problems.append(
                    f"group {index}: {key} was saved as {saved[key]!r}, here it is {group[key]!r}: "
                    f"take_here({key!r}) or take_saved({key!r})"
                )
        known = {*SHARED, *group}
        for key in saved:
            root = key.removesuffix(".restarts").removesuffix(".base")
            if root not in known and not self.removed and not is_label(root, saved):
                self._problems.append(f"group {index} was saved with {key}, which is not here")
        return found


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
