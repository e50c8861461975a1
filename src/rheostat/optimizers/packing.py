"""A state dict, as torch packs it, and torch's hooks around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rheostat.core.transform import Transform


def packed(
    groups: Sequence[Mapping[str, Any]], rules: Sequence[Transform], states: Mapping[Any, Any]
) -> dict[str, Any]:
    """A state dict as torch's, with each parameter's index in its place, in dicts of its own: what
    is shown or stepped afterwards adds nothing to it. Scalars are read from where they are."""
    params = [param for group in groups for param in group["params"]]
    index = {id(param): place for place, param in enumerate(params)}
    written: list[dict[str, Any]] = []
    for group, rule in zip(groups, rules, strict=True):
        scalars = {name: float(group[name]) for name in rule.scalars}
        plain = {key: value for key, value in group.items() if key != "params"}
        written.append({**plain, **scalars, "params": [index[id(p)] for p in group["params"]]})
    state = {index.get(id(param), param): dict(held) for param, held in states.items()}
    return {"state": state, "param_groups": written}


def hooked(hooks: Mapping[int, Callable[..., Any]], optimizer: Any, saved: Any) -> Any:
    """What torch's hooks make of a state dict, each of what the one before gave."""
    for hook in hooks.values():
        replaced = hook(optimizer, saved)
        saved = saved if replaced is None else replaced
    return saved
