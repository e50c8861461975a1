"""Averages of the weights, kept beside them: for `with opt.averaged():`, or to step back to.

Last in a chain they see a parameter where it has come to rest, projections included. They count a
parameter's own updates: a step in which it has no gradient is none. A restart that resets the state
leaves them.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rheostat.core.hyper import Count, Fraction, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, identity, one_number
from rheostat.transforms.numbers import chosen


@register("transform", "ema_weights")
def ema_weights(ema_decay: Fraction = 0.999, bias_correction: bool = False) -> Transform:
    """An exponential moving average of the weights to evaluate with: a ← a + c (w − a).

    c = 1 − ema_decay, and a begins at the initial weights, as torch.optim.swa_utils.AveragedModel
    with get_ema_multi_avg_fn does when it is updated before the first step.

    Source: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30), for the average.
    ema_decay: share of the average that a step keeps; about 1 / (1 − ema_decay) steps are averaged.
    bias_correction: c = (1 − ema_decay) / (1 − ema_decayᵗ), which leaves the initial weights out; a
        restart that resets the state, and so the count t, begins this average anew.
    """

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        new = 1 - hyper.ema_decay
        if bias_correction:
            new = new / (1 - hyper.ema_decay**hyper.step)
        average = state["ema_weights"]
        average.lerp_(param.to(average.dtype), new)
        return param

    def view(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        return state["ema_weights"]

    return Transform(
        identity,
        buffers={"ema_weights": Buffer("param", lasts=not bias_correction)},
        hyperparameters={"ema_decay": ema_decay},
        scope="element",
        after=after,
        view=view,
    )


@register("transform", "swa_weights")
def swa_weights(start: Count, every: Count = 1) -> Transform:
    """The plain mean of the weights from a step on, to evaluate with; before it, the weights.

    As torch.optim.swa_utils.AveragedModel, updated at the same steps. A schedule of its own lr goes
    with it, as does an update of the statistics of batch normalisation
    (torch.optim.swa_utils.update_bn, under the view).

    Source: Izmailov et al. 2018 (arXiv:1803.05407), Algorithm 1.
    start: the update after which the weights are first taken, counted from 1.
    every: updates from one taking to the next.
    """

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        wait, taken, mean = state["swa_wait"].sub_(1), state["swa_taken"], state["swa_weights"]
        due = wait <= 0
        taken.add_(due)
        wait.copy_(torch.where(due, float(every), wait))
        new = param.to(mean.dtype)
        # A choice: a share of 0 of weights that are not finite would spoil the mean.
        kept = 1 - 1 / taken.clamp(min=1)
        mean.copy_(torch.where(due, new + (mean - new) * kept, mean))
        return param

    def view(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        return state["swa_weights"] if state["swa_taken"] > 0 else param

    # Counts of its own: a reset of the rule's moments does not begin another mean.
    count = Buffer(dtype=torch.float64, shape=one_number, lasts=True)
    return Transform(
        identity,
        buffers={
            "swa_weights": Buffer("param", lasts=True),
            "swa_taken": count,
            "swa_wait": replace(count, fill=float(start)),
        },
        scope="element",
        after=after,
        view=view,
    )


@register("transform", "lookahead")
def lookahead(k: Count = 5, lookahead_alpha: UnitInterval = 0.5) -> Transform:
    """Every k steps, go back to slow weights that follow: s ← s + α (w − s), w ← s.

    Momentum and other buffers of the rule go on as they are.

    Source: Zhang et al. 2019 (arXiv:1907.08610), Algorithm 1, with its k and α.
    k: steps of the rule from one meeting to the next, counted for each parameter.
    lookahead_alpha: α, the part of the way that the slow weights go.
    """

    def after(param: Tensor, state: State, hyper: Hyper) -> Tensor:
        due = hyper.step % k == 0
        if due is False:
            return param
        slow = state["slow_weights"]
        slow.lerp_(param.to(slow.dtype), due * hyper.lookahead_alpha)
        return chosen(due, slow, param)

    return Transform(
        identity,
        buffers={"slow_weights": Buffer("param", lasts=True)},
        hyperparameters={"lookahead_alpha": lookahead_alpha},
        scope="element",
        after=after,
    )
