"""From parameters to what a rule works on, and back: signs, precision, accumulation, noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer, Hyper, Transform
from rheostat.optimizers.guard import NonFinite
from rheostat.optimizers.kernels import Kernel

HALF = (torch.float16, torch.bfloat16)
_ACCUMULATED = {"accumulated": Buffer()}
_MASTER = {"master": Buffer("param", dtype=torch.float32)}


@dataclass(frozen=True)
class Options:
    """How the loop treats every rule alike; see `Optimizer`."""

    nonfinite: NonFinite
    accumulate: int
    precision: Literal["plain", "master", "stochastic"]

    def buffers(self, param: Tensor) -> dict[str, Buffer]:
        """The loop's own buffers for a parameter."""
        master = self.precision == "master" and param.dtype in HALF
        return {**(_ACCUMULATED if self.accumulate > 1 else {}), **(_MASTER if master else {})}


class Held(NamedTuple):
    """A parameter that takes part in a step: the index of its group, its name, and its state."""

    group: int
    name: str
    param: Tensor
    state: dict[str, Tensor]


@dataclass(slots=True)
class Item:
    """One parameter's share of a step.

    `param` is what the rule works on: the parameter, or a float32 stand-in for it. `update` is
    the gradient at first, then what each piece makes of it; `group` receives new scalars, and
    `numbers` are what the rule sees of it. `kernel` runs the whole rule at once, where it can;
    `ready` says that the next piece has measured.
    """

    name: str
    param: Tensor
    update: Tensor
    state: dict[str, Tensor]
    rule: Transform
    group: dict[str, Any]
    numbers: dict[str, Any]
    kernel: Kernel | None = None
    position: int = 0
    ready: bool = False
    _hyper: Hyper | None = field(default=None, repr=False)

    @property
    def step(self) -> float:
        """How many updates this parameter has received, the present one included."""
        return self.state["step"].item()

    @property
    def hyper(self) -> Hyper:
        """What the pieces know beside the tensors; made when a piece first asks, because a kernel
        never does."""
        if self._hyper is None:
            step = self.step
            draw = noise(self.group["seed"], step, self.name)
            self._hyper = Hyper(**self.numbers, step=step, gradient=self.update, noise=draw)
        return self._hyper

    @property
    def next_piece(self) -> Transform | None:
        """The piece that runs next; None where the rule is through."""
        pieces = self.rule.pieces
        return pieces[self.position] if self.position < len(pieces) else None


def numbers_of(group: Mapping[str, Any], rule: Transform) -> dict[str, Any]:
    """The hyperparameters and scalars that a rule sees: plain numbers, lr times its factor."""
    values = {name: _number(group[name]) for name in (*rule.hyperparameters, *rule.scalars)}
    if group["lr_factor"] != 1.0:
        values["lr"] = values["lr"] * group["lr_factor"]
    return values


def make_items(
    groups: Sequence[dict[str, Any]],
    rules: Sequence[Transform],
    kernels: Sequence[Kernel | None],
    held: Sequence[Held],
    options: Options,
) -> list[Item]:
    """What the rules work on in this step; every parameter's own count goes up by one.

    Raises InputError for a sparse or complex gradient that the rule cannot take, before any count.
    """
    for one in held:
        _check_kind(one, rules[one.group], options)
    numbers = [numbers_of(group, rule) for group, rule in zip(groups, rules, strict=True)]
    if held:
        # One call, and a tensor for the one: a Python number would be wrapped for each parameter.
        torch._foreach_add_(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
            [one.state["step"] for one in held], torch.ones(()), alpha=1.0
        )
    copies = [_copies(rule, options) for rule in rules]
    items: list[Item] = []
    for one in held:
        group = groups[one.group]
        if copies[one.group]:
            _refill(one, copies[one.group])
        gradient = _gradient(one, bool(group["maximize"]), options)
        param, state = _working(one, options), one.state
        if param.is_complex():
            param, state = torch.view_as_real(param), _real(state)
        items.append(
            Item(
                one.name,
                param,
                gradient,
                state,
                rules[one.group],
                group,
                numbers[one.group],
                kernels[one.group],
            )
        )
    return items


def write_back(items: Sequence[Item], held: Sequence[Held], options: Options) -> None:
    """Give half-precision parameters what their stand-ins became; empty what was accumulated."""
    for item, one in zip(items, held, strict=True):
        if options.accumulate > 1:
            one.state["accumulated"].zero_()
        if "master" in one.state:
            one.param.copy_(item.param)
        elif options.precision == "stochastic" and one.param.dtype in HALF:
            one.param.copy_(_rounded(item, one.param.dtype))


def noise(seed: int, step: float, name: str) -> Callable[[Tensor], Tensor]:
    """Standard normal samples by counter: the same for the same seed, step and name, and call."""
    calls = 0

    def draw(like: Tensor) -> Tensor:
        nonlocal calls
        generator = _generator(f"{seed} {step} {name} {calls}", like.device)
        calls += 1
        return torch.empty_like(like).normal_(generator=generator)

    return draw


def _generator(key: str, device: torch.device) -> torch.Generator:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    # 63 bits: CUDA generators take no more.
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)


def _number(value: Any) -> Any:
    """A user's tensor on the CPU as the number it holds; on an accelerator it stays a tensor."""
    if isinstance(value, Tensor) and value.device.type == "cpu":
        return value.item()
    return value


def _check_kind(one: Held, rule: Transform, options: Options) -> None:
    gradient = one.param.grad
    assert gradient is not None
    if gradient.is_sparse and (not rule.sparse or options.accumulate > 1):
        raise InputError(
            f"{one.name} has a sparse gradient, which {rule.name} cannot take; sgd, adagrad and "
            "sparse_adam can, without accumulation"
        )
    if one.param.is_complex() and rule.scope != "element":
        raise InputError(
            f"{one.name} is complex, and {rule.name} works on whole tensors of real numbers; give "
            "it a rule that works element by element, such as adamw"
        )


def _gradient(one: Held, maximize: bool, options: Options) -> Tensor:
    """The gradient in the sign and the precision that the rule computes in."""
    assert one.param.grad is not None
    gradient = one.state["accumulated"] if options.accumulate > 1 else one.param.grad
    if gradient.is_sparse:
        gradient = gradient.coalesce()
    if gradient.dtype in HALF:
        gradient = gradient.float()
    if gradient.is_complex():
        gradient = torch.view_as_real(gradient)
    return -gradient if maximize else gradient


def _copies(rule: Transform, options: Options) -> list[str]:
    """The buffers that start as a copy of the parameter."""
    masters = ["master"] if options.precision == "master" else []
    return [name for name, buffer in rule.buffers.items() if buffer.fill == "param"] + masters


def _refill(one: Held, names: Sequence[str]) -> None:
    """Copy the parameter again at its first update: weights may have been loaded since the
    optimizer was made."""
    if one.state["step"].item() == 1:
        for name in names:
            if name in one.state:
                one.state[name].copy_(one.param)


def _working(one: Held, options: Options) -> Tensor:
    """The parameter, or the float32 stand-in that the rule moves in its place."""
    if "master" in one.state:
        return one.state["master"]
    if options.precision == "stochastic" and one.param.dtype in HALF:
        return one.param.float()
    return one.param


def _real(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.view_as_real(v) if v.is_complex() else v for k, v in state.items()}


def _rounded(item: Item, dtype: torch.dtype) -> Tensor:
    """float32 to a half precision, up or down with the probability that makes the mean exact
    (Zamirai et al. 2020, arXiv:2010.06192)."""
    down = item.param.to(dtype)
    # The neighbour on the other side of the exact value.
    up = torch.nextafter(
        down, torch.where(down.float() < item.param, torch.inf, -torch.inf).to(dtype)
    )
    gap = up.float() - down.float()
    share = torch.where(gap == 0, 0.0, (item.param - down.float()) / gap)
    generator = _generator(f"rounding {item.group['seed']} {item.step} {item.name}", down.device)
    draw = torch.rand(share.shape, generator=generator, device=share.device)
    return torch.where((draw < share) & up.isfinite(), up, down)
