"""Muon."""

from __future__ import annotations

from collections.abc import Sequence

from rheostat.core.hyper import Betas, Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.schedules.changes import following
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
     vectors are AdamW's, with arguments of their own. Where lr is a schedule and adamw_lr a number,
     theirs is the same curve with adamw_lr for its peak, and restarts with it.
    Equals: torch.optim.Muon with adjust_lr_fn="original" (scale "original") or "match_rms_adamw"
     (scale "match_rms"), to bfloat16 rounding.
    Assumes: parameters that act as matrices, on vectors from both sides; a momentum whose small
     singular directions are worth as much as its large.
    Theory: steepest descent in the spectral norm (Bernstein & Newhouse 2024, arXiv:2409.20325);
     O(T^(−1/4)) to a stationary point under noise (Li & Hong 2025, arXiv:2502.02900).
    Practice: 1.5 to 2 times AdamW's data efficiency on language models by its authors'
     measurements, less by others'; insensitive to lr within a factor of 2; decay matters in long
     runs.
    State: 4*m*n bytes for m × n, 8*n for n.
    Flops: 20 m² n + 10 m³ for a matrix with m ≤ n and five iterations: a few percent of a step with
     large batches.
    Use: for hidden matrices of transformers and convolutions, AdamW beside it.
    Avoid: for embeddings, heads and vectors (its policy leaves them out), for small batches on tiny
     matrices, and where a matrix is sharded and gathering it is dear.
    Recipe: {optimizer: muon, lr: {schedule: cosine, peak: 0.02, warmup: 20}, weight_decay: 0.01,
     adamw_lr: 3e-3}
    Tags: matrix, momentum, nesterov, spectral, low-memory
    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scale "moonlight" of Liu et al.
     2025 (arXiv:2502.16982), "spectral" of Yang, Simon & Bernstein 2023 (arXiv:2310.17813).
    lr: step size of the matrices: with scale "original" about the spectral norm of one change.
     Usual [1e-3, 0.1] spectral norm: more learns faster, until it diverges.
    momentum: fraction of the running mean of the gradient kept each step. Usual [0.9, 0.98]: higher
     is steadier, slower to turn.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    nesterov: look ahead along the running mean. Usual True: False is less reactive.
    scale: by m rows and n columns: original √max(1, m/n); moonlight and match_rms, one rule, 0.2
     √max(m, n), a root mean square of about 0.2; spectral √(m/n); scion as spectral, but 1/k² in
     place of 1/k for a convolution of k × k. Usual 'original': the others want another lr,
     'match_rms' that of AdamW.
    coefficients: the polynomials of the iteration: quintic (singular values end in 0.68 to 1.21),
     polar_express (nearer to 1), polar_express_wide (as near as quintic, in fewer products). Usual
     'quintic': the others are closer to orthogonal at the same or a lower cost.
    ns_steps: how many polynomials; 5, and 4 of polar_express_wide, where it is not given. Usual
     [3, 8] products: more is closer to orthogonal, and slower.
    dtype: precision of the iteration; float32 is slower, and no better for training. Usual
     'bfloat16': 'float32' is slower where the machine has bfloat16.
    eps: the smallest norm that a momentum is divided by. Usual [1e-10, 1e-6] gradient: it only
     guards against a momentum of 0.
    split: shell patterns of the names of fused matrices, and the proportions of their rows that are
     matrices of their own, such as {"*.qkv.weight": [1, 1, 1]}. Usual None: naming fused matrices
     gives each part a step of its own.
    adamw_lr: step size of the other parameters, or its peak where lr is a schedule. Usual
     [1e-5, 1e-2] weight: as AdamW's lr, for all but the matrices.
    adamw_betas: AdamW's decay rates. Usual [0.8, 0.95], [0.95, 0.9999]: higher averages over more
     steps, which is steadier and slower to notice a change.
    adamw_eps: AdamW's eps, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger damps
     weights whose gradients are small.
    adamw_weight_decay: fraction of each of the other weights taken off per unit of adamw_lr. Usual
     [0, 0.3] 1/lr: more keeps weights smaller and fits less closely.
    """

    def rule(parts: Sequence[int] | None = None) -> Transform:
        return chain(
            trace_ema(momentum, nesterov),
            orthogonalize(coefficients, ns_steps, scale, dtype, eps, parts),
            add_decayed_weights(weight_decay),
            scale_by_learning_rate(lr),
        )

    return policy(
        *(match(rule(p), name=pattern, min_dim=2) for pattern, p in (split or {}).items()),
        match(rule(), role=("matrix", "convolution"), optional=True),
        match(
            adamw(following(adamw_lr, lr), adamw_betas, adamw_eps, adamw_weight_decay),
            optional=True,
        ),
    )
