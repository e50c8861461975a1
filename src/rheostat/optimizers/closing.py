"""A rule as an optimizer runs it: given as a transform, with the step size at its end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Transform, chain, transform_in
from rheostat.transforms.scaling import scale_by_learning_rate


def scaled(transform: Transform, lr: float | Schedule | Tensor | None) -> Transform:
    """The rule with the step size at its end, if it has none; an `lr` of its own moves there."""
    if transform.scaled:
        if lr is not None:
            raise InputError(f"{transform.name} has a step size of its own; give the lr there")
        return transform
    rate = transform.hyperparameters.get("lr", 1e-3) if lr is None else lr
    others = {name: v for name, v in transform.hyperparameters.items() if name != "lr"}
    # The factory's signature says float; a schedule or a tensor stands for one.
    step_size = scale_by_learning_rate(cast("float", rate))
    closed = chain(replace(transform, hyperparameters=others), step_size)
    return replace(closed, name=transform.name, origin=transform.origin)


def take_rule(group: dict[str, Any], rules: Sequence[Transform]) -> Transform:
    """Take the "rule" out of a param group that comes after those of `rules`, and close it as
    `scaled` does; the last of `rules` where it has none.

    An `lr` in the group is then a hyperparameter of the rule as any other.

    Raises:
        InputError: what is no transform; no rule in the first group.
    """
    given = group.pop("rule", None)
    if given is None and rules:
        return rules[-1]
    return scaled(transform_in(given, f"param group {len(rules)}: 'rule'"), None)
