"""From parameters to what a rule works on, and back: signs, precision, accumulation, noise."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.sealed import Sealed
from rheostat.core.sharded import gathered, is_sharded, laid_out, local, part
from rheostat.core.transform import Buffer, Hyper, Transform
from rheostat.optimizers.device import Frame
from rheostat.optimizers.factors import under_factors
from rheostat.optimizers.guard import Look, NonFinite
from rheostat.optimizers.kernels import Kernel, fitting

HALF = (torch.float16, torch.bfloat16)
_ACCUMULATED = {"accumulated": Buffer()}
_MASTER = {"master": Buffer("param", dtype=torch.float32)}
LOOPS_OWN = (*_ACCUMULATED, *_MASTER)
"""The buffers that the loop may have beside those of a rule."""


@dataclass(frozen=True)
class Options:
    """How the loop treats every rule alike; see `Optimizer`."""

    nonfinite: NonFinite
    accumulate: int
    precision: Literal["plain", "master", "stochastic"]
    growth: float = 1.0
    """So many times more gradients are averaged than `accumulate` says."""
    maximize: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError for what there is not."""
        if self.nonfinite not in ("skip", "raise", "propagate"):
            raise InputError(
                f"nonfinite={self.nonfinite!r}: should be 'skip', 'raise' or 'propagate'"
            )
        if self.precision not in ("plain", "master", "stochastic"):
            raise InputError(
                f"precision={self.precision!r}: should be 'plain', 'master' or 'stochastic'"
            )
        if type(self.accumulate) is not int or self.accumulate < 1:
            raise InputError(f"accumulate={self.accumulate!r}: should be a whole number from 1 on")

    @property
    def shared(self) -> dict[str, Any]:
        """What a group that does not say it takes from the optimizer."""
        return {"maximize": self.maximize, "seed": self.seed}

    @property
    def averaged(self) -> int:
        """The gradients that are averaged for an update."""
        return round(self.accumulate * self.growth)

    def plain(self, param: Tensor) -> bool:
        """Whether a rule can work on the parameter and its gradient as they are."""
        half = param.dtype in HALF
        return self.averaged == 1 and not (half or param.is_complex() or is_sharded(param))

    def buffers(self, param: Tensor) -> dict[str, Buffer]:
        """The loop's own buffers for a parameter."""
        master = self.precision == "master" and param.dtype in HALF
        return {**(_ACCUMULATED if self.averaged > 1 else {}), **(_MASTER if master else {})}

    def recast(self, param: Tensor, state: dict[str, Tensor]) -> None:
        """Begin or end the master of a parameter that was cast since it got its state."""
        if "master" not in self.buffers(param):
            state.pop("master", None)
        elif "master" not in state:
            state["master"] = _MASTER["master"].make(param)


@dataclass(slots=True, eq=False)
class Held:
    """A parameter that the optimizer holds: the index of its group, its name, and its state (empty
    while it is frozen).

    `dtype` is the parameter's, until a module is cast. `plain` says that a rule can work on the
    very tensors: real numbers in the precision it computes in. `kernel` is that of its group, where
    it takes such a parameter. `line` is the place of its count on the host; where the device keeps
    the counts, parameters of one line have the same, and a `fresh` one was never stepped.
    """

    group: int
    name: str
    param: Tensor
    state: dict[str, Tensor]
    dtype: torch.dtype
    plain: bool
    kernel: Kernel | None
    line: int = 0
    fresh: bool = False


@dataclass(slots=True)
class Item:
    """One parameter's share of a step.

    `param` is what the rule works on: the parameter, or a float32 stand-in for it. `update` is
    the gradient at first, then what each piece makes of it; `group` receives new scalars, and
    `numbers` are what the rule sees of it. `kernel` runs the whole rule at once, where it can.
    `count` are the updates that the parameter has received, the present one included, where the
    host counts. `measured` is what the next piece has measured, None where it has not yet. `frame`
    holds the numbers, where they are on a device, and `line` the parameter's place in it. `home` is
    the sharded parameter of which `param` is this process's part; None where `param` is whole.
    """

    name: str
    param: Tensor
    update: Tensor
    state: dict[str, Tensor]
    rule: Transform
    group: dict[str, Any]
    numbers: dict[str, Any]
    pieces: tuple[Transform, ...]
    kernel: Kernel | None = None
    count: float = 0.0
    measured: Mapping[str, Tensor] | None = None
    position: int = 0
    frame: Frame | None = None
    line: int = 0
    home: Tensor | None = None
    _hyper: Hyper | None = field(default=None, repr=False)

    @property
    def step(self) -> Any:
        """How many updates this parameter has received, the present one included: a number."""
        return self.count if self.frame is None else self.frame.counts[self.line]

    @property
    def same(self) -> float:
        """The same for items of one group that have the same count."""
        return self.count if self.frame is None else self.line

    @property
    def ok(self) -> Tensor | None:
        """A bool on the device: whether the step happens; None where it surely does."""
        return None if self.frame is None else self.frame.ok

    @property
    def hyper(self) -> Hyper:
        """What the pieces know beside the tensors; made when a piece first asks, because a kernel
        never does."""
        if self._hyper is None:
            step = self.step
            draw = noise(self.group["seed"], step, self.name, self.home)
            self._hyper = Hyper(
                **self.numbers,
                step=step,
                gradient=self.update,
                noise=draw,
            )
        return self._hyper

    @property
    def seen(self) -> Sealed:
        """The state as the pieces see it; made anew, so that it has what the state has now."""
        return Sealed(self.state, self.rule.name)

    def number(self, value: Tensor) -> Any:
        """A 0-dim tensor as the kind of number that this step computes with."""
        return value.item() if self.frame is None else self.frame.number(value)

    @property
    def moved(self) -> bool:
        """Whether the parameter has received its update."""
        return self.position == len(self.pieces)

    def finish(self) -> None:
        """Say that it has: what fails later takes its count back from the others alone."""
        self.position = len(self.pieces)

    @property
    def waits(self) -> bool:
        """Whether the next piece must measure before it can run."""
        return (
            self.measured is None
            and self.position < len(self.pieces)
            and self.pieces[self.position].measure is not None
        )


def numbers_of(group: Mapping[str, Any], rule: Transform) -> dict[str, Any]:
    """The hyperparameters and scalars that a rule sees: plain numbers, lr times its factor."""
    values = {name: _number(group[name]) for name in (*rule.hyperparameters, *rule.scalars)}
    if group["lr_factor"] != 1.0:
        values["lr"] = values["lr"] * group["lr_factor"]
    return under_factors(values, group["factors"]) if group["factors"] else values


def squares_of(look: Look, held: Sequence[Held], gradients: Sequence[Tensor]) -> Tensor | None:
    """The sums of squares that a look took; None where they are of others than the rules see."""
    pairs = zip(held, gradients, strict=True)
    plain = look.squares is not None and all(o.plain and not g.is_sparse for o, g in pairs)
    return look.squares if plain else None


def make_items(
    groups: Sequence[dict[str, Any]],
    rules: Sequence[Transform],
    kernels: Sequence[Sequence[Kernel]],
    held: Sequence[Held],
    gradients: Sequence[Tensor],
    options: Options,
    count: Callable[[Sequence[Held]], Sequence[float]],
    begin: Callable[[], Frame] | None = None,
) -> list[Item]:
    """What the rules work on in this step; every parameter's own count goes up by one.

    `count` counts on the host, and gives the new counts; `begin` on a device, and gives the numbers
    there.

    Raises InputError for a sparse or complex gradient that the rule cannot take, before any count.
    """
    for one, gradient in zip(held, gradients, strict=True):
        if gradient.is_sparse or not one.plain:
            check_kind(one, gradient, rules[one.group], options)
    frame = None if begin is None else begin()
    if frame is None:
        # First: a number that is refused is no update, and must not count as one.
        numbers = [numbers_of(group, rule) for group, rule in zip(groups, rules, strict=True)]
        counts = count(held)
    else:
        counts, numbers = [0.0] * len(held), frame.numbers
    # After a reset the first update is not the first ever: what began as a copy has its own value.
    pairs = zip(groups, rules, strict=True)
    copies = [[] if group["renewed"] else _copies(rule, options) for group, rule in pairs]
    items: list[Item] = []
    for one, given, own in zip(held, gradients, counts, strict=True):
        group, rule = groups[one.group], rules[one.group]
        if copies[one.group]:
            _refill(one, copies[one.group], on_device=frame is not None)
        param, gradient, state, kernel = one.param, given, one.state, one.kernel
        if not one.plain:
            param, gradient, state = _working(one, gradient, rule, options)
            kernel = fitting(kernels[one.group], param, state)
        if group["maximize"]:
            gradient = -gradient
        mine = numbers[one.group]
        item = Item(one.name, param, gradient, state, rule, group, mine, rule.pieces, kernel, own)
        if frame is not None:
            item.frame, item.line = frame, one.line
        if not one.plain and is_sharded(one.param) and rule.scope == "element":
            item.home = one.param
        items.append(item)
    return items


def check_kind(one: Held, gradient: Tensor, rule: Transform, options: Options) -> None:
    """Refuse a gradient or a parameter that the rule cannot take. Raises InputError."""
    if gradient.is_sparse and (not rule.sparse or options.averaged > 1):
        raise InputError(
            f"{one.name} has a sparse gradient, which {rule.name} cannot take as it is set; sgd "
            "without momentum and decay, adagrad and sparse_adam can, without accumulation"
        )
    if one.param.is_complex() and rule.scope != "element":
        raise InputError(
            f"{one.name} is complex, and {rule.name} works on whole tensors of real numbers; give "
            "it a rule that works element by element, such as adamw"
        )

    elsewhere = any(piece.search or piece.probe for piece in rule.pieces)
    if elsewhere and is_sharded(one.param):
        raise InputError(
            f"{one.name} is sharded, and {rule.name} evaluates the loss elsewhere, by moving whole "
            "parameters; train it on one process, or with DDP"
        )


def write_back(items: Sequence[Item], held: Sequence[Held], options: Options) -> None:
    """Give half-precision parameters what their stand-ins became."""
    for item, one in zip(items, held, strict=True):
        if one.plain:
            continue  # the rule worked on the very tensors
        if is_sharded(one.param) and item.home is None:
            _keep_parts(item, one)
        if "master" in one.state:
            master = one.state["master"]
            one.param.copy_(master if item.ok is None else torch.where(item.ok, master, one.param))
        elif options.precision == "stochastic" and one.param.dtype in HALF:
            rounded = _rounded(item, one.param.dtype)
            local(one.param).copy_(rounded if item.home is not None else part(rounded, one.param))


def noise(
    seed: int, step: Any, name: str, home: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """Standard normal samples by counter: the same for the same seed, step and name, and call.

    Of a sharded parameter (`home`), each process gets its part of the same sample.
    """
    calls = 0

    def draw(like: Tensor) -> Tensor:
        nonlocal calls
        generator = _generator(f"{seed} {float(step)} {name} {calls}", like.device)
        calls += 1
        if home is None:
            # In the order of the indices, however the parameter lies in memory.
            return like.new_empty(like.shape).normal_(generator=generator)
        return part(like.new_empty(home.shape).normal_(generator=generator), home)

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


def _copies(rule: Transform, options: Options) -> list[str]:
    """The buffers that start as a copy of the parameter."""
    masters = ["master"] if options.precision == "master" else []
    return [name for name, buffer in rule.buffers.items() if buffer.fill == "param"] + masters


def _refill(one: Held, names: Sequence[str], *, on_device: bool) -> None:
    """Copy the parameter again at its first update: weights may have been loaded since the
    optimizer was made. On a device it is the first attempt, which the host knows."""
    if one.fresh if on_device else one.state["step"].item() == 1:
        for name in names:
            if name in one.state:
                one.state[name].copy_(one.param)
    one.fresh = False


def _working(
    one: Held, gradient: Tensor, rule: Transform, options: Options
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Parameter, gradient and state in the precision that the rule computes in: the parameter or
    the float32 stand-in that is moved in its place; pairs of reals for complex numbers; of what is
    sharded this process's part, or all of it for a rule that works on more than elements."""
    param, state = one.param, one.state
    if gradient.dtype in HALF:
        gradient = gradient.float()
    if "master" in state:
        param = state["master"]
    elif options.precision == "stochastic" and param.dtype in HALF:
        param = param.float()
    if is_sharded(param):
        take = local if rule.scope == "element" else gathered
        gradient = take(laid_out(gradient, param))
        param, state = take(param), {name: take(buffer) for name, buffer in state.items()}
    if param.is_complex():
        real = {k: torch.view_as_real(v) if v.is_complex() else v for k, v in state.items()}
        return torch.view_as_real(param), torch.view_as_real(gradient), real
    return param, gradient, state


def _keep_parts(item: Item, one: Held) -> None:
    """Of what a rule made of a whole parameter and its state, each process keeps its parts."""
    moved = one.state.get("master", one.param)
    if moved.dtype == item.param.dtype:  # otherwise it is rounded first
        local(moved).copy_(part(item.param, moved))
    for name, buffer in one.state.items():
        if is_sharded(buffer) and name != "master":
            local(buffer).copy_(part(item.state[name], buffer))


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
    shape = share.shape if item.home is None else item.home.shape
    draw = torch.rand(shape, generator=generator, device=share.device)
    draw = draw if item.home is None else part(draw, item.home)
    return torch.where((draw < share) & up.isfinite(), up, down)
