"""Clauses about what a step does: to parameters, to gradients, and when it is not taken."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from rheostat.conformance.subject import (
    NotApplicable,
    Subject,
    bits,
    closure_for,
    expect,
    model,
    state_bits,
    step_with,
    train,
)
from rheostat.core.errors import RheostatError


def deterministic(subject: Subject) -> None:
    """The same run gives the same bits."""
    runs: list[list[bytes]] = []
    for _ in range(2):
        net = model()
        train(net, subject.make(net), range(12))
        runs.append(bits(list(net.parameters())))
    expect(runs[0] == runs[1], "two equal runs of 12 steps gave different weights")


def moves(subject: Subject) -> None:
    """It moves parameters that have gradients, and keeps them finite."""
    net = model()
    before = bits(list(net.parameters()))
    train(net, subject.make(net), range(12))
    after = list(net.parameters())
    expect(all(bool(p.isfinite().all()) for p in after), "weights are not finite after 12 steps")
    still = [
        n
        for (n, _), b, a in zip(net.named_parameters(), before, bits(after), strict=True)
        if b == a
    ]
    expect(not still, f"{', '.join(still)} did not move in 12 steps")


def no_gradient(subject: Subject) -> None:
    """A parameter without a gradient keeps its weights and its state, to the bit."""
    net = model()
    opt = subject.make(net)
    train(net, opt, range(3))
    bias = dict(net.named_parameters())["1.bias"]
    before = bits([bias]), {k: v for k, v in state_bits(opt).items() if k.startswith("1.bias.")}
    closure = closure_for(net, opt, 3)

    def without() -> torch.Tensor:
        loss = closure()
        bias.grad = None
        return loss

    opt.step(without)
    after = bits([bias]), {k: v for k, v in state_bits(opt).items() if k.startswith("1.bias.")}
    expect(before == after, "a parameter without a gradient was changed, or its state")


def zero_gradient(subject: Subject) -> None:
    """Zero gradients, first or later, give finite weights and state."""
    net = model()
    opt = subject.make(net)
    zeros = [(p, torch.zeros_like(p)) for p in net.parameters()]
    step_with(opt, zeros)
    train(net, opt, range(2))
    for _ in range(3):
        step_with(opt, zeros)
    finite = all(bool(p.isfinite().all()) for p in net.parameters())
    expect(finite, "weights are not finite after steps with zero gradients")
    state = [t for s in opt.state.values() for t in s.values()]
    # Infinity is a legal starting value of a running minimum; NaN is a value of nothing.
    expect(not any(bool(t.isnan().any()) for t in state), "state is NaN after zero gradients")


def fresh_no_op(subject: Subject) -> None:
    """lr 0 with zero gradients on a fresh optimizer changes no parameter, to the bit."""
    net = model()
    opt = subject.make(net)
    before = bits(list(net.parameters()))
    for group in opt.param_groups:
        group["lr"] = 0.0
    step_with(opt, [(p, torch.zeros_like(p)) for p in net.parameters()])
    expect(before == bits(list(net.parameters())), "lr 0 and zero gradients moved the weights")


def late_first_gradient(subject: Subject) -> None:
    """A first gradient after 100 steps gives the update of a fresh start."""
    if subject.whole:
        raise NotApplicable(subject.whole)
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(6, 5, generator=generator)
    gradients = [torch.randn(6, 5, generator=generator) for _ in range(3)]
    late, other = nn.Parameter(start.clone()), nn.Parameter(torch.ones(4, 4))
    fresh = nn.Parameter(start.clone())
    opt = subject.make([("late", late), ("other", other)])
    for k in range(100):
        step_with(opt, [(late, None), (other, torch.full((4, 4), math.sin(k) + 1.5))])
    beside = subject.make([("late", fresh)])
    for gradient in gradients:
        step_with(opt, [(late, gradient), (other, torch.ones(4, 4))])
        step_with(beside, [(fresh, gradient)])
    gap = (late - fresh).abs().max().item()
    expect(gap == 0.0, f"the late parameter is off a fresh start's by {gap:.3g}")


def nonfinite_skip(subject: Subject) -> None:
    """A NaN or infinite gradient skips the whole step, changes nothing, and says so."""
    for bad in (math.nan, math.inf):
        net = model()
        opt = subject.make(net)
        train(net, opt, range(2))
        before = bits(list(net.parameters())), state_bits(opt)
        opt.step(_poisoned(closure_for(net, opt, 2), net, bad))
        result = opt.last_step
        expect(result is not None and not result.applied, f"a gradient of {bad} was applied")
        assert result is not None
        expect("4.weight" in (result.reason or ""), "the reason does not name the parameter")
        expect(before == (bits(list(net.parameters())), state_bits(opt)), "something was changed")
        train(net, opt, range(3, 5))
        expect(bool(opt.last_step and opt.last_step.applied), "training did not go on")


def _poisoned(
    closure: Callable[[], torch.Tensor], net: nn.Module, bad: float
) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        loss = closure()
        grad = dict(net.named_parameters())["4.weight"].grad
        assert grad is not None
        grad[0, 0] = bad
        return loss

    return run


def nonfinite_raise(subject: Subject) -> None:
    """Under nonfinite="raise" the error names the parameter, and nothing is changed."""
    net = model()
    opt = subject.make(net, nonfinite="raise")
    before = bits(list(net.parameters()))
    gradients = [(p, torch.full_like(p, math.nan)) for p in net.parameters()]
    try:
        step_with(opt, gradients)
    except RheostatError as error:
        named = any(name in str(error) for name, _ in net.named_parameters())
        expect(named, f"the error does not name the parameter: {error}")
    else:
        expect(False, "a NaN gradient raised nothing")
    expect(before == bits(list(net.parameters())), "weights were changed")


def gradients_untouched(subject: Subject) -> None:
    """No gradient is written."""
    net = model()
    opt = subject.make(net)
    for k in range(3):
        closure = closure_for(net, opt, k)
        closure()
        before = bits([p.grad for p in net.parameters() if p.grad is not None])
        gradients = [(p, None if p.grad is None else p.grad.clone()) for p in net.parameters()]
        for param, gradient in gradients:
            param.grad = gradient
        held = [p.grad for p in net.parameters() if p.grad is not None]
        opt.step(lambda: torch.zeros(()))
        expect(before == bits(held), "a gradient was written")


def maximize(subject: Subject) -> None:
    """maximize=True climbs: it does with a gradient what minimising does with its negative."""
    start = torch.randn(6, 5, generator=torch.Generator().manual_seed(4))
    up, down = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ascent, descent = subject.make([up], maximize=True), subject.make([down])
    for k in range(5):
        gradient = torch.randn(6, 5, generator=torch.Generator().manual_seed(k))
        step_with(ascent, [(up, gradient)])
        step_with(descent, [(down, -gradient)])
    expect(torch.equal(up, down), "maximising g differs from minimising −g")


def closure_loss(subject: Subject) -> None:
    """step(closure) returns the closure's loss."""
    net = model()
    opt = subject.make(net)
    loss = opt.step(closure_for(net, opt, 0))
    expect(float(loss.detach()) > 0, f"step(closure) returned {loss!r}")


def copies(subject: Subject) -> None:
    """A deep copy of model and optimizer goes on by itself, to the same bits."""
    net = model()
    opt = subject.make(net)
    train(net, opt, range(4))
    twin_net, twin = copy.deepcopy((net, opt))
    train(net, opt, range(4, 8))
    train(twin_net, twin, range(4, 8))
    expect(bits(list(net.parameters())) == bits(list(twin_net.parameters())), "the copy parted")


CLAUSES = (
    deterministic,
    moves,
    no_gradient,
    zero_gradient,
    fresh_no_op,
    late_first_gradient,
    nonfinite_skip,
    nonfinite_raise,
    gradients_untouched,
    maximize,
    closure_loss,
    copies,
)
