"""The hands of a run: what a regime can do to it; see `rheostat.regimes.hands`."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.checkpoint.rng import rng_state, set_rng_state
from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.core.errors import InputError
from rheostat.core.schedule import StateAction
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.overrides import is_share
from rheostat.recipes.bundle import Bundle, Progress, noted
from rheostat.recipes.horizons import Left, finish_in, left, sooner
from rheostat.recipes.recording import trained
from rheostat.regimes.hands import Unable
from rheostat.signals.norms import total_norm
from rheostat.transforms.anchoring import anchor

LossOf = Callable[[int], Tensor]
"""The loss of a batch, by its number, with the present weights."""


class RunHands(Unable):
    """A run's own hands. The factors, the limit and the growth lie in the param groups.

    Args:
        bundle: what there is to change.
        loss_of: for a second look at a batch; None: no batch can be looked at again.

    `progress` is the run's, which gives it at each step.
    """

    def __init__(self, bundle: Bundle, loss_of: LossOf | None) -> None:
        self.progress = Progress()
        self.slots: dict[int, dict[str, Any]] = {}
        """By slot: weights, optimizer and changes of plan, of their own."""
        self.stop_reason: str | None = None
        self._left: Left = {}
        """Of the schedules, before the last roll back."""
        self._bundle = bundle
        self._loss_of = loss_of
        self._sizes: list[int] = []
        """Elements of each param group."""

    @property
    def _groups(self) -> list[dict[str, Any]]:
        return self._bundle.optimizer.param_groups

    def planned(self, hyperparameter: str) -> Mapping[int, float]:
        """The numbers in the param groups, which show the plan and no factor. First the group with
        the most elements, which speaks for all; last those where it is 0."""
        groups = self._groups
        if len(self._sizes) != len(groups):
            self._sizes = [sum(param.numel() for param in group["params"]) for group in groups]
        found = ((index, _number(group, hyperparameter)) for index, group in enumerate(groups))
        there = [(index, value) for index, value in found if value is not None]
        return dict(sorted(there, key=lambda one: (one[1] == 0, -self._sizes[one[0]])))

    def set_factor(self, hyperparameter: str, group: int, factor: float) -> None:
        """In the group, beside the number that it multiplies."""
        held = self._groups[group]
        others = {name: one for name, one in held["factors"].items() if name != hyperparameter}
        held["factors"] = others if factor == 1 else {**others, hyperparameter: factor}

    def check_share(self, hyperparameter: str, group: int) -> None:
        """By the range that the rule's signature gives it; another library's has none."""
        optimizer = self._bundle.optimizer
        if isinstance(optimizer, Followed) or not is_share(optimizer.rule(group), hyperparameter):
            raise InputError(
                f"{hyperparameter} is no share: no piece of the rule gives it the range [0, 1]"
            )
        if hyperparameter in optimizer.scheduled(group):
            raise InputError(f"a schedule owns {hyperparameter}")

    def move(self, hyperparameter: str, group: int, value: float) -> None:
        """In the group. Refused as `check_share` does."""
        self.check_share(hyperparameter, group)
        self._groups[group][hyperparameter] = value

    def limit(self, norm: float) -> None:
        """Of the loop, which then skips the update. Refused by another library's loop."""
        if isinstance(self._bundle.optimizer, Followed):
            super().limit(norm)
            return
        for group in self._groups:
            group["limit"] = norm if norm < math.inf else None

    def restart(self, state: str | None) -> None:
        """As `Run.restart`."""
        self._bundle.optimizer.plan.restart(cast("StateAction | None", state))  # looked at there

    def grow(self, factor: float) -> None:
        """By accumulation: so many times more gradients are averaged for an update."""
        optimizer = self._bundle.optimizer
        if isinstance(optimizer, Followed):
            super().grow(factor)
        else:
            optimizer.grow(factor)

    def anchor(self) -> None:
        """Of every parameter whose rule pulls. Refused where none does."""
        optimizer = self._bundle.optimizer
        with torch.no_grad():
            found = [anchor(param, optimizer.state.get(param, {})) for param in trained(optimizer)]
        if not any(found):
            raise InputError("no rule here pulls towards a reference")

    def stop(self, reason: str) -> None:
        """`Run.stop_reason` says so."""
        self.stop_reason = reason

    # -- known-good states ----------------------------------------------------------------------

    def remember(self, slot: int) -> None:
        """In memory, and with every checkpoint on the disk."""
        self.slots[slot] = self._bundle.snapshot(self.progress)

    def roll_back(self, slot: int) -> None:
        """Weights, optimizer and schedules; generators, data and all else go on."""
        self._left = left(self._bundle.optimizer)
        self._bundle.put_back(self.slots[slot], self.progress)

    def catch_up(self, late: int) -> None:
        """By moving horizons. Schedules in epochs or in time stay as they are."""
        optimizer, plan = self._bundle.optimizer, self._bundle.optimizer.plan
        wanted = sooner(optimizer, late) if late else self._left
        listener, plan.listener = plan.listener, self._note  # the decision is on record
        try:
            finish_in(optimizer, wanted)
        finally:
            plan.listener = listener

    def _note(self, operation: str, arguments: Mapping[str, Any], changes: object) -> None:
        """Note a change of plan, which a resumed run makes again."""
        del changes
        self.progress.changes.append(noted(self._bundle.optimizer, operation, arguments))

    # -- batches --------------------------------------------------------------------------------

    def positions(self) -> Sequence[int]:
        """The batches of the step that was made last."""
        optimizer, end = self._bundle.optimizer, self.progress.batches
        count = 1 if isinstance(optimizer, Followed) else optimizer.options.averaged
        return range(max(0, end - count), end)

    def examine(self, position: int) -> tuple[float, float] | None:
        """By `loss_of`; buffers, gradients and generators are put back.

        Warns where that gives nothing to look at: training goes on.
        """
        if self._loss_of is None:
            return None
        model, params = self._bundle.model, trained(self._bundle.optimizer)
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        generators = copy.deepcopy(rng_state())
        try:
            with torch.enable_grad():
                loss = self._loss_of(position)
                tensor = isinstance(cast("object", loss), Tensor)
                if not (tensor and loss.requires_grad and loss.numel() == 1):
                    what = f"a tensor of shape {tuple(loss.shape)}" if tensor else repr(loss)
                    warnings.warn(
                        f"loss_of({position}) gave {what}; should give one number that can "
                        "be differentiated: the batch is not looked at again",
                        stacklevel=2,
                    )
                    return None
                found = torch.autograd.grad(
                    loss,
                    [param for param in params if param.requires_grad],
                    allow_unused=True,
                    materialize_grads=True,
                )
        finally:
            set_rng_state(*generators)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        return loss.item(), total_norm(found)

    def forget_batch(self) -> None:
        """Undo what the forward pass of a batch without an update has written to buffers."""
        self._bundle.buffers.put_back()

    def learnt_batch(self) -> None:
        """Take the buffers as they are now for those to go back to."""
        self._bundle.buffers.keep()

    def leave_out(self, position: int) -> None:
        """Its samples, from the next epoch on: of a sampler of ours."""
        sampler = self._bundle.others.get("sampler")
        if not isinstance(sampler, ResumableSampler):
            super().leave_out(position)
            return
        sampler.leave_out(position)

    def weights_are_finite(self) -> bool:
        """All that the optimizer trains."""
        params = [param for group in self._groups for param in group["params"]]
        return all(bool(param.isfinite().all()) for param in params)


def _number(group: Mapping[str, Any], hyperparameter: str) -> float | None:
    """The plan's number in a group; None where it has none of this name."""
    if hyperparameter == "momentum" and hyperparameter not in group and "betas" in group:
        return float(group["betas"][0])
    value = group.get(hyperparameter)
    if isinstance(value, bool) or not isinstance(value, int | float | Tensor):
        return None
    return float(value)
