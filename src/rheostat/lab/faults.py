"""Faults: what goes wrong in a run on purpose, to see what notices and what recovers.

A fault is one function and the place where it acts: on the batch, the loss, the gradients, the
weights, the learning rate, the world that the data comes from, or the process. Whatever it draws
comes from (seed, step), so that every arm of a study meets the same fault. It knows nothing of
whoever watches over the run, and takes any torch optimizer.

To add one, write a factory that returns a `Fault` and name it in `FAULTS`; its signature is what a
study file may say of it. `at` is where it begins, as a share of the run's steps, and `steps` how
long it lasts.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import annotated_types as at_
import torch
from torch import Tensor, nn

from rheostat.core.durable import write_file
from rheostat.core.errors import InputError
from rheostat.core.hyper import Count, Positive, UnitInterval
from rheostat.lab.workload import ShiftingTask

Place: TypeAlias = Literal["batch", "loss", "gradients", "weights", "lr", "world", "process"]
Share = Annotated[float, at_.Ge(0), at_.Lt(1)]
"""Of a run's steps."""

HARD = 1e4
"""What a bias falls by where its unit dies: no input lifts it above zero again."""


@dataclass(frozen=True)
class Moment:
    """A step of a fault: `done` counts its steps before this one."""

    done: int
    generator: torch.Generator
    """Of this seed and step, and of no other."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong: `act` changes what is at `place`, for `steps` steps from `at` on.

    act: what is there and the moment -> what takes its place. Of gradients and weights it is given
        the model, and changes it; of the learning rate a factor; of the world the share of the
        examples that come from the changed one; of the process nothing.
    at: where it begins, as a share of the run.
    steps: how long it lasts; None: until the end.
    """

    place: Place
    act: Callable[[Any, Moment], Any]
    at: float
    steps: int | None


def lr_spike(at: Share = 0.4, steps: Count = 20, factor: Positive = 30.0) -> Fault:
    """The learning rate is `factor` times what it should be."""
    return Fault("lr", lambda _, __: factor, at, steps)


def nan_gradients(at: Share = 0.4, steps: Count = 5) -> Fault:
    """One number of the gradient is NaN."""
    return Fault("gradients", lambda model, moment: _spoil(model, moment, torch.nan), at, steps)


def inf_gradients(at: Share = 0.4, steps: Count = 5) -> Fault:
    """One number of the gradient is infinite."""
    return Fault("gradients", lambda model, moment: _spoil(model, moment, torch.inf), at, steps)


def corrupted_labels(at: Share = 0.4, steps: Count = 40) -> Fault:
    """The targets of a batch belong to others of its examples."""
    return Fault("batch", lambda batch, moment: _shuffled(batch, -1, moment), at, steps)


def corrupted_inputs(at: Share = 0.4, steps: Count = 40) -> Fault:
    """The numbers of a batch's inputs stand in random places, its examples mixed."""
    return Fault("batch", lambda batch, moment: _shuffled(batch, 0, moment), at, steps)


def exploding_batch(at: Share = 0.4, steps: Count = 1, factor: Positive = 1e4) -> Fault:
    """A batch whose loss, and so whose gradient, is `factor` times what it should be."""
    return Fault("loss", lambda loss, _: loss * factor, at, steps)


def dead_units(at: Share = 0.4, share: UnitInterval = 0.5) -> Fault:
    """A share of the units before each activation die: their biases fall out of reach."""
    return Fault("weights", lambda model, moment: _kill_units(model, moment, share), at, 1)


def abrupt_shift(at: Share = 0.4) -> Fault:
    """From here on the data comes from the changed world of the workload."""
    return Fault("world", lambda _, __: 1.0, at, None)


def gradual_shift(at: Share = 0.4, steps: Count = 200) -> Fault:
    """Over so many steps the data comes more and more from the changed world of the workload."""
    return Fault("world", lambda _, moment: min(1.0, (moment.done + 1) / steps), at, None)


def interruption(at: Share = 0.4) -> Fault:
    """The process is killed (SIGKILL); the run goes on from its last checkpoint in another one."""
    return Fault("process", lambda _, __: os.kill(os.getpid(), signal.SIGKILL), at, 1)


FAULTS: Mapping[str, Callable[..., Fault]] = {
    factory.__name__: factory
    for factory in (
        lr_spike,
        nan_gradients,
        inf_gradients,
        corrupted_labels,
        corrupted_inputs,
        exploding_batch,
        dead_units,
        abrupt_shift,
        gradual_shift,
        interruption,
    )
}
"""What a study file may name."""


class Disturbance:
    """A fault (or none) in one run: each method gives back what it is given, changed where the
    fault acts. Steps count from 0.

    Raises InputError where the fault needs a workload that can shift and this one cannot.
    """

    def __init__(self, fault: Fault | None, steps: int, seed: int, task: Any) -> None:
        self._fault = fault
        self._first = 0 if fault is None else int(fault.at * steps)
        self._seed = seed
        self._task = task
        if fault is not None and fault.place == "world" and not hasattr(task, "shifted"):
            raise InputError("a shift needs a workload whose task has `shifted` (ShiftingTask)")

    @property
    def kills(self) -> bool:
        """Whether it ends the process, so that the run needs checkpoints."""
        return self._fault is not None and self._fault.place == "process"

    def process(self, step: int, directory: Path) -> None:
        """Before a step: end the process, once; `directory` holds what says that it was."""
        mark = directory / "killed"
        if self.kills and step == self._first and not mark.exists():
            write_file(mark, b"")
            self._act("process", step, None)

    def batch(self, step: int, batch: Any) -> Any:
        """The batch that the run sees."""
        share = self._act("world", step, 0.0)
        return self._act("batch", step, self._mixed(batch, share, step) if share else batch)

    def loss(self, step: int, loss: Tensor) -> Tensor:
        """The loss that is differentiated."""
        return self._act("loss", step, loss)

    def gradients(self, step: int, model: nn.Module) -> None:
        """After the backward pass."""
        self._act("gradients", step, model)

    def weights(self, step: int, model: nn.Module) -> None:
        """Before the forward pass."""
        self._act("weights", step, model)

    def follow(self, optimizer: torch.optim.Optimizer, step: Callable[[], int]) -> None:
        """Change the learning rates of an optimizer around its steps; `step` says which is due.

        Ours have a factor beside the learning rate, because this may have an owner.
        """
        if self._fault is None or self._fault.place != "lr":
            return
        held: list[tuple[dict[str, Any], str, Any]] = []

        def before(*_: object) -> None:
            factor = self._act("lr", step(), 1.0)
            for group in optimizer.param_groups if factor != 1.0 else ():
                key = "lr_factor" if "lr_factor" in group else "lr"
                held.append((group, key, group[key]))
                group[key] = group[key] * factor

        def after(*_: object) -> None:
            for group, key, value in held:
                group[key] = value
            held.clear()

        optimizer.register_step_pre_hook(before)
        optimizer.register_step_post_hook(after)

    def evaluate(self, step: int, model: nn.Module) -> dict[str, float]:
        """Every metric after this many steps: on the held-out examples as the world is then."""
        share = self._act("world", step, 0.0)
        if not share:
            return self._task.evaluate(model)
        task = cast("ShiftingTask", self._task)
        # The first of them and not drawn ones: so it is no other set at the next evaluation.
        changed = round(share * len(task.held_out[0]))
        mask = torch.arange(len(task.held_out[0])) < changed
        return task.evaluate(model, _chosen(mask, task.shifted(task.held_out), task.held_out))

    def _mixed(self, batch: Any, share: float, step: int) -> Any:
        mask = torch.rand(len(batch[0]), generator=self._generator(step)) < share
        return _chosen(mask, cast("ShiftingTask", self._task).shifted(batch), batch)

    def _act(self, place: Place, step: int, value: Any) -> Any:
        fault = self._fault
        done = step - self._first
        if fault is None or fault.place != place or done < 0:
            return value
        if fault.steps is not None and done >= fault.steps:
            return value
        return fault.act(value, Moment(done, self._generator(step)))

    def _generator(self, step: int) -> torch.Generator:
        # Hashed, to be no stream that weights or batches are drawn from.
        digest = hashlib.sha256(f"fault {self._seed} {step}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7]))


def _chosen(mask: Tensor, one: tuple[Tensor, ...], other: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Example by example the one where the mask says so, else the other."""
    return tuple(
        torch.where(mask.view(-1, *[1] * (a.dim() - 1)), a, b)
        for a, b in zip(one, other, strict=True)
    )


def _shuffled(batch: tuple[Tensor, ...], part: int, moment: Moment) -> tuple[Tensor, ...]:
    parts = list(batch)
    order = torch.randperm(parts[part].numel(), generator=moment.generator)
    parts[part] = parts[part].flatten()[order].view_as(parts[part])
    return tuple(parts)


def _spoil(model: nn.Module, moment: Moment, value: float) -> nn.Module:
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    which = int(torch.randint(len(gradients), (), generator=moment.generator))
    flat = gradients[which].view(-1)
    flat[int(torch.randint(len(flat), (), generator=moment.generator))] = value
    return model


_ACTIVATIONS = (nn.ReLU, nn.GELU, nn.SiLU)


def _kill_units(model: nn.Module, moment: Moment, share: float) -> nn.Module:
    layers = [
        layer
        for stack in model.modules()
        if isinstance(stack, nn.Sequential)
        for layer, then in pairwise(stack)
        if isinstance(then, _ACTIVATIONS) and isinstance(getattr(layer, "bias", None), Tensor)
    ]
    if not layers:
        raise InputError("dead_units: the model has no layer with a bias before an activation")
    for layer in layers:
        bias = cast("Tensor", layer.bias)
        dead = torch.randperm(len(bias), generator=moment.generator)[: round(share * len(bias))]
        with torch.no_grad():
            bias[dead] -= HARD
    return model
