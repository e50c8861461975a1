"""Hands: all that a regime can do to a run. A run implements them; nothing else in this room
touches a model, an optimizer or a file.

What is done takes effect with the next update. A hand that cannot raises `InputError`, and the
regime records the decision as refused, with that sentence.
"""

# ruff: noqa: ARG002  # every hand takes what the protocol says, whatever it does with it

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NoReturn, Protocol

from rheostat.core.errors import InputError


class Hands(Protocol):
    """What a run offers to its regime.

    "momentum" stands for a rule's own `momentum`, or for the first of its `betas`.
    """

    def planned(self, hyperparameter: str) -> Mapping[int, float]:
        """What the plan says for the coming update, by the index of each param group that has the
        hyperparameter: the schedule's value or the constant, without the regime's factor. The first
        one is what controllers are told."""
        ...

    def set_factor(self, hyperparameter: str, group: int, factor: float) -> None:
        """From the next update on, run with `scaled(hyperparameter, planned, factor)`."""
        ...

    def check_share(self, hyperparameter: str, group: int) -> None:
        """Raises InputError where it is no share in [0, 1], or a schedule owns it: only what this
        lets pass is moved."""
        ...

    def move(self, hyperparameter: str, group: int, value: float) -> None:
        """Set a share in [0, 1] that no schedule owns; `planned` says it from then on."""
        ...

    def limit(self, norm: float) -> None:
        """Skip updates whose gradient's global norm is above this; infinity lifts it."""
        ...

    def restart(self, state: str | None) -> None:
        """Begin the learning rate's schedule again with the next update; as `Plan.restart`."""
        ...

    def grow(self, factor: float) -> None:
        """Multiply the batch that the run began with by this: the whole growth, not the last."""
        ...

    def anchor(self) -> None:
        """Take the present weights as the reference of `pull_towards` pieces."""
        ...

    def stop(self, reason: str) -> None:
        """Say that training should end."""
        ...

    def remember(self, slot: int) -> None:
        """Copy weights, optimizer and schedules into a slot, in place of what it held. A resumed
        run must find its slots again."""
        ...

    def roll_back(self, slot: int) -> None:
        """Put back what a slot holds; the position in the data stays where it is."""
        ...

    def catch_up(self, late: int) -> None:
        """Let what is left of the schedules go by faster: by the updates that the last roll back
        has undone where `late` is 0, else by so many that were left out."""
        ...

    def positions(self) -> Sequence[int]:
        """The numbers of the batches whose gradients the step just made has averaged: one, or as
        many as were accumulated."""
        ...

    def examine(self, position: int) -> tuple[float, float] | None:
        """The loss and the gradient's global norm of a batch seen before, with the present weights
        and without an update, after which everything is as it was; None where the loop cannot go
        back to it."""
        ...

    def leave_out(self, position: int) -> None:
        """Skip this batch wherever it comes again."""
        ...

    def weights_are_finite(self) -> bool:
        """Whether all are: where one is not, no loss will be again. True where nobody knows."""
        ...


class Unable:
    """Hands that can do nothing: the base of those that can do some of it.

    What is not overridden is refused, in words; a loop without positions is always at batch 0.
    """

    def planned(self, hyperparameter: str) -> Mapping[int, float]:
        """No hyperparameter."""
        return {}

    def set_factor(self, hyperparameter: str, group: int, factor: float) -> None:
        """Cannot be asked for: nothing is planned."""
        _cannot(f"change {hyperparameter}")

    def check_share(self, hyperparameter: str, group: int) -> None:
        """Refused: nothing is known to be one."""
        _cannot(f"move {hyperparameter}")

    def move(self, hyperparameter: str, group: int, value: float) -> None:
        """Cannot be asked for either."""
        _cannot(f"move {hyperparameter}")

    def limit(self, norm: float) -> None:
        """Refused; lifting a limit that is not there is none."""
        if norm < math.inf:
            _cannot("skip updates by their norm")

    def restart(self, state: str | None) -> None:
        """Refused."""
        _cannot("restart its schedule")

    def grow(self, factor: float) -> None:
        """Refused."""
        _cannot("change its batch")

    def anchor(self) -> None:
        """Refused."""
        _cannot("anchor its weights")

    def stop(self, reason: str) -> None:
        """Refused."""
        _cannot("be stopped")

    def remember(self, slot: int) -> None:
        """Not done: a loop whose states are to be put back overrides both."""

    def roll_back(self, slot: int) -> None:
        """Refused."""
        _cannot("go back")

    def catch_up(self, late: int) -> None:
        """Not done: a loop has schedules, or has none."""

    def positions(self) -> Sequence[int]:
        """0 alone."""
        return (0,)

    def examine(self, position: int) -> tuple[float, float] | None:
        """None."""

    def leave_out(self, position: int) -> None:
        """Refused."""
        _cannot("leave a batch out")

    def weights_are_finite(self) -> bool:
        """True: nobody has looked."""
        return True


def _cannot(what: str) -> NoReturn:
    raise InputError(f"this loop cannot {what}")


class Idle:
    """Hands that change nothing, for a dry run: what the plan says is looked up, and no more."""

    def __init__(self, hands: Hands) -> None:
        self.planned = hands.planned
        self.check_share = hands.check_share
        self.positions = hands.positions
        self.weights_are_finite = hands.weights_are_finite

    def set_factor(self, hyperparameter: str, group: int, factor: float) -> None:
        """Nothing."""

    def move(self, hyperparameter: str, group: int, value: float) -> None:
        """Nothing."""

    def limit(self, norm: float) -> None:
        """Nothing."""

    def restart(self, state: str | None) -> None:
        """Nothing."""

    def grow(self, factor: float) -> None:
        """Nothing."""

    def anchor(self) -> None:
        """Nothing."""

    def stop(self, reason: str) -> None:
        """Nothing."""

    def remember(self, slot: int) -> None:
        """Nothing."""

    def roll_back(self, slot: int) -> None:
        """Nothing."""

    def catch_up(self, late: int) -> None:
        """Nothing."""

    def examine(self, position: int) -> tuple[float, float] | None:
        """Nothing: a pass of a model may write to its buffers."""

    def leave_out(self, position: int) -> None:
        """Nothing."""
