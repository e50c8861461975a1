"""Activations that have gone flat: saturated ones, and units that are dead for a whole sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError
from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.core.signal import Memory, Reading, Signal

SAMPLE = 32
"""Rows of a batch that are looked at: the first ones."""

Flat = Callable[[Tensor, Tensor], Tensor]
"""Input and output of an activation -> where its slope is below 5 % of its largest."""

FLAT: dict[type[nn.Module], Flat] = {
    nn.ReLU: lambda _, out: out <= 0,
    nn.ReLU6: lambda _, out: (out <= 0) | (out >= 6),
    nn.Hardtanh: lambda _, out: (out <= out.amin()) | (out >= out.amax()),
    nn.Tanh: lambda _, out: out.abs() > 0.97468,
    nn.Sigmoid: lambda _, out: (out - 0.5).abs() > 0.48734,
    nn.GELU: lambda x, _: x < -2.3486,
    nn.SiLU: lambda x, _: x < -4.0826,
    nn.ELU: lambda _, out: out < -0.95,
}
"""The activations that are watched. A tanh has slope 1 − a², a sigmoid a (1 − a), an ELU 1 + a."""


def _signal(name: str, every: int) -> Signal:
    def measure(reading: Reading, memory: Memory) -> float:
        return reading.reported[name]

    cost = f"where it is due, a look at {SAMPLE} rows of each activation in the forward pass"
    return Signal(measure, unit="1", cost=cost, reported=(name,), every=every)


@register("signal", "activation_saturation", version=1)
def activation_saturation(every: Count = 16) -> Signal:
    """The share of activations that are flat: their slope is below 5 % of its largest.

    For a ReLU those that are 0, for a tanh those beyond ±0.975, and so on (`activations.FLAT`); the
    mean over all activation modules of the model, on the first 32 rows of a batch, in training
    mode. Those called as functions are not seen. Unit: 1.
    every: updates from one measurement to the next.
    """
    return _signal("activation_saturation", every)


@register("signal", "dead_units", version=1)
def dead_units(every: Count = 16) -> Signal:
    """The share of units that are flat for every row of the sample: no gradient reaches them.

    A unit is a channel of a convolution (dimension 1 of 4 or 5), else the last dimension; with 32
    rows, one that is active for every hundredth row is called dead seven times out of ten. As
    activation_saturation otherwise. Unit: 1.
    Source: Lu et al. 2020 (arXiv:1903.06733), on what dies in ReLU networks.
    every: updates from one measurement to the next.
    """
    return _signal("dead_units", every)


class Activations:
    """Forward hooks on a model's activation modules, which look while `wanted` says so.

    Raises InputError for a model without any module that is in `FLAT`.
    """

    REPORTS = ("activation_saturation", "dead_units")

    def __init__(self, model: nn.Module, wanted: Callable[[], bool]) -> None:
        watched = [module for module in model.modules() if type(module) in FLAT]
        if not watched:
            known = ", ".join(kind.__name__ for kind in FLAT)
            raise InputError(f"the model has no activation to look at; watched are {known}")
        self._wanted = wanted
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}
        self._hooks = [module.register_forward_hook(self._look) for module in watched]

    def _look(self, module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        if not (module.training and out.ndim > 1 and out.numel() and self._wanted()):
            return
        with torch.no_grad():
            rows = min(SAMPLE, out.shape[0])
            flat = FLAT[type(module)](inputs[0].narrow(0, 0, rows), out.narrow(0, 0, rows))
            units = flat.movedim(1 if flat.ndim in (4, 5) else -1, 0).flatten(1)
            self._seen[id(module)] = flat.float().mean(), units.all(1).float().mean()

    def reading(self) -> dict[str, Tensor]:
        """What was seen since the last call, each the mean over the modules; nothing where nothing
        was."""
        if not self._seen:
            return {}
        saturated, dead = zip(*self._seen.values(), strict=True)
        self._seen = {}
        pairs = zip(self.REPORTS, (saturated, dead), strict=True)
        return {name: torch.stack(list(found)).mean() for name, found in pairs}

    def close(self) -> None:
        """Take the hooks off; the model is as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
