"""PSGD with a Kronecker-factored preconditioner."""

from __future__ import annotations

from rheostat.core.hyper import Count, Fraction, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.whitening import scale_by_kron


@register("optimizer", "psgd_kron")
def psgd_kron(
    lr: NonNegative = 1e-3,
    momentum: Fraction = 0.9,
    weight_decay: NonNegative = 0.0,
    precond_lr: NonNegative = 0.1,
    precondition_frequency: Count = 33,
    precondition_warmup: Steps = 500,
    max_size_triangular: Count = 2048,
) -> Transform:
    """Momentum whitened by a Kronecker-factored preconditioner that descent keeps up to date.

    w ← w − lr · (P m̂ + weight_decay · w),  P m̂ = Q_Lᵀ Q_L m̂ Q_Rᵀ Q_R, at most 1.1 in root mean
    square; Q_L and Q_R move until P m̂ has the covariance of white noise.

    Variant: kron_torch's (momentum goes into the preconditioner, triangular factors), on matrices:
     a convolution is a matrix of its output channels, a vector has one diagonal factor. Where
     kron_torch updates the preconditioner at random, with a probability that falls from 1 to 0.03,
     this does so at each of a parameter's first `precondition_warmup` steps and at every
     `precondition_frequency`-th after them; the factors are balanced at every 100th. The noise
     follows from the seed of the group, the step and the parameter's name.
    Equals: timm's Kron at the same noise and the same steps, to float32 rounding.
    Assumes: that the momentum's covariance is nearly a Kronecker product.
    Theory: the preconditioner's descent converges to the one that whitens (Li 2015, 2022); of the
     loss no rate is published.
    Practice: between Adam and Shampoo in cost, and beside SOAP in steps on language models; the lr
     is about a third of Adam's, clipping of gradients unneeded.
    State: 4*m*n + 4*m*m + 4*n*n bytes for m × n, 8*n for n; so where both sides are at most
     max_size_triangular.
    Flops: 4 m n (m + n) a step, and about twice that in the steps that update the preconditioner.
    Use: where curvature is strong and badly scaled, recurrent networks among it.
    Avoid: for sides of many thousands, and where a step must cost the same each time.
    Recipe: {optimizer: psgd_kron, lr: {schedule: cosine, peak: 3e-3, warmup: 20}}
    Tags: matrix, second-order, momentum
    Source: Li 2022 (arXiv:2211.04422), section 3.2; Li 2015 (arXiv:1512.04202).
    lr: step size: the root mean square of an update is about this. Usual [1e-4, 1e-2] weight: more
     learns faster, until it diverges.
    momentum: fraction of the running mean of the gradient kept each step. Usual [0.8, 0.98]: higher
     is steadier, slower to turn.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    precond_lr: step size of the preconditioner's factors, relative to their size. Usual [0.01, 0.5]
     of the factors: more follows the curvature faster, with more noise.
    precondition_frequency: steps between updates of the preconditioner. Usual [1, 100] updates:
     fewer follow better and cost more.
    precondition_warmup: so many steps, the first ones of a parameter, all update it. Usual
     [0, 2000] updates: more learns the preconditioner before it is left alone.
    max_size_triangular: a longer side gets a diagonal factor. Usual [256, 8192] elements: higher
     preconditions longer sides, at the square of their memory.
    """
    return chain(
        scale_by_kron(
            momentum, precond_lr, precondition_frequency, precondition_warmup, max_size_triangular
        ),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
