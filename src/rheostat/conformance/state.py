"""Clauses about state: where it lives, how it is saved, and that a resumed run is the same run."""

from __future__ import annotations

import io

import torch
from torch import nn
from torch.distributed.checkpoint import state_dict as dcp

from rheostat.conformance.subject import Subject, bits, expect, model, state_bits, step_with, train


def made_at_construction(subject: Subject) -> None:
    """State exists from construction: no step adds, removes or reshapes a buffer."""
    net = model()
    opt = subject.make(net)
    before = {
        n: {k: tuple(v.shape) for k, v in opt.state[p].items()} for n, p in net.named_parameters()
    }
    train(net, opt, range(4))
    after = {
        n: {k: tuple(v.shape) for k, v in opt.state[p].items()} for n, p in net.named_parameters()
    }
    expect(before == after, "the buffers after four steps are not those of construction")


def as_declared(subject: Subject) -> None:
    """State holds the declared buffers and the step count, to the byte, and nothing else."""
    net = model()
    opt = subject.make(net)
    for index, group in enumerate(opt.param_groups):
        for param in group["params"]:
            declared = opt.buffers_of(param, index)
            expect(set(opt.state[param]) == {"step", *declared}, "undeclared buffers")
            for name, buffer in declared.items():
                made, held = buffer.make(param), opt.state[param][name]
                same = (made.shape, made.dtype) == (held.shape, held.dtype)
                expect(same, f"{name} is not as declared: {held.dtype} {tuple(held.shape)}")


def resumes(subject: Subject) -> None:
    """Saved at a step, loaded into a new optimizer (weights_only), it goes on to the same bits."""
    net = model()
    opt = subject.make(net)
    train(net, opt, range(5))
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "opt": opt.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again = model(seed=9)
    again.load_state_dict(saved["net"])
    other = subject.make(again)
    other.load_state_dict(saved["opt"])
    train(net, opt, range(5, 11))
    train(again, other, range(5, 11))
    expect(bits(list(net.parameters())) == bits(list(again.parameters())), "weights parted")
    expect(state_bits(opt) == state_bits(other), "state parted")


def matched_by_name(subject: Subject) -> None:
    """Loaded over parameters in another order, state finds its parameter by name."""
    net = model()
    opt = subject.make(list(net.named_parameters()))
    train(net, opt, range(3))
    backwards = model(seed=1)
    other = subject.make(list(reversed(list(backwards.named_parameters()))))
    other.load_state_dict(opt.state_dict())
    expect(state_bits(opt) == state_bits(other), "state went to another parameter")


def keeps_dtype(subject: Subject) -> None:
    """Half-precision parameters have float32 state, and loading keeps its dtype and bits."""
    for dtype in (torch.bfloat16, torch.float16):
        net = model(dtype=dtype)
        opt = subject.make(net)
        train(net, opt, range(3))
        finite = all(bool(p.isfinite().all()) for p in net.parameters())
        # A line search is only as good as the losses that it compares, and these are halves too.
        searches = any(piece.search for rule in subject.rules for piece in rule.pieces)
        expect(finite or searches, f"{dtype} weights are not finite after three steps")
        for index, group in enumerate(opt.param_groups):
            for param in group["params"]:
                for name, buffer in opt.buffers_of(param, index).items():
                    wanted = buffer.dtype or torch.float32  # a rule may declare a half by name
                    held = opt.state[param][name].dtype
                    expect(held == wanted, f"{name} of a {dtype} parameter is {held}")
        again = model(dtype=dtype)
        other = subject.make(again)
        other.load_state_dict(opt.state_dict())
        expect(state_bits(opt) == state_bits(other), f"{dtype}: loading changed the state")


def distributed_checkpoint(subject: Subject) -> None:
    """torch.distributed.checkpoint's state dict of a fresh optimizer leaves weights as they are."""
    net = model()
    opt = subject.make(net)
    before = bits(list(net.parameters()))
    saved = dcp.get_optimizer_state_dict(net, opt)
    expect(before == bits(list(net.parameters())), "asking for the state moved the weights")
    train(net, opt, range(3))
    saved = dcp.get_optimizer_state_dict(net, opt)
    again = model(seed=2)
    again.load_state_dict(net.state_dict())
    other = subject.make(again)
    dcp.set_optimizer_state_dict(again, other, saved)
    train(net, opt, range(3, 6))
    train(again, other, range(3, 6))
    same = bits(list(net.parameters())) == bits(list(again.parameters()))
    expect(same, "a run resumed through torch.distributed.checkpoint parted")


def groups_join(subject: Subject) -> None:
    """A group added in mid-training, and a parameter unfrozen, train from their own first step."""
    first, second = nn.Parameter(torch.ones(5, 4)), nn.Parameter(torch.ones(4, 5))
    frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)
    opt = subject.make([("first", first), ("frozen", frozen)])
    gradient = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        step_with(opt, [(first, gradient)])
    opt.add_param_group({"params": [("second", second)]})
    frozen.requires_grad_(True)
    for _ in range(8):
        step_with(opt, [(first, gradient), (second, gradient.T), (frozen, torch.eye(3) + 0.5)])
    steps = [int(opt.state[p]["step"]) for p in (first, second, frozen)]
    expect(steps == [11, 8, 8], f"step counts are {steps}, not [11, 8, 8]")
    expect(not torch.equal(second, torch.ones(4, 5)), "the new group did not move")


def tied_once(subject: Subject) -> None:
    """A tied parameter is claimed, and moved, once."""
    net = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Linear(6, 6, bias=False))
    cast_out = net[2]
    assert isinstance(cast_out, nn.Linear)
    first = net[0]
    assert isinstance(first, nn.Linear)
    cast_out.weight = first.weight
    opt = subject.make(net)
    count = sum(len(group["params"]) for group in opt.param_groups)
    expect(count == 1, f"a tied weight was claimed {count} times")


CLAUSES = (
    made_at_construction,
    as_declared,
    resumes,
    matched_by_name,
    keeps_dtype,
    distributed_checkpoint,
    groups_join,
    tied_once,
)
