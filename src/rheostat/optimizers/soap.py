"""SOAP: Adam in the eigenbasis of Shampoo."""

from __future__ import annotations

from rheostat.core.hyper import Betas, Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.kronecker import scale_by_soap
from rheostat.transforms.orthogonal import Precision
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "soap")
def soap(
    lr: NonNegative = 3e-3,
    betas: Betas = (0.95, 0.95),
    shampoo_beta: Fraction = 0.95,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    precondition_frequency: Count = 10,
    max_precond_dim: Count = 10_000,
    dtype: Precision = "float32",
) -> Transform:
    """Adam in the slowly turning eigenbasis of Shampoo's preconditioner.

    L ← β L + (1 − β) G Gᵀ,  R ← β R + (1 − β) Gᵀ G, with eigenvectors Q_L and Q_R;
    w ← w − lr · (Q_L adam(Q_Lᵀ G Q_R) Q_Rᵀ + weight_decay · w).

    Variant: the authors' code: the first step only sets the bases (and decays), the bases are then
     refreshed by one power iteration and a QR decomposition, and eps is added before Adam's
     correction of its second moment. A convolution is a matrix of its output channels; vectors and
     scalars get plain Adam. Bases are refreshed by each parameter's own step count.
    Equals: pytorch_optimizer.SOAP for matrices and vectors, where weight_decay is 0 (it decays
     after the step), to float32 rounding.
    Source: Vyas et al. 2024 (arXiv:2409.11321), Algorithms 3 and 4.
    lr: step size.
    betas: decay rates of the running mean and of the mean square in the eigenbasis.
    shampoo_beta: decay rate of L and R.
    eps: added to the denominator, in units of the gradient.
    weight_decay: fraction of each weight taken off per unit of lr.
    precondition_frequency: steps between refreshed bases.
    max_precond_dim: a side longer than this keeps its own basis, which costs nothing.
    dtype: precision of the products for L and R and on the way out of the eigenbasis, which bear
     rounding; bfloat16 is faster where the machine is made for it.
    """
    return chain(
        scale_by_soap(*betas, shampoo_beta, eps, precondition_frequency, max_precond_dim, dtype),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
