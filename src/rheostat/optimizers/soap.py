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
    Assumes: that the eigenvectors of Shampoo's preconditioner turn slowly, and Adam fits better
     along them.
    Theory: no proof is published with it.
    Practice: about 40 % fewer steps than AdamW on language models at large batches by its authors'
     measurements, with AdamW's lr; the first step only learns.
    State: 8*m*n + 8*m*m + 8*n*n bytes for m × n, 8*n for n; so where both sides are longer than 1
     and at most max_precond_dim.
    Flops: 5 m n (m + n) a step, and a QR decomposition of each side every precondition_frequency
     steps.
    Use: for transformers at large batches, where steps are dear beside the optimizer.
    Avoid: for sides of many thousands (lower max_precond_dim), and where memory is short.
    Recipe: {optimizer: soap, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: matrix, second-order, momentum, adaptive
    Source: Vyas et al. 2024 (arXiv:2409.11321), Algorithms 3 and 4.
    lr: step size. Usual [1e-4, 1e-2] weight: more learns faster, until it diverges.
    betas: decay rates of the running mean and of the mean square in the eigenbasis. Usual
     [0.9, 0.98], [0.9, 0.99]: higher averages over more steps.
    shampoo_beta: decay rate of L and R. Usual [0.9, 0.999]: higher turns the bases more slowly.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    precondition_frequency: steps between refreshed bases. Usual [1, 100] updates: fewer follow
     better and cost more.
    max_precond_dim: a side longer than this keeps its own basis, which costs nothing. Usual
     [512, 10000] elements: lower saves the square of long sides.
    dtype: precision of the products for L and R and on the way out of the eigenbasis, which bear
     rounding; bfloat16 is faster where the machine is made for it. Usual 'float32': 'bfloat16' is
     faster where the machine is made for it.
    """
    return chain(
        scale_by_soap(*betas, shampoo_beta, eps, precondition_frequency, max_precond_dim, dtype),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
