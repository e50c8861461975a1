"""What a saved state must satisfy before any of it is loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.sharded import laid_out
from rheostat.core.transform import Buffer, Transform
from rheostat.optimizers.numbers import HALF
from rheostat.optimizers.scheduled import START

LABELS = (
    *("params", "param_names", "name"),
    *("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum", "swa_lr"),
)
"""Group keys that are not hyperparameters: a label for people, and what torch and its schedulers
write there."""


def is_label(key: str, group: Mapping[str, Any]) -> bool:
    """Whether a key that the rule of a group has not may be there all the same: torch's own.

    Its schedulers that cycle the momentum write it to every group, and its bounds beside it; what
    begins with an underscore is private to whoever wrote it.
    """
    cycled = key == "momentum" and "max_momentum" in group
    return key in LABELS or key.startswith("_") or cycled


SHARED: Mapping[str, Any] = {
    "lr_factor": 1.0,
    "factors": {},
    "limit": None,
    "maximize": False,
    "seed": 0,
    **START,
    "uncounted": (),
    "plan": "{}",
    "given": "{}",
    "growth": 1.0,
    "phase": 0,
    "skipped": 0,
    "observed": 0,
    "received": (),
    "renewed": False,
    "evaluating": False,
    "mode": "eager",
}
"""Group keys that every rule has: the loop's own, with their starting values."""

ALGORITHM = "algorithm"
"""The group key under which the rule is written down, so that a state finds its own again."""


def keys_of(rule: Transform) -> dict[str, Any]:
    """The keys of a group with this rule, with their starting values."""
    return {**SHARED, ALGORITHM: written_rule(rule), **rule.hyperparameters, **rule.scalars}


def written_rule(rule: Transform) -> str:
    """A rule's pieces with their versions, and with those of their arguments that are no numbers:
    numbers are hyperparameters, which may change."""
    pieces: list[str] = []
    for piece in rule.pieces:
        arguments: Mapping[str, Any] = piece.origin.arguments if piece.origin else {}
        told = [f"{k}={v!r}" for k, v in arguments.items() if isinstance(v, bool | str)]
        name = piece.origin.component if piece.origin else piece.name
        pieces.append(f"{name}({', '.join(told)})" if told else name)
    return " | ".join(pieces)


def pieces_in(written: str) -> list[tuple[str, str]]:
    """The pieces of a written rule: the name alone, and all that is written."""
    pieces = written.split(" | ")
    return [(piece.partition("(")[0].partition("@")[0], piece) for piece in pieces]


@dataclass(frozen=True)
class LoadPlan:
    """Which saved group goes to which group, and which saved state to which parameter."""

    groups: list[tuple[dict[str, Any], dict[str, Any]]]
    state: list[tuple[int, Tensor, dict[str, Tensor]]]

    def put_state(self, state_of: Callable[[Tensor, int], dict[str, Tensor]]) -> None:
        """Put the saved tensors, copied, into what `state_of` a parameter of a group gives."""
        for index, param, saved in self.state:
            state = state_of(param, index)
            for gone in state.keys() - saved.keys():
                del state[gone]
            for key, value in saved.items():
                if key == "step":
                    state[key] = torch.as_tensor(value).detach().to("cpu", copy=True)
                    continue
                mine = laid_out(value.detach(), state.get(key, param))
                state[key] = mine.to(param.device, copy=True)


def check_state_dict(
    saved: Mapping[str, Any],
    groups: list[dict[str, Any]],
    buffers_of: Callable[[Tensor, int], Mapping[str, Buffer]],
) -> LoadPlan:
    """Match a state dict to groups by parameter name, and list everything that does not fit.

    Raises:
        InputError: with every difference in names, shapes, buffers and hyperparameters; for what
            is no optimizer's state.
    """
    saved_groups, states = saved["param_groups"], saved["state"]
    if not isinstance(states, Mapping):
        raise InputError(
            f"the saved state has a {type(states).__name__} under 'state', which should be a "
            "mapping, as state_dict() gives it"
        )
    # Ours have counted updates from the first release on.
    if any("updates" not in group for group in saved_groups):
        raise InputError(
            "the saved state is another library's; rheostat.integrations.states.import_state takes "
            "it over"
        )
    if len(saved_groups) != len(groups):
        raise InputError(
            f"the saved state has {len(saved_groups)} param groups, this optimizer {len(groups)}"
        )
    problems: list[str] = []
    plan = LoadPlan([], [])
    for index, (given, mine) in enumerate(zip(saved_groups, groups, strict=True)):
        # A key of the loop's own that a past release did not have was at its start there.
        theirs: dict[str, Any] = {**SHARED, **given}
        problems += _group_problems(index, theirs, mine)
        plan.groups.append((mine, theirs))
        names = theirs.get("param_names", mine["param_names"])
        if len(names) != len(theirs["params"]):
            problems.append(
                f"group {index} names {len(names)} of its {len(theirs['params'])} parameters"
            )
            continue
        position = dict(zip(names, theirs["params"], strict=True))
        for name, param in zip(mine["param_names"], mine["params"], strict=True):
            if name not in position:
                continue
            entry = cast("Mapping[Any, Any]", states).get(position[name], {})
            wanted = dict(buffers_of(param, index))
            if theirs.get("evaluating"):
                wanted["parked"] = Buffer()
            problems += _entry_problems(name, param, entry, wanted)
            if entry:
                plan.state.append((index, param, entry))
    if problems:
        raise InputError("the saved state does not fit this optimizer: " + "; ".join(problems))
    return plan


def _group_problems(index: int, theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    saved_names = set(theirs.get("param_names", mine["param_names"]))
    names = set(mine["param_names"])
    if missing := sorted(names - saved_names):
        problems.append(f"group {index} has no saved state for {', '.join(missing)}")
    if extra := sorted(saved_names - names):
        problems.append(f"group {index} was saved with {', '.join(extra)}, which is not here")
    if theirs.get(ALGORITHM, mine[ALGORITHM]) != mine[ALGORITHM]:
        problems.append(
            f"group {index} was saved under {theirs[ALGORITHM]}, here it has {mine[ALGORITHM]}"
        )
    if missing := sorted(key for key in mine.keys() - theirs.keys() if not is_label(key, mine)):
        problems.append(f"group {index} was saved without {', '.join(missing)}")
    if extra := sorted(key for key in theirs.keys() - mine.keys() if not is_label(key, theirs)):
        problems.append(f"group {index} was saved with {', '.join(extra)}, which this rule has not")
    counts = (*START, "phase", "skipped", "observed", "growth")
    wrong = [key for key in counts if not _is_count(theirs[key])]
    limit, factors = theirs["limit"], theirs["factors"]
    wrong += [] if limit is None or _is_count(limit) else ["limit"]
    plain = isinstance(factors, Mapping) and all(map(_is_count, cast("Any", factors).values()))
    wrong += [] if plain else ["factors"]
    wrong += [] if _is_object(theirs["given"]) else ["given"]
    problems += [f"group {index} was saved with {key}={theirs[key]!r}" for key in wrong]
    return problems


def _is_object(text: object) -> bool:
    """Whether it is a JSON object."""
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except json.JSONDecodeError:
        return False


def _entry_problems(
    name: str, param: Tensor, entry: Mapping[str, Any], buffers: Mapping[str, Buffer]
) -> list[str]:
    if not entry:
        return [f"no state was saved for {name}"] if param.requires_grad else []
    wanted = {"step", *buffers}
    if set(entry) != wanted:
        return [f"{name} was saved with buffers {sorted(entry)}, this rule has {sorted(wanted)}"]
    problems: list[str] = []
    if not _is_count(entry["step"]):
        problems.append(f"{name}.step was saved as {entry['step']!r}, which should be a count")
    for key, buffer in buffers.items():
        found, shape = entry[key], buffer.shape(param)
        if not isinstance(found, Tensor):
            problems.append(f"{name}.{key} was saved as {found!r}, which should be a tensor")
        elif found.layout is not torch.strided or found.is_complex() > param.is_complex():
            problems.append(f"{name}.{key} was saved as {found.layout} of {found.dtype}")
        elif tuple(found.shape) != shape:
            problems.append(
                f"{name}.{key} was saved with shape {tuple(found.shape)}, here it has {shape}"
            )
    return problems


def _is_count(step: object) -> bool:
    """Whether it is one number, finite and not negative."""
    if isinstance(step, Tensor):
        return step.shape == () and not step.is_complex() and _is_count(step.item())
    return isinstance(step, int | float) and 0 <= step < math.inf


def check_cast(
    name: str, param: Tensor, state: Mapping[str, Tensor], buffers: Mapping[str, Buffer]
) -> None:
    """Refuse a state whose buffers were made before the parameter was cast to a wider dtype."""
    for key, buffer in buffers.items():
        found: object = None if buffer.dtype is not None else state.get(key)
        mine = found.dtype if isinstance(found, Tensor) else param.dtype
        if mine not in HALF and torch.promote_types(mine, param.dtype) != mine:
            now, then = (str(dtype).removeprefix("torch.") for dtype in (param.dtype, mine))
            raise InputError(
                f"{name} is {now}, and its state {key!r} was made for {then}; cast the model, and "
                "then make the optimizer"
            )


def params_of(index: int, group: Mapping[str, Any]) -> list[Any]:
    """The parameters that a group is given, one alone in a list too. Raises InputError where it is
    no group, or says none."""
    if not isinstance(group, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"param group {index} should be a mapping with 'params', not {group!r}")
    if "params" not in group:
        given = ", ".join(key for key in group if key != "rule") or "nothing"
        raise InputError(f"param group {index} has no 'params'; it has {given}")
    params: Any = group["params"]
    if not isinstance(params, Iterable):
        raise InputError(f"param group {index}: 'params' should be parameters, not {params!r}")
    return [params] if isinstance(params, Tensor) else [*cast("Iterable[Any]", params)]


def with_names(
    params: Iterable[Any], groups: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Tensor]]:
    """(name, parameter) pairs for one more group, each parameter once, under its first name; those
    that came without names are numbered on from `groups`.

    Raises:
        InputError: a name that another parameter of the group has, which would get the one's state;
            a parameter of a group before; what is no parameter, or was computed from one.
    """
    where = f"param group {len(groups)}"
    owners = {id(param): i for i, group in enumerate(groups) for param in group["params"]}
    taken: set[str] = set()
    start = len(owners)
    pairs: dict[int, tuple[str, Tensor]] = {}
    for item in params:
        unnamed = isinstance(item, Tensor)
        name, param = _pair(where, (f"param.{start + len(pairs)}", item) if unnamed else item)
        if id(param) in pairs:
            continue
        if not param.is_leaf:
            raise InputError(
                f"{where}: {name} was computed from others, and gets no gradient; give the leaves"
            )
        if id(param) in owners:
            raise InputError(
                f"{where}: {name} is in param group {owners[id(param)]} already; give it once"
            )
        if name in taken:
            raise InputError(
                f"{where}: two parameters are named {name!r}; give each a name of its own, as in "
                f"('generator.{name}', parameter)"
            )
        taken.add(name)
        pairs[id(param)] = name, param
    return list(pairs.values())


def _pair(where: str, item: Any) -> tuple[str, Tensor]:
    match item:
        case (str() as name, Tensor() as param):
            return name, param
        case _:
            raise InputError(
                f"{where}: {item!r}: should be a parameter, or ('its name', parameter)"
            )
