"""Faster ways to run a whole rule than parameter by parameter: torch's fused kernels, compiled
ones, and many small parameters as one.

Never needed for correctness: what no kernel takes runs by itself, piece by piece. A kernel runs
many parameters at once, and its numbers agree with the eager ones to rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.compiled import CompiledKernel
from rheostat.optimizers.device import DEVICE_TYPES
from rheostat.optimizers.flanked import FlankedKernel
from rheostat.optimizers.fused import FusedKernel
from rheostat.optimizers.gathered import GatheredKernel
from rheostat.optimizers.matrices import MatrixKernel
from rheostat.optimizers.native import NativeKernel, compiler_at_hand

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

Mode = Literal["auto", "eager", "fused", "compiled"]

COMPILE_FROM = 1 << 19
"""Elements in a group from which compiling its rule pays: below, the eager step takes less than a
few milliseconds, and a user who tries something out should not wait for a compiler."""


class Kernel(Protocol):
    """Runs a rule, from gradients to moved parameters, over many items."""

    finishes: bool
    """Whether it runs what pieces do once the parameter has moved, too."""

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Whether it can run such a parameter at all; others run eagerly."""
        ...

    def takes(self, item: Item) -> bool:
        """Whether it can run one that suits with the gradient it has now, laid out as it is."""
        ...

    def run(self, items: Sequence[Item]) -> None:
        """Move the items' parameters and write their buffers."""
        ...


def choose_mode(
    rule: Transform, params: Sequence[Tensor], mode: Mode, scheduled: Collection[str] = ()
) -> Mode:
    """What "auto" means for a rule over these parameters: a function of the rule, of sizes, and on
    a device of what is scheduled: there a fused kernel can follow no schedule but that of the lr.

    Raises InputError for a mode that the rule cannot have.
    """
    fusible = FusedKernel.can_run(rule)
    if mode == "fused" and not fusible:
        raise InputError(
            f"mode='fused': torch has no fused kernel for {rule.name}; 'auto' runs it fast without"
        )
    # A later group may have no parameter that is a matrix; it runs as "compiled" all the same.
    if mode == "compiled" and not (_compilable(rule, params) or MatrixKernel.can_write(rule)):
        raise InputError(
            f"mode='compiled': {rule.name} needs parameters in their shape, branches on a number, "
            "or reads what may change from step to step; 'auto' runs it eagerly"
        )
    if mode != "auto":
        if mode not in ("eager", "fused", "compiled"):
            raise InputError(f"mode={mode!r}: should be 'auto', 'eager', 'fused' or 'compiled'")
        return mode
    if params and params[0].device.type in DEVICE_TYPES and set(scheduled) - {"lr"}:
        fusible = False
    if fusible and not FusedKernel.copies_gradients(rule):
        return "fused"
    # A fused kernel that would have to copy the gradients first is the second choice.
    pays = sum(param.numel() for param in params) >= COMPILE_FROM
    if pays and _compilable(rule, params) and compiler_at_hand():
        return "compiled"
    return "fused" if fusible else "eager"


def _compilable(rule: Transform, params: Sequence[Tensor]) -> bool:
    """Whether the whole rule can be compiled, or on the CPU what it begins and ends with, or what
    it does with matrices."""
    on_cpu = all(param.device.type == "cpu" for param in params)
    flanked = on_cpu and FlankedKernel.can_run(rule)
    return CompiledKernel.can_run(rule) or flanked or MatrixKernel.can_run(rule, params)


def make_kernels(rule: Transform, mode: Mode) -> list[Kernel]:
    """The kernels of a chosen mode, the better first."""
    kernels: list[Kernel] = []
    if mode == "fused":
        kernels.append(FusedKernel(rule))
    elif mode == "compiled" and not CompiledKernel.can_run(rule):
        kernels += [MatrixKernel(rule)] if rule.scope == "matrix" else []
        kernels += [FlankedKernel(rule)] if FlankedKernel.can_run(rule) else []
    elif mode == "compiled":
        native = NativeKernel.can_run(rule)
        kernels += [NativeKernel(rule)] if native else []
        kernels.append(CompiledKernel(rule, on_cpu=not native))
    return [*kernels, GatheredKernel(rule)] if GatheredKernel.can_run(rule) else kernels


def fitting(kernels: Sequence[Kernel], param: Tensor, state: Mapping[str, Tensor]) -> Kernel | None:
    """The first kernel that can run a parameter; None where it is run piece by piece."""
    return next((kernel for kernel in kernels if kernel.suits(param, state)), None)
