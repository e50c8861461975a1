"""Samples of the Hessian's diagonal, for rules that precondition by it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError, RheostatError
from rheostat.core.sealed import Sealed
from rheostat.core.sharded import any_sharded
from rheostat.core.transform import Hyper, Transform
from rheostat.optimizers import device
from rheostat.optimizers.guard import NonFinite
from rheostat.optimizers.items import Held, Options, check_kind, noise, numbers_of
from rheostat.signals.norms import peaks

Estimator = Literal["hutchinson", "gnb"]
Groups = Sequence[dict[str, Any]]
Slopes = Sequence[Tensor | None]
"""Gradients of parameters, or what was made of them; None where the loss does not depend on one."""


def observe(
    groups: Groups,
    rules: Sequence[Transform],
    every: Sequence[Held],
    options: Options,
    closure: Callable[[], Tensor],
    estimator: Estimator,
    batch_size: float,
) -> None:
    """Show the rules that use it a sample of the Hessian's diagonal; see `Optimizer.observe`.

    Raises InputError for what cannot be sampled, and RheostatError for a sample that is not finite
    under "raise"; no buffer is changed then.
    """
    examples = _checked(estimator, batch_size)
    using = {index for index, rule in enumerate(rules) if any(p.observe for p in rule.pieces)}
    held = [one for one in every if one.param.requires_grad and one.group in using]
    if not held:
        raise InputError("observe: no rule of this optimizer uses the Hessian's diagonal")
    if any_sharded(one.param for one in held):
        raise InputError("observe: the parameters are sharded, and a sample needs whole ones")
    held = [one for one in held if one.state]  # frozen until now: it gets its state at a step
    steps = _steps(held)
    with torch.enable_grad():
        gradients = _gradients(closure(), held, create_graph=estimator == "hutchinson")
        for one, gradient in zip(held, gradients, strict=True):
            if gradient is not None:
                check_kind(one, gradient, rules[one.group], options)
        if estimator == "gnb":
            samples = _gauss_newton_bartlett(gradients, examples)
        else:
            samples = _hutchinson(groups, held, steps, gradients)
    ok = _look(held, samples, options.nonfinite)
    if ok is False:
        return
    for one, step, sample in zip(held, steps, samples, strict=True):
        if sample is not None:
            _show(groups[one.group], rules[one.group], one, step, sample, ok)


def _checked(estimator: str, batch_size: Any) -> float:
    """The number of examples. Raises InputError where it is none, and for another estimator."""
    if estimator not in ("hutchinson", "gnb"):
        raise InputError(f"estimator={estimator!r}: should be 'hutchinson' or 'gnb'")
    one: bool = isinstance(batch_size, Tensor) and batch_size.numel() == 1
    value = batch_size.item() if one else batch_size
    # A bool is a Real, too.
    found = float(value) if isinstance(value, Real) and value is not True else math.nan
    if not (found >= 1 and found.is_integer()):
        raise InputError(f"observe: batch_size={value!r}: should be a whole number from 1 on")
    return found


def _steps(held: Sequence[Held]) -> list[float]:
    """The updates that each parameter has received; of those on a device, in one wait."""
    counts = [one.state["step"] for one in held]
    return cast("list[float]", torch.stack(counts).tolist()) if counts else []


def _gradients(loss: Any, held: Sequence[Held], *, create_graph: bool) -> Slopes:
    """The gradients of what a closure returned. Raises InputError where that is no loss."""
    should = "it should return the loss, a tensor of one real number, with its graph"
    if not isinstance(loss, Tensor):
        returned = "None" if loss is None else f"a {type(loss).__name__}"
        raise InputError(f"observe: the closure returned {returned}; {should}")
    if loss.numel() != 1 or loss.is_complex():
        kind = f"{str(loss.dtype).removeprefix('torch.')} of shape {tuple(loss.shape)}"
        raise InputError(f"observe: the closure returned {kind}; {should}")
    if not loss.requires_grad:
        raise InputError("observe: the closure should return the loss with its graph")
    params = [one.param for one in held]
    if not params:
        return ()
    try:
        return torch.autograd.grad(loss, params, create_graph=create_graph, allow_unused=True)
    except RuntimeError as error:
        if "a second time" not in str(error):
            raise
        raise InputError(f"observe: the closure went backward already; {should}") from None


def _gauss_newton_bartlett(gradients: Slopes, examples: float) -> Slopes:
    """examples · g ∘ g; whether the loss is minimised or maximised does not matter to a square."""
    return [g if g is None else examples * _wide(_real(g)).square() for g in gradients]


def _hutchinson(
    groups: Groups, held: Sequence[Held], steps: Sequence[float], gradients: Slopes
) -> Slopes:
    """z ∘ (H z) of what is minimised, and 0 where the loss is linear in a parameter."""
    signs = [_signs(groups[o.group], o, step) for o, step in zip(held, steps, strict=True)]
    for index in {one.group for one in held}:
        groups[index]["observed"] += 1
    pairs = zip(gradients, signs, strict=True)
    curved = [(g, z) for g, z in pairs if g is not None and g.requires_grad]
    products: Slopes = [None] * len(held)
    if curved:
        slopes, vectors = zip(*curved, strict=True)
        params = [one.param for one in held]
        products = torch.autograd.grad(slopes, params, vectors, allow_unused=True)
    samples: list[Tensor | None] = []
    for one, z, gradient, product in zip(held, signs, gradients, products, strict=True):
        if gradient is None:
            samples.append(None)
            continue
        bend = torch.zeros_like(one.param) if product is None else product
        sample = _wide(_real(z) * _real(bend))
        samples.append(-sample if groups[one.group]["maximize"] else sample)
    return samples


def _signs(group: dict[str, Any], one: Held, step: float) -> Tensor:
    """±1 for every element, and for either part of a complex one, as for the pair of reals.

    They are drawn by a count of samples that is saved with the group.
    """
    # A stream of its own beside the noise that the rule draws at this step.
    draw = noise(group["seed"], step, f"signs {group['observed']} {one.name}")
    like = _real(one.param)
    signs = torch.where(draw(like) >= 0, 1.0, -1.0).to(like.dtype)
    return torch.view_as_complex(signs) if one.param.is_complex() else signs


def _look(held: Sequence[Held], samples: Slopes, policy: NonFinite) -> bool | Tensor:
    """Whether a sample, of all parameters together, may be taken; a bool on the device where that
    spares waiting for it. Raises RheostatError for one that is not finite under "raise"."""
    if policy == "propagate":
        return True
    pairs = zip(held, samples, strict=True)
    found = [(one.name, sample) for one, sample in pairs if sample is not None and sample.numel()]
    devices = {sample.device for _, sample in found}
    if policy == "skip" and len(devices) == 1 and devices.pop().type in device.DEVICE_TYPES:
        return peaks([sample for _, sample in found]).isfinite().all()
    bad = [name for name, sample in found if not bool(sample.isfinite().all())]
    if bad and policy == "raise":
        raise RheostatError(f"the Hessian's sample of {bad[0]} is not finite; nothing was updated")
    return not bad


def _show(
    group: dict[str, Any],
    rule: Transform,
    one: Held,
    step: float,
    sample: Tensor,
    ok: bool | Tensor,
) -> None:
    """Show one parameter's sample to the pieces that observe; where `ok` is a bool on the device,
    their buffers stay as they were if it is false."""
    hyper = Hyper(**numbers_of(group, rule), step=step, gradient=sample)
    state = {name: _real(value) for name, value in one.state.items()}
    for piece in rule.pieces:
        if piece.observe is None:
            continue
        before = {n: state[n].clone() for n in piece.buffers} if isinstance(ok, Tensor) else {}
        piece.observe(sample, Sealed(state, rule.name), _real(one.param), hyper)
        for name, old in before.items():
            state[name].copy_(torch.where(cast("Tensor", ok), state[name], old))


def _real(tensor: Tensor) -> Tensor:
    """Complex numbers as pairs of reals, which rules see; others as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _wide(tensor: Tensor) -> Tensor:
    half = tensor.dtype in (torch.float16, torch.bfloat16)
    return tensor.detach().float() if half else tensor.detach()
