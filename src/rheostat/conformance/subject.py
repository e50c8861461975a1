"""What a clause examines: a registered optimizer, made and trained in small ways."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rheostat.core.registry import Component, component
from rheostat.core.transform import Transform
from rheostat.optimizers.build import optimizer
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.policy import Policy


class Broken(AssertionError):  # noqa: N818  (a clause's finding, not an error)
    """A clause does not hold; the text says what was found."""


class NotApplicable(Exception):  # noqa: N818  (not an error: a clause's finding)
    """A clause says nothing about this optimizer; the text says why."""


def expect(holds: bool, found: str) -> None:
    """Raise `Broken` with what was found unless it holds."""
    if not holds:
        raise Broken(found)


@dataclass(frozen=True)
class Subject:
    """An optimizer under examination."""

    component: Component

    @classmethod
    def named(cls, ref: str) -> Subject:
        """The registered optimizer `ref`. Raises InputError where there is none."""
        return cls(component(ref, "optimizer"))

    @property
    def rules(self) -> tuple[Transform, ...]:
        """Its rules with default hyperparameters: one, or one a line of its policy."""
        made = self.component.factory()
        return tuple(line.rule for line in made.lines) if isinstance(made, Policy) else (made,)

    @property
    def whole(self) -> str | None:
        """Why one parameter's update depends on the others, None where it does not."""
        for rule in self.rules:
            for piece in rule.pieces:
                if piece.scalars or piece.measure or piece.search:
                    return f"{piece.name} looks at all parameters together"
        return None

    def make(self, target: nn.Module | Sequence[Any], **arguments: Any) -> Optimizer:
        """The optimizer over parameters, with its defaults but for `arguments`."""
        options: dict[str, Any] = {"mode": "eager", **arguments}
        return optimizer(self.component.ref, target, **options)

    def takes(self, name: str) -> bool:
        """Whether it has an argument of this name."""
        return name in self.component.signature.parameters


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A small network with matrices, vectors, an embedding, a norm and a head."""
    with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
        torch.manual_seed(seed)
        made = nn.Sequential(
            nn.Embedding(7, 8),
            nn.Linear(8, 12),
            nn.LayerNorm(12),
            nn.Tanh(),
            nn.Linear(12, 10),
            nn.Tanh(),
            nn.Linear(10, 3),
        )
    return made.to(dtype)


def closure_for(
    net: nn.Module, opt: torch.optim.Optimizer, step: int, scale: float = 1.0
) -> Callable[[], Tensor]:
    """The loss of batch `step`, with its gradients: what `opt.step` is called with."""
    generator = torch.Generator().manual_seed(1000 + step)
    tokens = torch.randint(0, 7, (16,), generator=generator)
    target = torch.randn(16, 3, generator=generator)

    def closure() -> Tensor:
        opt.zero_grad()
        output = net(tokens)
        loss = scale * (output - target.to(output.dtype)).square().mean()
        loss.backward()
        return loss

    return closure


def train(
    net: nn.Module, opt: torch.optim.Optimizer, steps: Iterable[int], scale: float = 1.0
) -> list[float]:
    """Steps with a closure (every optimizer takes one), one for each batch named; the losses."""
    losses: list[float] = []
    for k in steps:
        # torch's annotation of `step` has closures that return floats; tensors are what it takes.
        loss = cast("Any", opt).step(closure_for(net, opt, k, scale))
        losses.append(float(loss.detach()))
    return losses


def step_with(opt: Optimizer, gradients: Sequence[tuple[nn.Parameter, Tensor | None]]) -> None:
    """A step from given gradients; a rule that searches gets them from its closure too."""

    def closure() -> Tensor:
        for param, gradient in gradients:
            param.grad = None if gradient is None else gradient.clone()
        return torch.zeros(())

    opt.step(closure)


def bits(tensors: Sequence[Tensor]) -> list[bytes]:
    """The tensors' content, to the bit."""
    return [
        t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if t.numel()
        else b""
        for t in tensors
    ]


def state_bits(opt: Optimizer) -> dict[str, bytes]:
    """Every state tensor by parameter and buffer name, to the bit."""
    found: dict[str, bytes] = {}
    for group in opt.param_groups:
        for name, param in zip(group["param_names"], group["params"], strict=True):
            for key, value in opt.state.get(param, {}).items():
                (found[f"{name}.{key}"],) = bits([value])
    return found
