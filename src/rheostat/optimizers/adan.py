"""Adan: adaptive Nesterov momentum."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_adan")
def scale_by_adan(
    b1: Fraction = 0.98, b2: Fraction = 0.92, b3: Fraction = 0.99, eps: Positive = 1e-8
) -> Transform:
    """Nesterov momentum from differences of updates, divided by the root mean square ahead.

    With d = u − (the u before), 0 at first: m ← β₁ m + (1 − β₁) u,  v ← β₂ v + (1 − β₂) d,
    n ← β₃ n + (1 − β₃) (u + β₂ d)²,  u ← (m̂ + β₂ v̂) / (√n̂ + eps), all corrected for the zero start.

    Source: Xie et al. 2022 (arXiv:2208.06677), Algorithm 1, whose β are 1 − β here.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of differences.
    b3: β₃, decay rate of the running mean of squares.
    eps: added to the denominator, in units of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2, b3 = hyper.betas
        difference = (u - state["previous_grad"]) * (hyper.step > 1)
        state["previous_grad"].copy_(u)
        mean = state["exp_avg"].lerp_(u, 1 - b1)
        slope = state["exp_avg_diff"].lerp_(difference, 1 - b2)
        ahead = u + b2 * difference
        square = state["exp_avg_sq"].mul_(b3).addcmul_(ahead, ahead, value=1 - b3)
        denominator = (square.sqrt() / (1 - b3**hyper.step) ** 0.5).add_(hyper.eps)
        momentum = mean / (1 - b1**hyper.step) + slope * (b2 / (1 - b2**hyper.step))
        return momentum.div_(denominator)

    return Transform(
        update,
        buffers={
            "exp_avg": Buffer(),
            "exp_avg_diff": Buffer(),
            "exp_avg_sq": Buffer(),
            "previous_grad": Buffer(),
        },
        hyperparameters={"betas": (b1, b2, b3), "eps": eps},
        scope="element",
    )


@register("transform", "add_proximal_decay")
def add_proximal_decay(lr: NonNegative = 1e-3, weight_decay: NonNegative = 0.0) -> Transform:
    """The step size with decay taken at the weight arrived at: w − u becomes
    (w − lr · u) / (1 + lr · weight_decay). Takes the place of `scale_by_learning_rate`.

    The proximal step of the L2 penalty: no overshooting 0.

    Source: Zhuang et al. 2022 (arXiv:2202.00089).
    lr: step size.
    weight_decay: share of the weights taken off per unit of lr.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        shrink = 1 + hyper.lr * hyper.weight_decay
        return (u + hyper.weight_decay * param) * (hyper.lr / shrink)

    return Transform(update, scope="element", scaled=True)


@register("optimizer", "adan")
def adan(
    lr: NonNegative = 1e-3,
    betas: tuple[Fraction, Fraction, Fraction] = (0.98, 0.92, 0.99),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    proximal: bool = True,
) -> Transform:
    """Adan: Nesterov momentum estimated from the differences of successive gradients.

    w ← (w − lr · (m̂ + β₂ v̂) / (√n̂ + eps)) / (1 + lr · weight_decay), with m̂, v̂ and n̂ the
    bias-corrected running means of g, of d = g − g₋₁ and of (g + β₂ d)².

    Variant: the authors' code: betas are decay rates (the paper writes 1 − β), bias correction, no
     restarts, gradients clipped by a piece of its own or not at all.
    Equals: pytorch_optimizer.Adan (same defaults; weight_decouple = not proximal), to float32
     rounding. optax.adan takes 1 − β₂ where the paper, in this notation, has β₂: other numbers.
    Assumes: that the difference of successive gradients is signal more than noise: batches are not
     tiny.
    Theory: O(ε^−3.5) stochastic gradients to a point with ‖∇f‖ ≤ ε where the Hessian is Lipschitz,
     the lower bound (the paper, with restarts).
    Practice: trains vision transformers and convolutions in fewer epochs than AdamW at an lr 5 to
     10 times as high; the state is twice AdamW's.
    State: 16*m*n bytes for m × n, 16*n for n.
    Flops: about 25 an element.
    Use: for vision and generative models with large batches and lr.
    Avoid: where memory is short, or batches are small and noisy.
    Recipe: {optimizer: adan, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay: 0.02}
    Tags: adaptive, momentum, nesterov
    Source: Xie et al. 2022 (arXiv:2208.06677), Algorithm 1.
    lr: step size; about the largest change of one weight in one update. Usual [1e-4, 3e-2] weight:
     more learns faster, until it diverges.
    betas: decay rates of the running means of the gradient, of its differences, and of the square.
     Usual [0.9, 0.99], [0.8, 0.98], [0.95, 0.999]: higher averages over more steps; the second
     weighs the differences.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    proximal: decay by dividing the new weight, as published; otherwise as AdamW does. Usual True:
     False decays as AdamW does, and differs where lr · weight_decay is large.
    """
    rule = scale_by_adan(*betas, eps)
    if proximal:
        return chain(rule, add_proximal_decay(lr, weight_decay))
    return chain(rule, add_decayed_weights(weight_decay), scale_by_learning_rate(lr))
