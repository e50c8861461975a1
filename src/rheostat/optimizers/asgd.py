"""Averaged stochastic gradient descent."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights


@register("optimizer", "asgd")
def asgd(
    lr: NonNegative = 1e-2,
    lambd: NonNegative = 1e-4,
    alpha: NonNegative = 0.75,
    t0: NonNegative = 1e6,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """SGD with a falling step size, and the average of its weights after update t0.

    w ← w − η (g + lambd · w),  η = lr / (1 + lambd · lr · (t − 1))^alpha,  with g the gradient plus
    weight_decay · w;  a ← a + (w − a) / max(1, t − 1 − t0). `opt.averaged()` shows a.

    Variant: a scheduled lr acts at once; torch computes η an update ahead, with the lr of then.
    Equals: torch.optim.ASGD (same defaults, a constant lr; a is its `ax`), to float32 rounding.
    Assumes: a loss that is smooth and, near its end, convex; noise that averages out.
    Theory: the average of SGD's iterates under steps t^−α, ½ < α < 1, has the best possible
     asymptotic error (Polyak & Juditsky 1992).
    Practice: helped language models of recurrent networks at a constant lr; today's moving averages
     do the same with any rule.
    State: 4*m*n bytes for m × n, 4*n for n.
    Flops: about 8 an element.
    Use: for convex models, and to average weights late in a run (t0).
    Avoid: without evaluating inside `opt.averaged()`: the weights themselves do not show the gain.
    Recipe: {optimizer: asgd, lr: 0.05, t0: 50}
    Tags: averaging, low-memory
    Source: Polyak & Juditsky 1992 (SIAM J. Control Optim. 30:838–855); the step size after Bottou
     2012 (Stochastic gradient descent tricks).
    lr: step size of the first update, in units of weight per unit of gradient. Usual [1e-3, 30]
     weight/gradient: more learns faster, until it diverges.
    lambd: fraction of each weight taken off per unit of η; also the speed at which η falls. Usual
     [0, 1e-2] 1/η: more falls faster and decays more.
    alpha: power by which η falls. Usual [0.5, 1]: higher falls faster.
    t0: updates of a parameter without an average; a is w up to update t0 + 2, its first part. Usual
     [0, 1e6] updates: lower averages over more of the run, its poor beginning too.
    weight_decay: L2 coefficient, added to the gradient. Usual [0, 1e-2] gradient/weight: more keeps
     weights smaller and fits less closely.
    """
    numbers = {"lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0}
    step = Transform(
        _step,
        buffers={"ax": Buffer()},
        hyperparameters=numbers,
        scope="element",
        scaled=True,
        after=_average,
        view=_averaged,
        name="averaged_steps",
    )
    return chain(add_decayed_weights(weight_decay), step)


def _step(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    eta = hyper.lr / (1 + hyper.lambd * hyper.lr * (hyper.step - 1)) ** hyper.alpha
    return (u + hyper.lambd * param) * eta


def _average(param: Tensor, state: State, hyper: Hyper) -> Tensor:
    # max(1, t − 1 − t0), written so that the step may be a tensor.
    beyond = hyper.step - 1 - hyper.t0 - 1
    state["ax"].lerp_(param.to(state["ax"].dtype), 1 / (1 + (beyond + abs(beyond)) / 2))
    return param


def _averaged(param: Tensor, state: State, hyper: Hyper) -> Tensor:
    # Before the first update there is no average yet.
    return (param if hyper.step == 0 else state["ax"]).clone()
