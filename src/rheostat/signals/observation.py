"""What a monitor sees of an optimizer: parameters by name, and their moments by what they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import is_, itemgetter
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rheostat.core.naming import named_parameters
from rheostat.core.signal import Vector

Per = Literal["all", "group", "parameter"]

STATE_NAMES: dict[Vector, tuple[str, ...]] = {
    "momentum": ("exp_avg", "momentum_buffer"),
    "second_moment": (
        *("exp_avg_sq", "square_avg", "sum", "grad_sum_sq", "exp_avg_var", "variance"),
    ),
}
"""What optimizers, torch's and ours, call the moments in their state; the first found counts."""


class Observation:
    """The parameters of an optimizer: their names, groups, gradients and state.

    Names are those that the model gives; without one, what the param groups say
    (`param_names`), and else "group.position".
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module | None = None) -> None:
        self.optimizer = optimizer
        self._model = model
        self.look()

    def look(self) -> None:
        """List the parameters that there are now."""
        model, optimizer = self._model, self.optimizer
        known = {} if model is None else {id(p): name for name, p in named_parameters(model)}
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

    @property
    def grown(self) -> bool:
        """Whether a param group came, or grew, since they were listed."""
        return [*map(len, self.groups)] != [len(g["params"]) for g in self.optimizer.param_groups]

    @property
    def trained(self) -> list[bool]:
        """Of each parameter, whether it is to be trained: what is frozen says nothing of steps."""
        return [param.requires_grad for param in self.params]

    def parts(self, per: Per) -> dict[str, list[int]]:
        """The parts that are measured on their own, by name: the positions of their parameters,
        without frozen ones where there are others."""
        if per == "parameter":
            return {name: [at] for at, name in enumerate(self.names)}
        whole = {"": list(range(len(self.params)))}
        parts = whole if per == "all" else {str(i): own for i, own in enumerate(self.groups)}
        trained = self.trained
        return {key: [at for at in own if trained[at]] or own for key, own in parts.items()}

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
    """One moment of some parameters.

    It is asked at every step, so what is looked at first is whether the state holds the very same
    entries as last time: then only the tensors are taken out of them.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, params: list[Tensor], names: tuple[str, ...]
    ) -> None:
        self._optimizer, self._params, self._names = optimizer, params, names
        self._known: list[Mapping[str, Any]] = []
        """All entries of the state, as they were."""
        self._entries: list[Mapping[str, Any]] = []
        self._take: Callable[[Mapping[str, Any]], Tensor] | None = None

    def find(self) -> list[Tensor] | None:
        known = self._known
        now = [*self._optimizer.state.values()]
        if self._take is not None and len(now) == len(known) and all(map(is_, now, known)):
            return [*map(self._take, self._entries)]
        return self._search(now)

    def _search(self, now: list[Mapping[str, Any]]) -> list[Tensor] | None:
        """Look through all names. A parameter without a gradient may have no state yet."""
        state = self._optimizer.state
        found: list[Tensor] = []
        keys: set[str] = set()
        for param in self._params:
            entry: dict[str, Any] = state.get(param, {})
            key = next((name for name in self._names if name in entry), None)
            if key is None and param.grad is None:
                found.append(torch.zeros_like(param))
            elif key is None or entry[key].shape != param.shape:
                return None
            else:
                found.append(entry[key])
                keys.add(key)
        whole = len(keys) == 1 and all(param in state for param in self._params)
        self._take = itemgetter(*keys) if whole else None
        self._known, self._entries = now, [state[p] for p in self._params] if whole else []
        return found
