"""What a monitor sees of an optimizer: parameters by name, and their moments by what they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import is_
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rheostat.core.signal import Vector

Per = Literal["all", "group", "parameter"]

STATE_NAMES: dict[Vector, tuple[str, ...]] = {
    "momentum": ("exp_avg", "momentum_buffer"),
    "second_moment": (
        *("exp_avg_sq", "square_avg", "sum", "grad_sum_sq", "exp_avg_var", "variance"),
    ),
}
"""What optimizers, torch's and ours, call the moments in their state; the first one found counts."""


class Observation:
    """The parameters of an optimizer: their names, groups, gradients and state.

    Names are those that the model gives; without one, what the param groups say
    (`param_names`), and else "group.position".
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> None:
        self.optimizer = optimizer
        known = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        self.params: list[Tensor] = []
        self.names: list[str] = []
        self.groups: list[list[int]] = []
        for index, group in enumerate(optimizer.param_groups):
            own: Sequence[str] = group.get("param_names") or [
                f"{index}.{at}" for at in range(len(group["params"]))
            ]
            start = len(self.params)
            for param, name in zip(group["params"], own, strict=True):
                self.params.append(param)
                self.names.append(known.get(id(param), name))
            self.groups.append(list(range(start, len(self.params))))

    def parts(self, per: Per) -> dict[str, list[int]]:
        """The parts that are measured on their own, by name: the positions of their parameters."""
        if per == "all":
            return {"": list(range(len(self.params)))}
        if per == "group":
            return {str(index): members for index, members in enumerate(self.groups)}
        return {name: [at] for at, name in enumerate(self.names)}

    def moments(self, members: Sequence[int]) -> Callable[[Vector], list[Tensor] | None]:
        """A function from a moment to its tensor for each of these parameters; None where a rule
        keeps none, or not in the parameter's shape."""
        params = [self.params[i] for i in members]
        seen: dict[Vector, _Seen] = {}

        def find(name: Vector) -> list[Tensor] | None:
            if name not in seen:
                seen[name] = _Seen(self.optimizer, params, STATE_NAMES[name])
            return seen[name].find()

        return find


class _Seen:
    """One moment of some parameters; what was found last is checked first."""

    def __init__(
        self, optimizer: torch.optim.Optimizer, params: list[Tensor], names: tuple[str, ...]
    ) -> None:
        self._optimizer, self._params, self._names = optimizer, params, names
        self._keys = [names[0]] * len(params)
        self._last: list[Tensor] = []

    def find(self) -> list[Tensor] | None:
        state = self._optimizer.state
        last = self._last
        try:
            found = [state.get(p, {})[k] for p, k in zip(self._params, self._keys, strict=True)]
        except KeyError:
            return self._search()
        if len(found) != len(last) or not all(map(is_, found, last)):
            return self._search()
        return found

    def _search(self) -> list[Tensor] | None:
        """Look through all names. A parameter without a gradient may have no state yet."""
        state = self._optimizer.state
        found: list[Tensor] = []
        for at, param in enumerate(self._params):
            entry: dict[str, Any] = state.get(param, {})
            key = next((name for name in self._names if name in entry), None)
            if key is None and param.grad is None:
                found.append(torch.zeros_like(param))
                continue
            if key is None or entry[key].shape != param.shape:
                return None
            self._keys[at] = key
            found.append(entry[key])
        self._last = found
        return found
