"""Muon."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.core.hyper import Betas, Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.orthogonal import (
    Coefficients,
    Iterations,
    Precision,
    Scale,
    orthogonalize,
    trace_ema,
)
from rheostat.transforms.scaling import scale_by_learning_rate


@register("optimizer", "muon")
def muon(
    lr: NonNegative = 0.02,
    momentum: Fraction = 0.95,
    weight_decay: NonNegative = 0.0,
    nesterov: bool = True,
    scale: Scale = "original",
    coefficients: Coefficients = "quintic",
    ns_steps: Iterations | None = None,
    dtype: Precision = "bfloat16",
    eps: NonNegative = 1e-7,
    split: dict[str, Sequence[Count]] | None = None,
    adamw_lr: NonNegative = 3e-4,
    adamw_betas: Betas = (0.9, 0.95),
    adamw_eps: NonNegative = 1e-8,
    adamw_weight_decay: NonNegative = 0.0,
) -> Policy:
    """Momentum made orthogonal for hidden matrices and convolutions, AdamW for all else.

    b ← momentum · b + (1 − momentum) · g,  w ← w − lr · (scale · polar(b) + weight_decay · w),
    with polar(b) the orthogonal factor U Vᵀ of b = U Σ Vᵀ, nearly: by a few matrix products.

    Variant: the author's, which multiplies by √max(1, m/n) for m rows and n columns; `scale` names
     other published rules, whose steps differ up to sevenfold at the same lr. A convolution is a
     matrix of its output channels. Embeddings, the head (the last linear layer), norms, biases and
     vectors are AdamW's, with arguments of their own; their lr is not tied to this one's schedule.
    Equals: torch.optim.Muon with adjust_lr_fn="original" (scale "original") or "match_rms_adamw"
     (scale "match_rms"), to bfloat16 rounding.
    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scale "moonlight" of Liu et al.
     2025 (arXiv:2502.16982), "spectral" of Yang, Simon & Bernstein 2023 (arXiv:2310.17813).
    lr: step size of the matrices: with scale "original" about the spectral norm of one change.
    momentum: fraction of the running mean of the gradient kept each step.
    weight_decay: fraction of each weight taken off per unit of lr.
    nesterov: look ahead along the running mean.
    scale: by m rows and n columns: original √max(1, m/n); moonlight and match_rms, one rule,
     0.2 √max(m, n), a root mean square of about 0.2; spectral √(m/n); scion as spectral, but
     1/k² in place of 1/k for a convolution of k × k.
    coefficients: the polynomials of the iteration: quintic (singular values end in 0.68 to 1.21),
     polar_express (nearer to 1), polar_express_wide (as near as quintic, in fewer products).
    ns_steps: how many polynomials; 5, and 4 of polar_express_wide, where it is not given.
    dtype: precision of the iteration; float32 is slower, and no better for training.
    eps: the smallest norm that a momentum is divided by.
    split: shell patterns of the names of fused matrices, and the proportions of their rows that are
     matrices of their own, such as {"*.qkv.weight": [1, 1, 1]}.
    adamw_lr: step size of the other parameters.
    adamw_betas: AdamW's decay rates.
    adamw_eps: AdamW's eps, in units of the gradient.
    adamw_weight_decay: fraction of each of the other weights taken off per unit of adamw_lr.
    """

    def rule(parts: Sequence[int] | None = None) -> Transform:
        return chain(
            trace_ema(momentum, nesterov),
            orthogonalize(coefficients, ns_steps, scale, dtype, eps, parts),
            add_decayed_weights(weight_decay),
            scale_by_learning_rate(lr),
        )

    return policy(
        *(match(rule(parts), name=pattern) for pattern, parts in (split or {}).items()),
        match(rule(), role=("matrix", "convolution"), optional=True),
        match(adamw(adamw_lr, adamw_betas, adamw_eps, adamw_weight_decay), optional=True),
    )
