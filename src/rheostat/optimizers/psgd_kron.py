"""PSGD with a Kronecker-factored preconditioner."""

from __future__ import annotations

from rheostat.core.hyper import Count, Fraction, NonNegative, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.kronecker import scale_by_kron
from rheostat.transforms.scaling import scale_by_learning_rate


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
    Source: Li 2022 (arXiv:2211.04422), section 3.2; Li 2015 (arXiv:1512.04202).
    lr: step size: the root mean square of an update is about this.
    momentum: fraction of the running mean of the gradient kept each step.
    weight_decay: fraction of each weight taken off per unit of lr.
    precond_lr: step size of the preconditioner's factors, relative to their size.
    precondition_frequency: steps between updates of the preconditioner.
    precondition_warmup: so many steps, the first ones of a parameter, all update it.
    max_size_triangular: a longer side gets a diagonal factor.
    """
    return chain(
        scale_by_kron(
            momentum, precond_lr, precondition_frequency, precondition_warmup, max_size_triangular
        ),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
