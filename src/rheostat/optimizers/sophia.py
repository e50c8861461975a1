"""Sophia: clipped steps by an estimate of the Hessian's diagonal."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_sophia")
def scale_by_sophia(
    b1: Fraction = 0.96, b2: Fraction = 0.99, gamma: NonNegative = 0.05, eps: Positive = 1e-12
) -> Transform:
    """The running mean divided by a running diagonal of the Hessian, each element at most 1.

    m ← β₁ m + (1 − β₁) u,  u ← clip(m / max(gamma · h, eps), 1). A sample of the diagonal that is
    observed goes into h ← β₂ h + (1 − β₂) ĥ; until then, and where h < 0, u is the sign of m.

    Source: Liu et al. 2023 (arXiv:2305.14342), Algorithm 3.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running diagonal.
    gamma: scale of the diagonal: the larger, the fewer elements are cut at 1.
    eps: least denominator.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        mean = state["exp_avg"].lerp_(u, 1 - hyper.betas[0])
        curvature = (hyper.gamma * state["hessian"]).clamp_(min=hyper.eps)
        return (mean / curvature).clamp_(-1, 1)

    def observe(sample: Tensor, state: State, param: Tensor, hyper: Hyper) -> None:
        curvature = state["hessian"]
        curvature.lerp_(sample.to(curvature.dtype), 1 - hyper.betas[1])

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "hessian": Buffer()},
        hyperparameters={"betas": (b1, b2), "gamma": gamma, "eps": eps},
        scope="element",
        observe=observe,
    )


@register("optimizer", "sophia")
def sophia(
    lr: NonNegative = 1e-4,
    betas: Betas = (0.96, 0.99),
    gamma: NonNegative = 0.05,
    eps: Positive = 1e-12,
    weight_decay: NonNegative = 0.1,
) -> Transform:
    """Sophia: Newton-like steps, clipped, from a diagonal curvature that is observed now and then.

    w ← w − lr · (clip(m / max(gamma · h, eps), 1) + weight_decay · w), with m the running mean of
    the gradient and h that of the samples of the Hessian's diagonal.

    Variant: as published, without bias corrections; `Optimizer.observe`, called every k steps (10
     in the paper), takes the sample: Gauss–Newton–Bartlett (Sophia-G) or Hutchinson's (Sophia-H).
     With none observed it is sign descent with momentum.
    Equals: pytorch_optimizer.SophiaH given the same samples, its p = gamma, its lr = lr / gamma and
     its eps = eps / gamma, to float32 rounding. optax.contrib.sophia corrects m for its zero start
     and uses a sample one step late: other numbers.
    Assumes: a diagonal of the Hessian that changes slowly beside the steps between samples;
     `opt.observe` called by the loop.
    Theory: for deterministic convex losses steps that do not depend on the local condition number
     (the paper).
    Practice: half of AdamW's steps on GPT-2 by its authors, less by others; watch the share of
     clipped coordinates. Without observe it is a sign rule.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 8 an element, and a pass backward every k steps for the sample.
    Use: for language models, where a loop can call observe every 10 steps.
    Avoid: in a framework's loop that cannot call observe.
    Recipe: {optimizer: sophia, lr: {schedule: cosine, peak: 3e-3, warmup: 20}}
    Tags: second-order, momentum, clipping
    Source: Liu et al. 2023 (arXiv:2305.14342), Algorithm 3.
    lr: step size; no weight changes by more in one update. Usual [1e-5, 3e-3] weight: more learns
     faster, until it diverges.
    betas: decay rates of the mean of the gradient and, a sample each, of the diagonal. Usual
     [0.9, 0.98], [0.95, 0.999]: a higher second averages over more samples.
    gamma: scale of the diagonal: lower clips more; the paper has 0.05 (G) and 0.01 (H). Usual
     [0.005, 0.2] 1: lower clips more.
    eps: least curvature. Usual [1e-15, 1e-8] gradient²: larger damps flat directions.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return chain(
        scale_by_sophia(*betas, gamma, eps),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
