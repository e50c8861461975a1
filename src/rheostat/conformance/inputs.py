"""Clauses about inputs: shapes, dtypes, layouts, hyperparameters, and what is refused."""

from __future__ import annotations

import math

import torch
from torch import nn

from rheostat.conformance.subject import (
    NotApplicable,
    Subject,
    bits,
    expect,
    model,
    step_with,
    train,
)
from rheostat.core.errors import InputError


def odd_shapes(subject: Subject) -> None:
    """0-dim, empty and one-element parameters, vectors, tensors of four dimensions: all train."""
    shapes = [(), (0,), (1,), (3, 0), (1, 1), (5,), (3, 2), (2, 3, 4), (4, 3, 2, 2)]
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    opt = subject.make(params)
    generator = torch.Generator().manual_seed(0)
    moved: set[tuple[int, ...]] = set()
    for _ in range(8):  # some rules stand still at first, to learn the scale of the gradient
        step_with(opt, [(p, torch.randn(p.shape, generator=generator)) for p in params])
        moved |= {tuple(p.shape) for p in params if p.numel() == 0 or bool((p != 1).any())}
    finite = all(bool(p.isfinite().all()) for p in params)
    expect(finite, "weights of odd shapes are not finite after eight steps")
    still = [shape for shape in shapes if shape not in moved]
    expect(not still, f"parameters of shape {still} did not move")


def mixed_dtypes(subject: Subject) -> None:
    """float64, float32 and bfloat16 parameters train in one optimizer."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16)
    params = [nn.Parameter(torch.ones(4, 3, dtype=d)) for d in dtypes]
    # With a float32 copy: a bfloat16 weight of 1 does not notice a change below 1/256.
    opt = subject.make(params, precision="master")
    for k in range(8):
        gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(k))
        step_with(opt, [(p, gradient.to(p.dtype)) for p in params])
    for dtype, param in zip(dtypes, params, strict=True):
        expect(param.dtype == dtype, f"a {dtype} parameter became {param.dtype}")
        moved = opt.state[param].get("master", param)
        expect(bool(moved.isfinite().all()), f"the {dtype} parameter is not finite")
        expect(not bool((moved == 1).all()), f"the {dtype} parameter did not move")


def empty_group(subject: Subject) -> None:
    """A group without parameters is no obstacle."""
    param = nn.Parameter(torch.ones(3, 3))
    opt = subject.make([param])
    opt.add_param_group({"params": []})
    for _ in range(8):
        step_with(opt, [(param, torch.eye(3) + 0.1)])
    expect(not bool((param == 1).all()), "the parameter did not move beside an empty group")
    opt.load_state_dict(opt.state_dict())


def complex_numbers(subject: Subject) -> None:
    """Complex parameters train as pairs of reals, or are refused by name."""
    start = torch.randn(4, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    param = nn.Parameter(start.clone())
    twin = nn.Parameter(torch.view_as_real(start).clone())
    opt, real = subject.make([("z", param)]), subject.make([("z", twin)])
    try:
        for k in range(3):
            g = torch.randn(4, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(k))
            step_with(opt, [(param, g)])
            step_with(real, [(twin, torch.view_as_real(g))])
    except InputError as error:
        expect("z is complex" in str(error), f"the refusal does not name the parameter: {error}")
        return
    gap = (torch.view_as_real(param) - twin).abs().max().item()
    expect(gap <= 1e-6, f"a complex parameter moves unlike its pairs of reals, by {gap:.3g}")


def sparse_gradients(subject: Subject) -> None:
    """A sparse gradient is taken exactly, or refused with the parameter and who can take it."""
    table, dense = nn.Embedding(6, 4, sparse=True), nn.Embedding(6, 4)
    with torch.no_grad():
        table.weight.copy_(torch.ones(6, 4))
        dense.weight.copy_(torch.ones(6, 4))
    opt = subject.make([("table", table.weight)])
    other = subject.make([("table", dense.weight)])
    index = torch.tensor([1, 4, 1])

    def loss(layer: nn.Embedding) -> torch.Tensor:
        layer.weight.grad = None
        value = layer(index).square().sum()
        value.backward()
        return value

    try:
        opt.step(lambda: loss(table))
    except InputError as error:
        named = "table has a sparse gradient" in str(error) and "sparse_adam" in str(error)
        expect(named, f"the refusal names neither the parameter nor who can take it: {error}")
        return
    other.step(lambda: loss(dense))
    touched = torch.tensor([1, 4])
    gap = (table.weight[touched] - dense.weight[touched]).abs().max().item()
    expect(gap <= 1e-6, f"rows with a gradient are off the dense step's by {gap:.3g}")
    rest = torch.tensor([0, 2, 3, 5])
    expect(bool((table.weight[rest] == 1).all()), "rows without a gradient moved")


def tensor_lr(subject: Subject) -> None:
    """A tensor learning rate gives the number's bits, and is never changed in place."""
    if not subject.takes("lr"):
        raise NotApplicable("it has no learning rate")
    nets = [model(), model()]
    lr = float(subject.component.signature.parameters["lr"].default)
    rate = torch.tensor(lr, dtype=torch.float64)
    for net, given in zip(nets, (lr, rate), strict=True):
        train(net, subject.make(net, lr=given), range(4))
    expect(rate.item() == lr, "the tensor learning rate was changed in place")
    same = bits(list(nets[0].parameters())) == bits(list(nets[1].parameters()))
    expect(same, "a tensor learning rate and the same number gave different weights")


def bad_hyperparameters(subject: Subject) -> None:
    """Unknown, negative, infinite and textual hyperparameters are refused in one line."""
    param = nn.Parameter(torch.ones(3, 3))
    for bad in ({"lrr": 0.1}, {"lr": -0.1}, {"lr": math.inf}, {"lr": "0.1"}, {"lr": math.nan}):
        if not subject.takes("lr") and "lr" in bad:
            continue
        try:
            subject.make([param], **bad)
        except InputError as error:
            expect("\n" not in str(error), f"{bad} was refused in more than one line")
        else:
            expect(False, f"{bad} was accepted")
    try:
        subject.make([{"params": [param], "weight_decya": 0.1}])
    except InputError:
        return
    expect(False, "a misspelt key of a group was accepted")


def grad_scaler(subject: Subject) -> None:
    """Under a GradScaler it moves as without, and an overflow skips the step."""
    if any(piece.search or piece.probe for rule in subject.rules for piece in rule.pieces):
        raise NotApplicable("torch's GradScaler takes no closure")
    start = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    scaled, plain = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    opt, other = subject.make([scaled]), subject.make([plain])
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=1000)
    for k in range(3):
        weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(k))
        opt.zero_grad()
        other.zero_grad()
        scaler.scale((scaled * weights).sum()).backward()
        (plain * weights).sum().backward()
        scaler.step(opt)
        scaler.update()
        other.step()
    expect(torch.equal(scaled, plain), "scaled by a power of two, it moved differently")
    before = bits([scaled])
    opt.zero_grad()
    scaler.scale((scaled * math.inf).sum()).backward()
    scaler.step(opt)
    expect(before == bits([scaled]), "an overflow moved the weights")


CLAUSES = (
    odd_shapes,
    mixed_dtypes,
    empty_group,
    complex_numbers,
    sparse_gradients,
    tensor_lr,
    bad_hyperparameters,
    grad_scaler,
)
