"""Shampoo."""

from __future__ import annotations

from rheostat.core.hyper import Betas, Count, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import chain
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.schedules.changes import following
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.kronecker import Graft, scale_by_shampoo
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "shampoo")
def shampoo(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-8,
    matrix_eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 1e-2,
    graft: Graft = "adam",
    block_size: Count = 512,
    precondition_frequency: Count = 10,
    adamw_lr: NonNegative = 1e-3,
    adamw_betas: Betas = (0.9, 0.999),
    adamw_weight_decay: NonNegative = 1e-2,
) -> Policy:
    """Matrices preconditioned from both sides, block by block; AdamW for all other parameters.

    L ← β₂ L + (1 − β₂) G Gᵀ,  R ← β₂ R + (1 − β₂) Gᵀ G for each block G;
    w ← w − lr · (L̂^(−¼) m̂ R̂^(−¼) · ‖graft‖ / ‖L̂^(−¼) m̂ R̂^(−¼)‖ + weight_decay · w), with m̂ the
    running mean and hats for the correction of zero starts.

    Variant: distributed Shampoo's blocks, running averages and layer-wise grafting, here by block;
     the ridge of the roots is relative to the largest eigenvalue, and roots are taken by
     eigendecomposition at the first and every `precondition_frequency`-th step after it. A
     convolution is a matrix of its output channels. What is not a hidden matrix or convolution is
     AdamW's, whose arguments suit those of the graft "adam". Where lr is a schedule and adamw_lr a
     number, theirs is the same curve with adamw_lr for its peak, and restarts with it.
    Equals: no other library's numbers.
    Assumes: gradients whose covariance is nearly a Kronecker product of rows and columns, within a
     block.
    Theory: regret O(√T) for convex losses, with sums in place of averages and without grafting
     (Gupta et al. 2018).
    Practice: won AlgoPerf's external-tuning track; fewer steps than AdamW, each dearer. Grafted,
     AdamW's lr carries over.
    State: 8*m*n + 8*m*m + 8*n*n bytes for m × n, 8*n for n; so where both sides are at most
     block_size.
    Flops: 8 b an element a step for blocks of side b, and an eigendecomposition of each b × b every
     precondition_frequency steps.
    Use: where steps are dear beside the optimizer: large batches, many machines.
    Avoid: for small networks and short runs, and where eigendecompositions are slow.
    Recipe: {optimizer: shampoo, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, adamw_lr: 1e-2}
    Tags: matrix, second-order, momentum, adaptive
    Source: Gupta et al. 2018 (arXiv:1802.09568), Algorithm 1; Anil et al. 2020 (arXiv:2002.09018);
     Shi et al. 2023 (arXiv:2309.06497).
    lr: step size, in the scale of the graft. Usual [1e-5, 1e-2] weight: as the graft's.
    betas: decay rates of the running mean, and of L, R and the graft's mean square. Usual
     [0.8, 0.95], [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to
     notice a change.
    eps: added to the graft's denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient:
     larger damps weights whose gradients are small.
    matrix_eps: added to the eigenvalues of L and R, as a fraction of the largest. Usual
     [1e-12, 1e-3] of the largest eigenvalue: larger preconditions less.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    graft: whose step length each block gets: sgd, adam, rmsprop (adam's without the correction of
     its mean square), or none. Usual 'adam': 'none' leaves the step's length to the preconditioner.
    block_size: longest side of a block. Usual [128, 2048] elements: larger sees more of the
     covariance, at the square of the memory.
    precondition_frequency: steps between roots. Usual [1, 100] updates: fewer follow better and
     cost more.
    adamw_lr: step size of the other parameters, or its peak where lr is a schedule. Usual
     [1e-5, 1e-2] weight: more learns faster, until it diverges.
    adamw_betas: AdamW's decay rates. Usual [0.8, 0.95], [0.95, 0.9999]: higher averages over more
     steps, which is steadier and slower to notice a change.
    adamw_weight_decay: fraction of each of the other weights taken off per unit of adamw_lr. Usual
     [0, 0.3] 1/lr: more keeps weights smaller and fits less closely.
    """
    rule = chain(
        scale_by_shampoo(*betas, eps, matrix_eps, graft, block_size, precondition_frequency),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
    return policy(
        match(rule, role=("matrix", "convolution"), optional=True),
        match(adamw(following(adamw_lr, lr), adamw_betas, eps, adamw_weight_decay), optional=True),
    )
