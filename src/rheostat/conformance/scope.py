"""Clauses about what a rule's `scope` promises: the loop gathers and compiles by it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheostat.conformance.subject import NotApplicable, Subject, bits, expect, step_with
from rheostat.core.transform import Transform
from rheostat.optimizers.build import optimizer

_STEPS = 6


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


CLAUSES = (alone_or_not, elements_apart)
