"""State of other libraries' optimizers, taken over into ours and given back, by parameter name.

`import_state` takes what their `state_dict()` gave (read a file with ``weights_only=True``);
`export_state` gives what their `load_state_dict` takes. Buffers keep every bit; what has no
counterpart is refused, all of it in one line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError, closest
from rheostat.core.naming import named_parameters
from rheostat.core.registry import component
from rheostat.core.sharded import gathered, laid_out
from rheostat.core.transform import Buffer
from rheostat.integrations.foreign import ForeignOptimizer
from rheostat.integrations.peers import MUTE, Flags, Peer, arguments_of, peer_of
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.scheduled import at_counts
from rheostat.optimizers.state import LABELS

AGREES = 1e-6
"""How far, relatively, a learning rate of theirs may be from our schedule's."""

Entry = Mapping[str, Any]


def export_state(
    optimizer: Optimizer, key: str, *, groups: Sequence[int] | None = None
) -> dict[str, Any]:
    """The state of an optimizer as another library's `state_dict()`, in memory of its own.

    Args:
        optimizer: whose state.
        key: the other optimizer as the registry names it: "torch/AdamW".
        groups: indices of the param groups that it is to have; all by default.

    Raises:
        InputError: what does not map, all of it; a library that is not installed.
    """
    problems: list[str] = []
    listed: list[dict[str, Any]] = []
    states: list[dict[str, dict[str, Any]]] = []
    for index in _chosen(optimizer, groups):
        group = optimizer.param_groups[index]
        try:
            peer = peer_of(key, optimizer.rule(index))
            flags = peer.flags(arguments_of(optimizer.rule(index)))
        except InputError as error:
            problems.append(f"group {index}: {error}")
            continue
        problems += [f"group {index}: {line}" for line in _without_counterpart(peer, group)]
        numbers = {
            n: group[n] for n in optimizer.rule(index).hyperparameters if n not in peer.fixed
        }
        numbers["lr"] = numbers["lr"] * group["lr_factor"]
        said = {name: values[0] for name, values in flags.items()}
        # Made over parameters without memory: a group comes out with every entry it should have.
        likes = [
            nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"))
            for p in group["params"]
        ]
        listed.append({"params": likes, **numbers, **said})
        states.append(_exported(optimizer, index, peer))
        if peer.steps == "group":
            counts = {int(optimizer.state[p]["step"]) for p in group["params"]}
            if len(counts) > 1:
                problems.append(f"group {index}: its parameters have had {sorted(counts)} updates")
            listed[-1]["step"] = max(counts)
    _refuse(f"the state does not map to {key}", problems)
    factory: ForeignOptimizer = component(key, "optimizer").factory()
    made = factory.on(listed).state_dict()
    made["state"] = {}
    for index, group, entries in zip(
        _chosen(optimizer, groups), made["param_groups"], states, strict=True
    ):
        ours = optimizer.param_groups[index]
        if "maximize" in group:
            group["maximize"] = ours["maximize"]
        elif ours["maximize"]:
            problems.append(f"group {index}: maximize, which it does not note")
        group["param_names"] = list(ours["param_names"])
        for number, name in zip(group["params"], group["param_names"], strict=True):
            if name in entries:
                made["state"][number] = entries[name]
    _refuse(f"the state does not map to {key}", problems)
    return made


def import_state(
    optimizer: Optimizer,
    state_dict: Mapping[str, Any],
    key: str,
    *,
    names: nn.Module | Iterable[str] | None = None,
    step: int | None = None,
    groups: Sequence[int] | None = None,
    hyperparameters: Literal["theirs", "ours"] = "theirs",
) -> None:
    """Take over what another library's optimizer knew; nothing is changed unless all of it fits.

    Args:
        optimizer: one of ours, over the same parameters.
        state_dict: what theirs gave.
        key: theirs as the registry names it: "torch/AdamW".
        names: of its parameters, in its order, where it does not know them itself: a module (then
            it was made with `parameters()` of such a module), or a list.
        step: the updates so far, for those that do not count them (SGD, Muon).
        groups: indices of our param groups that the state is for; all by default. Where others are
            left, the updates that the optimizer has counted are the least that it counts on from.
        hyperparameters: whose numbers go on. Under "theirs" a schedule of ours goes on too, where
            it says what theirs had reached.

    Raises:
        InputError: what does not map, all of it; gradients that are half accumulated here.
    """
    if hyperparameters not in ("theirs", "ours"):
        raise InputError(f"hyperparameters={hyperparameters!r}: should be 'theirs' or 'ours'")
    theirs = _by_name(state_dict, names)
    chosen = _chosen(optimizer, groups)
    mine = [name for i in chosen for name in optimizer.param_groups[i]["param_names"]]
    problems = [*_unmatched(theirs, mine, "it is not here"), *_unmatched(mine, theirs, "not there")]
    _refuse(f"the state of {key} does not fit", problems)
    state = optimizer.state_dict()
    problems += _half_accumulated(state["param_groups"][0])
    # A part that is taken over does not take the others' schedules back.
    partly = len({*chosen}) < len(optimizer.param_groups)
    updates = int(state["param_groups"][0]["updates"]) if partly else 0
    for index in chosen:
        group = state["param_groups"][index]
        try:
            peer = peer_of(key, optimizer.rule(index))
            flags = peer.flags(arguments_of(optimizer.rule(index)))
        except InputError as error:
            problems.append(f"group {index}: {error}")
            continue
        members = [theirs[name] for name in group["param_names"]]
        groups_there = [their for their, _ in members]
        told = _foreign_entries(optimizer, index, flags, groups_there)
        if hyperparameters == "theirs":
            numbers, more = _numbers(optimizer, index, peer, groups_there)
            told += more
            group.update(numbers)
        problems += [f"group {index}: {line}" for line in told]
        for number, param, name, (their, entry) in zip(
            group["params"],
            optimizer.param_groups[index]["params"],
            group["param_names"],
            members,
            strict=True,
        ):
            if param.requires_grad:
                there = _filled(entry, peer, optimizer.rule(index).buffers)
                count = _count(peer, their, there, step)
                if count is None:
                    problems.append(f"{key} does not count updates: say step=… how many there were")
                    break
                buffers = optimizer.buffers_of(param, index)
                state["state"][number], told = _imported(name, param, peer, buffers, there, count)
                problems += told
                updates = max(updates, count)
    for group in state["param_groups"]:
        group.update(updates=updates, uncounted=())
    if hyperparameters == "theirs":
        problems += _follow_schedules(optimizer, chosen, state["param_groups"])
    else:
        for index, group in enumerate(state["param_groups"]):
            group.update({k: at_counts(s, group, k) for k, s in optimizer.scheduled(index).items()})
    _refuse(f"the state of {key} does not fit", problems)
    optimizer.load_state_dict(state)


def _chosen(optimizer: Optimizer, groups: Sequence[int] | None) -> list[int]:
    there = range(len(optimizer.param_groups))
    for index in groups or ():
        if index not in there:
            raise InputError(f"groups: there is no param group {index}, only {len(there)}")
    return list(there if groups is None else groups)


def _refuse(what: str, problems: Sequence[str]) -> None:
    if problems:
        raise InputError(f"{what}: {'; '.join(dict.fromkeys(problems))}")


def _by_name(
    state_dict: Mapping[str, Any], names: nn.Module | Iterable[str] | None
) -> dict[str, tuple[Entry, Entry]]:
    """Parameter name -> the param group and the state that it had."""
    groups = cast("list[dict[str, Any]]", state_dict["param_groups"])
    numbers = [number for group in groups for number in group["params"]]
    own = [name for group in groups for name in group.get("param_names", ())]
    if isinstance(names, nn.Module):
        names = [name for name, _ in named_parameters(names)]
    listed = own if names is None else list(names)
    if len(listed) != len(numbers):
        told = f"{len(listed)} names" if listed else "no names"
        raise InputError(
            f"the state has {len(numbers)} parameters and {told}: give names=…, the model or a "
            "list in the order in which the parameters were given to that optimizer"
        )
    name_of = dict(zip(numbers, listed, strict=True))
    states = cast("dict[int, Entry]", state_dict["state"])
    return {
        name_of[number]: (group, states.get(number, {}))
        for group in groups
        for number in group["params"]
    }


def _unmatched(names: Iterable[str], others: Iterable[str], said: str) -> list[str]:
    known = set(others)
    found: list[str] = []
    for name in names:
        if name not in known:
            near = closest(name, known)
            found.append(f"{name}: {said}" + (f" (nearest: {near})" if near else ""))
    return found


def _half_accumulated(group: Mapping[str, Any]) -> list[str]:
    phase = group["phase"]
    return [f"gradients are half accumulated ({phase} so far)"] if phase else []


# -- param groups -----------------------------------------------------------------------------


def _without_counterpart(peer: Peer, group: Mapping[str, Any]) -> list[str]:
    """What a group of ours says that theirs cannot."""
    found = [
        f"{name} is {group[name]!r}, theirs is {value!r} always"
        for name, value in peer.fixed.items()
        if group[name] != value
    ]
    if group["evaluating"]:
        found.append("the parameters show their evaluation view; call train() first")
    found += _half_accumulated(group)
    return found


def _foreign_entries(
    optimizer: Optimizer, index: int, flags: Flags, theirs: Sequence[Entry]
) -> list[str]:
    """What their groups say of the rule that ours does not do."""
    rule = optimizer.rule(index)
    known = {*rule.hyperparameters, *flags, *MUTE, *LABELS, "maximize", "step"}
    problems: list[str] = []
    for their in theirs:
        unknown = [name for name in their if name not in known]
        problems += [f"{name}={their[name]!r}, which {rule.name} has not" for name in unknown]
        problems += [
            f"{name} is {their[name]!r} there, {values[0]!r} here"
            for name, values in flags.items()
            if name in their and _plain(their[name]) not in values
        ]
    return problems


def _numbers(
    optimizer: Optimizer, index: int, peer: Peer, theirs: Sequence[Entry]
) -> tuple[dict[str, Any], list[str]]:
    """Our hyperparameters as their groups have them, and what hinders it."""
    problems: list[str] = []
    numbers: dict[str, Any] = {}
    for their in theirs:
        for name in optimizer.rule(index).hyperparameters:
            value = peer.fixed[name] if name in peer.fixed else _plain(their.get(name))
            if value is None:
                problems.append(f"{name} is not there")
            elif numbers.setdefault(name, value) != value:
                problems.append(f"{name} is {numbers[name]!r} for some there, {value!r} for others")
        numbers.setdefault("maximize", bool(their.get("maximize", False)))
    if optimizer.param_groups[index]["lr_factor"] != 1.0:
        problems.append("it has an lr_factor, which theirs have not; take hyperparameters='ours'")
    return numbers, problems


def _plain(value: Any) -> Any:
    """A hyperparameter of theirs as the plain number, or tuple of numbers, that it is."""
    if isinstance(value, Tensor):
        return value.item()
    if isinstance(value, list | tuple):
        return tuple(_plain(part) for part in cast("list[Any]", value))
    return float(value) if type(value) is int else value


def _follow_schedules(
    optimizer: Optimizer, chosen: Sequence[int], groups: Sequence[dict[str, Any]]
) -> list[str]:
    """Put what our schedules say in the place of their numbers, which must be the same."""
    problems: list[str] = []
    for index, group in enumerate(groups):
        for name, schedule in optimizer.scheduled(index).items():
            theirs, ours = group[name], at_counts(schedule, group, name)
            group[name] = ours
            if index in chosen and not torch.allclose(
                torch.tensor(theirs, dtype=torch.float64),
                torch.tensor(ours, dtype=torch.float64),
                rtol=AGREES,
                atol=0.0,
            ):
                problems.append(
                    f"group {index}: {name} is {theirs!r} there, this schedule gives {ours!r} "
                    f"after {group['updates']} updates; hyperparameters='ours' follows the schedule"
                )
    return problems


# -- buffers ----------------------------------------------------------------------------------


def _exported(optimizer: Optimizer, index: int, peer: Peer) -> dict[str, dict[str, Any]]:
    """The state of a group's parameters that were updated, as theirs, by name."""
    found: dict[str, dict[str, Any]] = {}
    group = optimizer.param_groups[index]
    for name, param in zip(group["param_names"], group["params"], strict=True):
        state = cast("dict[str, Tensor]", optimizer.state.get(param, {}))
        if not state or not state["step"].item():
            continue  # they make it at the first update
        entry: dict[str, Any] = {"step": state["step"].clone()} if peer.steps == "state" else {}
        for buffer in optimizer.rule(index).buffers:
            value = state[buffer]
            if value.numel() or not param.numel():
                value = gathered(value)
                value = -value if buffer in peer.negated else value.clone()
                entry[peer.buffers.get(buffer, buffer)] = value
        found[name] = entry
    return found


def _filled(entry: Entry, peer: Peer, buffers: Mapping[str, Buffer]) -> Entry:
    """The state without what is None; nothing of it where the rule's buffers are yet to be made."""
    found = {name: value for name, value in entry.items() if value is not None}
    made = [name for name in buffers if peer.buffers.get(name, name) in found]
    return found if made or not buffers else {}


def _count(peer: Peer, group: Entry, entry: Entry, step: int | None) -> int | None:
    """The updates that a parameter has had; None where nobody knows."""
    if peer.steps == "nowhere":
        return step if entry or step is not None else 0
    if peer.steps == "group":
        return int(group.get("step", 0)) if entry else 0
    return int(entry["step"]) if "step" in entry else 0


def _imported(
    name: str,
    param: Tensor,
    peer: Peer,
    buffers: Mapping[str, Buffer],
    entry: Entry,
    count: int,
) -> tuple[dict[str, Tensor], list[str]]:
    """The state of a parameter from theirs, and what of it does not fit."""
    problems: list[str] = []
    left = set(entry) - {"step"}
    found = {"step": torch.tensor(float(count))}
    for buffer, declared in buffers.items():
        made = declared.make(param)
        theirs = peer.buffers.get(buffer, buffer)
        left.discard(theirs)
        value = entry.get(theirs)
        if not isinstance(value, Tensor):
            # Where they have made none yet, or it is the loop's own, it begins.
            found[buffer] = made
            if entry and made.numel() and buffer not in ("accumulated", "master"):
                problems.append(f"{name}: {theirs} is not there")
        elif value.shape != made.shape:
            shapes = f"{list(value.shape)} there, {list(made.shape)} here"
            problems.append(f"{name}: {theirs} is {shapes}")
        elif torch.promote_types(value.dtype, made.dtype) != made.dtype:
            problems.append(f"{name}: {theirs} is {value.dtype} there, {made.dtype} here")
        else:
            found[buffer] = made.copy_(laid_out(-value if buffer in peer.negated else value, made))
    problems += [f"{name}: {theirs}, which this rule has not" for theirs in sorted(left)]
    return found, problems
