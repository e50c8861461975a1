"""Clauses about the card: what it says of costs and limits, and what code implies, is so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rheostat.conformance.subject import NotApplicable, Subject, bits, expect, step_with
from rheostat.core.errors import InputError
from rheostat.optimizers.traits import Traits, state_bytes

_SHAPES = ((48, 33), (33, 48), (37,))


def state_as_stated(subject: Subject) -> None:
    """The state on its card, and that which its rules declare, is what it holds, to the byte."""
    rule = subject.component.factory()
    for shape in _SHAPES:
        param = nn.Parameter(torch.ones(shape))
        opt = subject.make([("hidden", param)])
        step_with(opt, [(param, torch.full(shape, 0.5))])
        kept = [tensor for name, tensor in opt.state[param].items() if name != "step"]
        held = sum(tensor.numel() * tensor.element_size() for tensor in kept)
        declared = state_bytes(rule, shape)
        expect(declared == held, f"{shape}: declares {declared} bytes of state, and holds {held}")
        if "State" in subject.component.card.notes:
            stated = subject.component.card.state_bytes(*shape)
            expect(stated == held, f"{shape}: the card says {stated} bytes of state, it is {held}")


def threads(subject: Subject) -> None:
    """Where updates are element by element, one thread and two give the same bits."""
    if not Traits.of(subject.component).elementwise:
        raise NotApplicable("it sums over elements, in an order that threads divide")
    # More than torch gives one thread, and no multiple of a vector register.
    start = torch.randn(70_001, generator=torch.Generator().manual_seed(0))
    gradients = [
        torch.randn(start.shape, generator=torch.Generator().manual_seed(k)) for k in range(1, 5)
    ]
    before = torch.get_num_threads()
    results: list[list[bytes]] = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            param = nn.Parameter(start.clone())
            opt = subject.make([param])
            for gradient in gradients:
                step_with(opt, [(param, gradient)])
            results.append(bits([param]))
    finally:
        torch.set_num_threads(before)
    expect(results[0] == results[1], "two threads gave other weights than one")


def takes_as_stated(subject: Subject) -> None:
    """Sparse gradients, complex parameters, steps without closure: taken where it says so."""
    traits = Traits.of(subject.component)
    for what, claimed, attempt in (
        ("a sparse gradient", traits.sparse, _sparse),
        ("a complex parameter", traits.complex, _complex),
        ("a step without a closure", not traits.closure, _bare),
    ):
        try:
            attempt(subject)
            taken = True
        except InputError:
            taken = False
        said = "says that it takes" if claimed else "says that it refuses"
        expect(taken == claimed, f"it {said} {what}, and does not")


def _sparse(subject: Subject) -> None:
    table = nn.Embedding(6, 4, sparse=True)
    opt = subject.make([("table", table.weight)])
    opt.step(_closure(table.weight, lambda: table(torch.tensor([1, 4])).square().sum()))


def _complex(subject: Subject) -> None:
    param = nn.Parameter(torch.ones(4, 3, dtype=torch.complex64))
    opt = subject.make([("z", param)])
    opt.step(_closure(param, lambda: param.abs().square().sum()))


def _bare(subject: Subject) -> None:
    param = nn.Parameter(torch.ones(4, 3))
    opt = subject.make([("w", param)])
    param.grad = torch.ones(4, 3)
    opt.step()


def _closure(param: Tensor, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        param.grad = None
        value = loss()
        value.backward()
        return value

    return closure


CLAUSES = (state_as_stated, threads, takes_as_stated)
