"""What can be said of an optimizer without running it: it follows from the rules' declarations."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rheostat.core.component import Component
from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.policy import Policy

SIDE = 1024
"""Sides of the hidden float32 matrix that costs are stated for."""


@dataclass(frozen=True)
class Traits:
    """What holds of an optimizer with its default arguments.

    Attributes:
        state_bytes: bytes of state an element of a hidden float32 matrix of SIDE × SIDE.
        passes: how often an element of that matrix, or of its state, is read or written in a step,
            at least: the gradient, the weight twice, and its state twice.
        elementwise: each element of an update depends on that element alone (and on scalars), so
            that shards and any number of threads give the same bits.
        sparse: takes sparse gradients.
        complex: takes complex parameters, as pairs of reals.
        shards: works on a part of a parameter by itself, sums over parameters aside.
        closure: `step` must be given a closure.
        observes: is told of the curvature by `Optimizer.observe`.
        averages: evaluates with other weights than it trains, inside `Optimizer.averaged()`.
        together: what one parameter does depends on all.
    """

    state_bytes: float
    passes: float
    elementwise: bool
    sparse: bool
    complex: bool
    shards: bool
    closure: bool
    observes: bool
    averages: bool
    together: bool

    @classmethod
    def of(cls, component: Component) -> Traits:
        """The traits of a registered optimizer.

        Raises:
            InputError: it is another library's, or cannot be made without arguments.
        """
        made = component.factory()
        if not isinstance(made, Transform | Policy):
            raise InputError(f"{component.ref} is another library's, and declares nothing")
        rules = [line.rule for line in made.lines] if isinstance(made, Policy) else [made]
        pieces = [piece for rule in rules for piece in rule.pieces]
        size = state_bytes(made, (SIDE, SIDE)) / SIDE**2
        elementwise = all(piece.scope == "element" for piece in pieces)
        together = any(bool(p.measure or p.search or p.scalars) for p in pieces)
        return cls(
            state_bytes=size,
            passes=3 + 2 * size / 4,
            elementwise=elementwise and not together,
            sparse=all(rule.sparse for rule in rules),
            complex=elementwise,
            shards=elementwise and not any(piece.search for piece in pieces),
            closure=any(bool(piece.search or piece.probe) for piece in pieces),
            observes=any(piece.observe is not None for piece in pieces),
            averages=any(piece.view is not None for piece in pieces),
            together=together,
        )


def state_bytes(rule: Transform | Policy, shape: tuple[int, ...]) -> int:
    """Bytes of state for a float32 parameter of this shape, the step count left out.

    Under a policy two dimensions or more are a hidden matrix, one is a bias. Nothing is allocated.
    """
    param = torch.empty(shape, device="meta")
    role = "matrix" if len(shape) > 1 else "bias"
    if isinstance(rule, Policy):
        rule = next(line.rule for line in rule.lines if line.claims("hidden", param, role))
    made = [buffer.make(param) for buffer in rule.buffers.values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in made)
