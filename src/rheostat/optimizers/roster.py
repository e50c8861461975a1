"""Who takes part in a step: the list of all parameters, kept from step to step."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer, Transform
from rheostat.optimizers.device import Resident, check_count, device_of
from rheostat.optimizers.items import Held, Item, Options
from rheostat.optimizers.kernels import Kernel, fitting
from rheostat.optimizers.layout import (
    Alike,
    Layout,
    check_buffers,
    check_gradients,
    is_lazy,
    resolved,
)
from rheostat.optimizers.state import check_cast
from rheostat.optimizers.straight import Column, columns_of

Groups = Sequence[dict[str, Any]]
States = Mapping[Tensor, dict[str, Tensor]]


class Roster:
    """The parameters that an optimizer holds, and where their step counts are.

    Args:
        rules, kernels: of each group; the lists may grow and change.
        options: how the loop treats every rule.
        state_of: makes the state of a parameter of a group, if it has none.

    `resident` keeps the numbers that stay on a device; None where the host has them.
    """

    def __init__(
        self,
        rules: Sequence[Transform],
        kernels: Sequence[Sequence[Kernel]],
        options: Options,
        state_of: Callable[[Tensor, int], dict[str, Tensor]],
    ) -> None:
        self.resident: Resident | None = None
        self._rules = rules
        self._kernels = kernels
        self._options = options
        self._state_of = state_of
        self._held: list[Held] = []
        self._params: list[Tensor] = []
        self._layout = Layout([], [])
        self._begun = False
        """Whether all of them have a state."""
        self._states: list[dict[str, Tensor]] = []
        self._counts = _Counts([])
        self._part: tuple[list[Held], Alike] = [], Alike([])
        """Who took part last, and how their gradients lay."""
        self._lazy = False
        """Whether a gradient's numbers are not what its memory says."""
        self.columns: list[Column] | None = None
        """They in columns that kernels run as they are; None where more is to do."""

    def recount(self) -> None:
        """Look at all step counts again at the next step: a restart may have changed them."""
        self._held, self._params = [], []

    def check(self, groups: Groups) -> None:
        """Refuse groups whose lists were edited by hand. Raises InputError."""
        if len(groups) != len(self._rules):
            raise InputError(
                f"param_groups has {len(groups)} groups, and the optimizer {len(self._rules)} rules"
                "; add a group with add_param_group(…); without a group, make the optimizer anew"
            )
        for index, group in enumerate(groups):
            names = group.get("param_names", ())
            if len(group["params"]) != len(names):
                raise InputError(
                    f"param group {index} has {len(group['params'])} parameters and "
                    f"{len(names)} names; add parameters with add_param_group(…); "
                    "without some, make the optimizer anew"
                )

    def check_ready(self, groups: Groups) -> None:
        """The same before a step, and refuse groups that show their evaluation view."""
        self.check(groups)
        if any(group["evaluating"] for group in groups):
            raise InputError("the parameters show their evaluation view; call train() first")

    def taking_part(self, groups: Groups, states: States) -> tuple[list[Held], list[Tensor]]:
        """The parameters that have a gradient, and these.

        Raises InputError where a parameter, its state or its gradient do not fit each other.
        """
        known = self.all(groups, states)
        found = [param.grad for param in self._params]
        gradients = [gradient for gradient in found if gradient is not None]
        held = known
        if len(gradients) < len(known):
            held = [one for one, mine in zip(known, found, strict=True) if mine is not None]
        if not self._begun and not all(map(_state, held)):  # frozen until now
            self._hold_all(groups, states)
            return self.taking_part(groups, states)
        then, alike = self._part
        new = held != then or not alike(gradients)
        if new:
            check_gradients(held, gradients)
            self._part = held, Alike(gradients)
            self._lazy = any(map(is_lazy, gradients))
        if self._lazy:
            gradients = [*map(resolved, gradients)]
        if new:
            self.columns = None if self.resident else columns_of(self._rules, held, gradients)
        if self.resident is not None:
            self.resident.part(known, held)
        return held, gradients

    def all(self, groups: Groups, states: States) -> list[Held]:
        """All parameters; made again where they or their state were exchanged or lie in
        another way. Raises InputError where they do not fit each other."""
        # Each question to all in turn, by what is built in: a loop takes several times as long.
        params: Iterable[Tensor] = itertools.chain(*(group["params"] for group in groups))
        if not (
            len(self._params) == sum(len(group["params"]) for group in groups)
            and all(map(operator.is_, self._params, params))
            and len(states) == len(self._states)
            and all(map(operator.is_, states.values(), self._states))
            and (self.resident is not None or self._counts.here())
            and self._layout.holds()
        ):
            self._hold_all(groups, states)
        return self._held

    def count(self, held: Sequence[Held], by: int = 1) -> list[float]:
        """Count an update of these, on the host, or with −1 one less; what they have received with
        it."""
        return self._counts.up(held, by)

    def take_back(self, held: Sequence[Held], items: Sequence[Item], ok: Tensor | None) -> None:
        """Take back the count of a step that was refused, for those that were not moved; `ok` as on
        the device that counted it."""
        still = [one for one, item in zip(held, items, strict=True) if not item.moved]
        if self.resident is not None:
            self.resident.take_back(still, ok)
        elif still:
            self._counts.up(still, -1)

    def _hold_all(self, groups: Groups, states: States) -> None:
        self._layout.check()
        before = {id(one.state): one for one in self._held if one.state}
        device = device_of(groups, self._rules, self._options)
        if device != (self.resident and self.resident.device):
            before = {}
            updates = int(groups[0]["updates"]) if self.resident is None else self.resident.count()
            like = next(param for group in groups for param in group["params"])
            self.resident = None if device is None else Resident(like, updates)
        self._held = [
            self._hold(index, name, param, states)
            for index, group in enumerate(groups)
            for name, param in zip(group["param_names"], group["params"], strict=True)
        ]
        # In the order of the optimizer's own, so that a look at all of them hashes no tensor.
        self._states = list(states.values())
        self._params = [one.param for one in self._held]
        self._layout = Layout(
            self._held, [self._buffers(one.group, one.param) for one in self._held]
        )
        self._begun = all(map(_state, self._held))
        self._place(before)

    def _hold(self, index: int, name: str, param: Tensor, states: States) -> Held:
        wanted = param.grad is not None or param in states
        state = self._state_of(param, index) if wanted else {}
        plain = self._options.plain(param)
        if state:
            check_count(name, index, state["step"])
            check_cast(name, param, state, self._rules[index].buffers)
            self._options.recast(param, state)
            check_buffers(name, param, state, self._buffers(index, param))
        kernel = fitting(self._kernels[index], param, state) if plain and state else None
        return Held(index, name, param, state, param.dtype, plain, kernel)

    def _buffers(self, index: int, param: Tensor) -> Mapping[str, Buffer]:
        return {**self._rules[index].buffers, **self._options.buffers(param)}

    def _place(self, before: Mapping[int, Held]) -> None:
        """Put step counts where they are kept, and parameters with the same count into one line.

        `before` has those that were held until now, by the identity of their state; the counts of
        others are read, for which a device must be waited for if they are there.
        """
        lines: dict[int, int] = {}
        stepping = [one for one in self._held if one.state]
        self._counts = _Counts([] if self.resident else stepping)
        for one in stepping:
            step, old = one.state["step"], before.get(id(one.state))
            if self.resident is None:
                continue
            if old is not None:
                one.line, one.fresh = old.line, old.fresh
            else:
                count = int(step.item())
                if count not in lines:
                    lines[count] = self.resident.line()
                one.line, one.fresh = lines[count], count == 0
                one.state["step"] = self.resident.count_from(count)

    def __getstate__(self) -> dict[str, Any]:
        """For `copy.deepcopy`: a copied optimizer makes its own list."""
        own: dict[str, Any] = {"resident": None, "columns": None, "_counts": _Counts([])}
        own |= {"_layout": Layout([], []), "_part": ([], Alike([]))}
        return {**self.__dict__, **own, "_held": [], "_params": [], "_states": []}


_state = operator.attrgetter("state")


class _Counts:
    """The step counts of parameters on the host, one behind the other in one piece of memory: all
    go up in one addition, and are read in one."""

    def __init__(self, held: Sequence[Held]) -> None:
        self._states = [one.state for one in held]
        for place, one in enumerate(held):
            one.line = place
            one.state["step"] = one.state["step"].to("cpu", torch.float32)
        self._steps = [state["step"] for state in self._states]
        self._all = torch.stack(self._steps) if held else torch.zeros(0)
        for place, step in enumerate(self._steps):
            # The same tensor at another address: who holds it need not know.
            step.set_(self._all.untyped_storage(), place, (), ())

    def here(self) -> bool:
        """Whether these tensors are still those in the states."""
        found = map(cast("Any", dict.get), self._states, itertools.repeat("step"))
        return all(map(operator.is_, found, self._steps))

    def up(self, held: Sequence[Held], by: int = 1) -> list[float]:
        """One more for each of those; their counts."""
        if len(held) == len(self._steps):
            return cast("list[float]", self._all.add_(by).tolist())
        places = torch.tensor([one.line for one in held])
        self._all[places] += by
        return cast("list[float]", self._all[places].tolist())
