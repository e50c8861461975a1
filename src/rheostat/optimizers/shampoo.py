"""Shampoo."""

from __future__ import annotations

from rheostat.core.hyper import Betas, Count, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import chain
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import Policy, match, policy
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
     AdamW's, whose arguments suit those of the graft "adam".
    Equals: no other library's numbers.
    Source: Gupta et al. 2018 (arXiv:1802.09568), Algorithm 1; Anil et al. 2020 (arXiv:2002.09018);
     Shi et al. 2023 (arXiv:2309.06497).
    lr: step size, in the scale of the graft.
    betas: decay rates of the running mean, and of L, R and the graft's mean square.
    eps: added to the graft's denominator, in units of the gradient.
    matrix_eps: added to the eigenvalues of L and R, as a fraction of the largest.
    weight_decay: fraction of each weight taken off per unit of lr.
    graft: whose step length each block gets: sgd, adam, rmsprop (adam's without the correction of
     its mean square), or none.
    block_size: longest side of a block.
    precondition_frequency: steps between roots.
    adamw_lr: step size of the other parameters.
    adamw_betas: AdamW's decay rates.
    adamw_weight_decay: fraction of each of the other weights taken off per unit of adamw_lr.
    """
    rule = chain(
        scale_by_shampoo(*betas, eps, matrix_eps, graft, block_size, precondition_frequency),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
    return policy(
        match(rule, role=("matrix", "convolution"), optional=True),
        match(adamw(adamw_lr, adamw_betas, eps, adamw_weight_decay), optional=True),
    )
