"""GaLore: Adam on a low-rank projection of the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheostat.core.hyper import Betas, Count, Fraction, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.optimizers.adamw import adamw
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.orthogonal import as_matrix
from rheostat.transforms.scaling import scale_by_learning_rate

_linalg: Any = torch.linalg


@register("transform", "scale_by_galore")
def scale_by_galore(
    b1: Fraction = 0.9,
    b2: Fraction = 0.999,
    eps: NonNegative = 1e-6,
    rank: Count = 128,
    update_proj_gap: Count = 200,
    galore_scale: NonNegative = 0.25,
) -> Transform:
    """Adam in the space of the update's largest singular directions, and back.

    For a matrix with no fewer rows than columns V holds the first `rank` right singular vectors of
    the update, taken at the first and at every `update_proj_gap`-th step after it; then
    u ← galore_scale · adam(u V) Vᵀ, eps added before Adam's correction of its second moment. For
    other matrices the left ones, Uᵀ u. The moments stay as they are when the space changes, and
    each new direction takes the sign that is nearer to the old one of its rank.

    Source: Zhao et al. 2024 (arXiv:2403.03507), Algorithm 2, as in the authors' code.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of the running mean of squares.
    eps: added to the denominator, before the correction of the zero start.
    rank: directions that are kept.
    update_proj_gap: steps from one choice of directions to the next.
    galore_scale: what the update is multiplied by on the way back.
    """

    def size(param: Tensor) -> tuple[int, int, int]:
        rows = param.shape[0] if param.ndim else 1
        columns = param.numel() // max(rows, 1)
        return rows, columns, min(rank, rows, columns)

    def moments(param: Tensor) -> tuple[int, int]:
        rows, columns, r = size(param)
        return (rows, r) if rows >= columns else (r, columns)

    def projector(param: Tensor) -> tuple[int, int]:
        rows, columns, r = size(param)
        return (min(rows, columns), r)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if not u.numel():
            return u.clone()
        b1, b2 = hyper.betas
        matrix, basis = as_matrix(u), state["projector"]
        tall = matrix.shape[0] >= matrix.shape[1]
        if (hyper.step - 1) % update_proj_gap == 0 and bool(matrix.isfinite().all()):
            left, _, right = _linalg.svd(matrix, full_matrices=False)
            found = (right.mT if tall else left)[:, : basis.shape[1]]
            # A decomposition leaves the signs open; the moments want the nearer ones.
            basis.copy_(torch.where((basis * found).sum(0) < 0, -found, found))
        low = matrix @ basis if tall else basis.mT @ matrix
        mean = state["exp_avg"].lerp_(low, 1 - b1)
        square = state["exp_avg_sq"].mul_(b2).addcmul_(low, low, value=1 - b2)
        factor = hyper.galore_scale * (1 - b2**hyper.step) ** 0.5 / (1 - b1**hyper.step)
        low = (mean / square.sqrt().add_(hyper.eps)).mul_(factor)
        return (low @ basis.mT if tall else basis @ low).reshape(u.shape)

    return Transform(
        update,
        buffers={
            "exp_avg": Buffer(shape=moments),
            "exp_avg_sq": Buffer(shape=moments),
            "projector": Buffer(shape=projector),
        },
        hyperparameters={"betas": (b1, b2), "eps": eps, "galore_scale": galore_scale},
        host_step=True,
    )


@register("optimizer", "galore")
def galore(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 0.0,
    rank: Count = 128,
    update_proj_gap: Count = 200,
    galore_scale: NonNegative = 0.25,
) -> Policy:
    """Adam on the gradient's largest singular directions for hidden matrices and convolutions, on
    everything for the other parameters; its state is as small as the rank.

    g̃ = Uᵀ g (or g V),  w ← w − lr · (galore_scale · U adam(g̃) + weight_decay · w), with U of `rank`
    columns, the first left singular vectors of the gradient every `update_proj_gap` steps.

    Variant: the authors' AdamW with projection "std": the shorter side is projected; the moments
     are kept when the space changes (the signs of the new directions follow the old ones, where the
     authors leave them to chance); eps is added before the correction of the second moment. A
     convolution is a matrix of its output channels. The other parameters get AdamW with the same
     arguments.
    Equals: pytorch_optimizer.GaLore for matrices in its first update_proj_gap − 1 steps (it then
     projects one step early), where weight_decay is 0 (it decays after the step), to float32
     rounding.
    Assumes: gradients of matrices whose energy lies in few directions that turn slowly.
    Theory: with a fixed projection it converges for the gradients of some networks (the paper);
     under noise the projected rule can stop away from a stationary point (He et al. 2024).
    Practice: pre-trains language models near AdamW's loss at a quarter of the rank's state; the
     decomposition costs seconds at large sizes, every 200 steps.
    State: 8*max(m, n)*min(m, n, 128) + 4*min(m, n)*min(m, n, 128) bytes for m × n, 8*n for n.
    Flops: 4 m n r for the projections of rank r, and a singular value decomposition of m × n every
     update_proj_gap steps.
    Use: to train all weights of a large model where AdamW's state does not fit.
    Avoid: for small matrices (the rank is no saving), and at a rank far below the gradient's.
    Recipe: {optimizer: galore, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, rank: 8,
     update_proj_gap: 20}
    Tags: adaptive, momentum, matrix, low-rank, low-memory
    Source: Zhao et al. 2024 (arXiv:2403.03507), Algorithm 2.
    lr: step size. Usual [1e-4, 3e-2] weight: more learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    rank: directions kept; at most the shorter side. Usual [32, 1024] directions: more is closer to
     AdamW and costs its memory.
    update_proj_gap: steps between singular value decompositions. Usual [50, 1000] updates: fewer
     follow the gradient better and decompose more often.
    galore_scale: α of the paper: what a projected step is multiplied with. Usual [0.1, 1] 1: more
     takes longer steps; it multiplies lr for the matrices.
    """
    rule = chain(
        scale_by_galore(*betas, eps, rank, update_proj_gap, galore_scale),
        add_decayed_weights(weight_decay),
        scale_by_learning_rate(lr),
    )
    return policy(
        match(rule, role=("matrix", "convolution"), optional=True),
        match(adamw(lr, betas, eps, weight_decay), optional=True),
    )
