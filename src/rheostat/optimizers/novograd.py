"""NovoGrad: gradients normalised layer by layer."""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain, one_number
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_novograd")
def scale_by_novograd(
    b1: Fraction = 0.95,
    b2: Fraction = 0.98,
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """A running sum of updates divided by the running root mean of their squared norm.

    v ← β₂ v + (1 − β₂) ‖u‖², one number a parameter, which starts at ‖u‖²;
    m ← β₁ m + u / (√v + eps) + weight_decay · w; u ← m.

    Source: Ginsburg et al. 2019 (arXiv:1905.11286), Algorithm 1.
    b1: β₁, decay rate of the running sum.
    b2: β₂, decay rate of the running mean of squared norms.
    eps: added to the denominator, in units of the update.
    weight_decay: share of the weights that is added before the sum.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        energy, square = state["exp_avg_sq"], u.square().sum()
        # It starts at the first gradient that is not 0; one of 0 would leave it far too small.
        energy.copy_(torch.where(energy == 0, square, torch.lerp(energy, square, 1 - b2)))
        normed = u / (energy.sqrt() + hyper.eps)
        return state["exp_avg"].mul_(b1).add_(normed + hyper.weight_decay * param).clone()

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer(shape=one_number)},
        hyperparameters={"betas": (b1, b2), "eps": eps, "weight_decay": weight_decay},
        scope="whole",
    )


@register("optimizer", "novograd")
def novograd(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.95, 0.98),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """NovoGrad: momentum of gradients divided by one running norm a layer; half of Adam's memory.

    v ← β₂ v + (1 − β₂) ‖g‖²,  m ← β₁ m + g / (√v + eps) + weight_decay · w,  w ← w − lr · m.

    Variant: as published: v starts at ‖g‖² in place of a bias correction, decay goes into the
     momentum, which is a sum (no 1 − β₁). A parameter tensor is a layer.
    Equals: pytorch_optimizer.NovoGrad (same defaults) and optax.novograd, to float32 rounding.
    Assumes: that one scale a layer is enough; layers of similar shape.
    Theory: no proof is published with it.
    Practice: trained speech and image models at large batches with half of Adam's state; lr an
     order above Adam's.
    State: 4*m*n + 4 bytes for m × n, 4*n + 4 for n.
    Flops: about 7 an element, and a norm a parameter.
    Use: for convolutional speech and vision models with large batches.
    Avoid: for embeddings, whose rows need scales of their own.
    Recipe: {optimizer: novograd, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, momentum, layerwise, low-memory
    Source: Ginsburg et al. 2019 (arXiv:1905.11286), Algorithm 1.
    lr: step size; the norm of a layer's change in one update is about this / (1 − β₁). Usual
     [1e-4, 0.05] ‖Δw‖·(1 − β₁): more learns faster, until it diverges.
    betas: decay rates of the momentum and of the squared norm. Usual [0.8, 0.98], [0.2, 0.999]: a
     higher first makes steps longer, since momentum is a sum.
    eps: added to the norm, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger damps
     weights whose gradients are small.
    weight_decay: fraction of each weight added to the momentum. Usual [0, 1e-2] 1/lr: more keeps
     weights smaller; it passes through the momentum.
    """
    return chain(
        scale_by_novograd(*betas, eps, weight_decay),
        scale_by_learning_rate(lr),
    )
