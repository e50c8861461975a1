"""Adam-mini: Adam with one second moment a block."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import Betas, Fraction, NonNegative, Positive, Steps
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform, chain
from rheostat.optimizers.policy import Policy, match, policy
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate


@register("transform", "scale_by_adam_mini")
def scale_by_adam_mini(
    b1: Fraction = 0.9, b2: Fraction = 0.999, eps: Positive = 1e-8, head_dim: Steps = 0
) -> Transform:
    """Adam's direction with the mean of the squares over a block in place of each square.

    A block is a row of a matrix, and any other parameter as a whole; with `head_dim`, so many
    consecutive rows.

    Source: Zhang et al. 2024 (arXiv:2406.16793), Algorithms 1–3.
    b1: β₁, decay rate of the running mean.
    b2: β₂, decay rate of a block's running mean of squares.
    eps: added to the denominator, in units of the update.
    head_dim: consecutive rows that are one block; 0 makes each row one.

    Raises:
        InputError: at the construction of the state, for a parameter whose rows are no multiple
            of `head_dim`.
    """

    def blocks(param: Tensor) -> tuple[int, ...]:
        if head_dim:
            rows = param.shape[0] if param.ndim else 1
            if rows % head_dim:
                raise InputError(
                    f"adam_mini: a parameter of shape {tuple(param.shape)} does not divide into "
                    f"heads of head_dim={head_dim} rows"
                )
            return (rows // head_dim,)
        return (param.shape[0],) if param.ndim == 2 else (1,)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        b1, b2 = hyper.betas
        square = state["exp_avg_sq"]
        width = u.numel() // max(square.numel(), 1)
        energy = u.square().reshape(square.numel(), width).sum(1) / max(width, 1)
        square.lerp_(energy, 1 - b2)
        denominator = (square.sqrt() / (1 - b2**hyper.step) ** 0.5).add_(hyper.eps)
        mean = state["exp_avg"].lerp_(u, 1 - b1).reshape(square.numel(), width)
        return (mean / denominator.unsqueeze(1)).reshape(u.shape) / (1 - b1**hyper.step)

    return Transform(
        update,
        buffers={"exp_avg": Buffer(), "exp_avg_sq": Buffer(shape=blocks)},
        hyperparameters={"betas": (b1, b2), "eps": eps},
        scope="matrix",
    )


@register("optimizer", "adam_mini")
def adam_mini(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Positive = 1e-8,
    weight_decay: NonNegative = 0.0,
    heads: tuple[str, ...] = (),
    head_dim: Steps = 0,
) -> Transform | Policy:
    """Adam-mini: AdamW with one second moment for each block of weights that share a curvature.

    w ← w − lr · (m̂ / (√v̂ + eps) + weight_decay · w), with v the running mean of the average of g²
    over a block.

    Variant: the paper's partition for transformers: a row of each matrix (an output neuron, a token
     of an embedding or head), a whole head of queries and keys where `heads` names them, and every
     other parameter (norms, biases, convolutions) as a whole.
    Equals: pytorch_optimizer.AdamMini for parameters that are no matrices, and for named heads (it
     has the paper's first partition, where other matrices are one block), to float32 rounding.
    Assumes: that the weights of a block (an output neuron, an attention head) share a curvature, so
     that one second moment serves them.
    Theory: argued from the block structure of the Hessian of transformers, without a rate.
    Practice: as AdamW on language models at half its state, with AdamW's hyperparameters; heads
     must be named for attention to be split as in the paper.
    State: 4*m*n + 4*m bytes for m × n, 4*n + 4 for n.
    Flops: about 8 an element.
    Use: for transformers whose optimizer state is what limits them.
    Avoid: for networks whose partition is unknown: one second moment for unlike weights is
     unstable.
    Recipe: {optimizer: adam_mini, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay:
     0.1}
    Tags: adaptive, momentum, low-memory
    Source: Zhang et al. 2024 (arXiv:2406.16793), Algorithms 1 and 3.
    lr: step size. Usual [1e-5, 1e-2] weight: more learns faster, until it diverges.
    betas: decay rates of the running mean and of the blocks' mean squares. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    heads: shell patterns of the names of the query and key matrices, such as "*.q_proj.weight".
     Usual (): naming them splits attention by heads, as the paper does.
    head_dim: rows of one head in these matrices. Usual [0, 256] rows: the model's own; another
     number mixes heads.
    """
    if bool(heads) != bool(head_dim):
        raise InputError("adam_mini: heads (names) and head_dim (rows of one head) go together")

    def rule(head_dim: int) -> Transform:
        return chain(
            scale_by_adam_mini(*betas, eps, head_dim),
            add_decayed_weights(weight_decay),
            scale_by_learning_rate(lr),
        )

    if not heads:
        return rule(0)
    return policy(match(rule(head_dim), name=heads), match(rule(0), optional=True))
