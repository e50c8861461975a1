"""NorMuon: Muon with a second moment for each neuron."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rheostat.core.hyper import Betas, Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.schedules.changes import following
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.orthogonal import (
    Coefficients,
    Iterations,
    Precision,
    Scale,
    as_matrix,
    check_split,
    in_parts,
    orthogonalize,
    trace_ema,
)
from rheostat.transforms.scaling import scale_by_learning_rate

_EPS = 1e-10


@register("transform", "normalize_neurons")
def normalize_neurons(beta2: Fraction = 0.95, split: Sequence[Count] | None = None) -> Transform:
    """Divide each row by its running root mean square, and keep the norm of the whole.

    v ← β₂ v + (1 − β₂) mean over a row of u²,  û = u / (√v + 1e-10),  u ← û ‖u‖ / ‖û‖.

    Source: Li et al. 2025 (arXiv:2510.05491), Algorithm 1, lines 7 to 9.
    beta2: β₂, decay rate of a row's running mean of squares.
    split: proportions in which the rows are several matrices, each with a norm of its own.
    """
    if split is not None:
        check_split(split)

    def rows(param: Tensor) -> tuple[int, int]:
        return (param.shape[0] if param.ndim else 1, 1)

    def one(u: Tensor, square: Tensor) -> Tensor:
        scaled = u / square.sqrt().add_(_EPS)
        before, after = (x.square().sum().sqrt() for x in (u, scaled))
        return scaled.mul_(before / (after + _EPS))

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if not u.numel():
            return u.clone()
        matrix, square = as_matrix(u), state["second_momentum_buffer"]
        square.lerp_(matrix.square().mean(1, keepdim=True), 1 - hyper.beta2)
        pairs = zip(in_parts(matrix, split), in_parts(square, split), strict=True)
        return torch.cat([one(*pair) for pair in pairs]).reshape(u.shape)

    return Transform(
        update,
        buffers={"second_momentum_buffer": Buffer(shape=rows)},
        hyperparameters={"beta2": beta2},
    )


@register("optimizer", "normuon")
def normuon(
    lr: NonNegative = 0.02,
    momentum: Fraction = 0.95,
    beta2: Fraction = 0.95,
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
    """Muon whose neurons all move alike: each row of the step divided by its running size.

    o = polar(b) of Muon's momentum b,  v ← β₂ v + (1 − β₂) mean over a row of o²,
    w ← w − lr · (scale · ‖o‖ · (o / √v) / ‖o / √v‖ + weight_decay · w).

    Variant: the authors' code, which keeps the norm that the orthogonal step had; the paper sets
     the root mean square to 0.2 (scale "match_rms" is near that). A convolution is a matrix of its
     output channels. What is not a hidden matrix or convolution is AdamW's, as in `muon`.
    Equals: the authors' SingleDeviceNorMuon for matrices, to bfloat16 rounding.
    Assumes: as Muon's, and that neurons should move alike, which orthogonality alone does not
     ensure.
    Theory: no proof is published with it; Muon's holds for β₂ = 1.
    Practice: ahead of Muon by some percent of tokens on language models, at hardly more state.
    State: 4*m*n + 4*m bytes for m × n, 8*n for n.
    Flops: 20 m² n + 10 m³ for a matrix with m ≤ n, and 6 an element.
    Use: where Muon is, above all for matrices whose rows differ in scale.
    Avoid: where Muon should be left.
    Recipe: {optimizer: normuon, lr: {schedule: cosine, peak: 0.02, warmup: 20}, weight_decay: 0.01,
     adamw_lr: 3e-3}
    Tags: matrix, momentum, nesterov, spectral, adaptive, low-memory
    Source: Li et al. 2025 (arXiv:2510.05491), Algorithm 1.
    lr: step size of the matrices. Usual [1e-3, 0.1] spectral norm: more learns faster, until it
     diverges.
    momentum: fraction of the running mean of the gradient kept each step. Usual [0.9, 0.98]: higher
     is steadier, slower to turn.
    beta2: decay rate of the rows' mean squares. Usual [0.9, 0.99]: higher averages over more steps.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    nesterov: look ahead along the running mean. Usual True: False is less reactive.
    scale: by m rows and n columns, as in `muon`: original, moonlight, match_rms, spectral or scion.
     Usual 'original': the others want another lr, 'match_rms' that of AdamW.
    coefficients: the polynomials of the iteration: quintic, polar_express or polar_express_wide.
     Usual 'quintic': the others are closer to orthogonal at the same or a lower cost.
    ns_steps: how many polynomials; 5, and 4 of polar_express_wide, where it is not given. Usual
     [3, 8] products: more is closer to orthogonal, and slower.
    dtype: precision of the iteration. Usual 'bfloat16': 'float32' is slower where the machine has
     bfloat16.
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
            normalize_neurons(beta2, parts),
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
