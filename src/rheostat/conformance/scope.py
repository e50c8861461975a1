"""Clauses about what a rule's `scope` promises: the loop gathers and compiles by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheostat.conformance.subject import NotApplicable, Subject, bits, expect, step_with
from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.build import optimizer
from rheostat.optimizers.items import HALF
from rheostat.optimizers.kernels import Mode, compiler_at_hand

_STEPS = 6
_NEAR, _NEAR_IN_HALF = 2e-4, 2**-8
"""Of the way that a parameter went: how far its compiled run may be off, in float32, and where a
buffer rounds to half precision."""


def alone_or_not(subject: Subject) -> None:
    """A parameter moves the same alone and among fifty others."""
    if subject.whole:
        raise NotApplicable(subject.whole)
    for rule in subject.rules:
        moved = [_moved(rule, others=others) for others in (0, 50)]
        same = torch.allclose(*moved, rtol=1e-6, atol=1e-9)
        expect(same, f"{rule.name} moves a parameter otherwise where there are others beside it")


def elements_apart(subject: Subject) -> None:
    """Where a rule says that it works element by element, none feels another's gradient."""
    if subject.whole:
        raise NotApplicable(subject.whole)
    rules = [rule for rule in subject.rules if rule.scope == "element"]
    if not rules:
        raise NotApplicable("it works on more than elements, and says so")
    for rule in rules:
        plain, other = (_moved(rule, first=first).flatten()[1:] for first in (1.0, 3.0))
        expect(
            bits([plain]) == bits([other]),
            f"{rule.name} declares scope='element', and another element's gradient changes the "
            "update of all; leave scope out, or say 'whole'",
        )


def compiled_as_eager(subject: Subject) -> None:
    """Where the rule can be compiled, it moves parameters as it does piece by piece."""
    if not compiler_at_hand():
        raise NotApplicable("there is no compiler here")
    compared = False
    for rule in subject.rules:
        starts, slow = _trained(rule, "eager")
        try:
            _, fast = _trained(rule, "compiled")
        except InputError:  # it needs parameters in their shape, or branches on a number
            continue
        compared = True
        half = any(buffer.dtype in HALF for buffer in rule.buffers.values())
        for start, one, other in zip(starts, slow, fast, strict=True):
            way = (one - start).abs().max().item()
            off = (one - other).abs().max().item()
            expect(
                off <= (_NEAR_IN_HALF if half else _NEAR) * way + 1e-6 * start.abs().max().item(),
                f"{rule.name} moves a parameter of shape {tuple(start.shape)} by {way:.3g}, and "
                f"ends {off:.3g} off when it is compiled; report it, and use mode='eager'",
            )
    if not compared:
        raise NotApplicable("it is not compiled")


def _trained(rule: Transform, mode: Mode) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters of several shapes before and after some steps, with gradients of all sizes; the
    vector has none at first."""
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((40, 60), (96,), (2, 3, 3, 3))]
    params = [nn.Parameter(start.clone()) for start in starts]
    opt = optimizer(rule, params, mode=mode)
    for k in range(_STEPS):
        sizes = [10.0 ** torch.randn(start.shape, generator=generator) for start in starts]
        found = [size * torch.randn(size.shape, generator=generator) for size in sizes]
        late = [None if k < 2 and gradient.dim() == 1 else gradient for gradient in found]
        step_with(opt, [*zip(params, late, strict=True)])
    return starts, [param.detach() for param in params]


def _moved(rule: Transform, others: int = 0, first: float = 1.0) -> Tensor:
    """A parameter after some steps, beside others; the gradient of its first element is multiplied
    by `first`."""
    mine, theirs = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)

    def drawn(generator: torch.Generator) -> Tensor:
        return torch.randn(4, 6, generator=generator)

    params = [("watched", nn.Parameter(drawn(mine)))]
    params += [(f"beside.{i}", nn.Parameter(drawn(theirs))) for i in range(others)]
    opt = optimizer(rule, params, mode="eager")
    for _ in range(_STEPS):
        gradient = drawn(mine)
        gradient[0, 0] *= first
        beside = [drawn(theirs) * (i + 2) for i in range(others)]
        named = zip(params, (gradient, *beside), strict=True)
        step_with(opt, [(param, found) for (_, param), found in named])
    return params[0][1].detach()


CLAUSES = (alone_or_not, elements_apart, compiled_as_eager)
