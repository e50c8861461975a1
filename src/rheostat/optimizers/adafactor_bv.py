"""Adafactor as big_vision has it."""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import Count, Fraction, NonNegative, Positive, Steps, UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, chain
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.factored import MomentumType, average_update, scale_by_factored_rms
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.shaping import limit_update_rms


@register("optimizer", "adafactor_bv")
def adafactor_bv(
    lr: NonNegative = 1.0,
    min_dim_size_to_factor: Count = 32,
    decay_rate: NonNegative = 0.8,
    decay_offset: Steps = 0,
    beta2_cap: UnitInterval = 0.999,
    momentum: Fraction = 0.9,
    momentum_dtype: MomentumType = "bfloat16",
    eps: Positive = 1e-30,
    weight_decay: NonNegative = 0.0,
    clipping_threshold: Positive | None = None,
    unscaled_wd: bool = False,
) -> Transform:
    """Adafactor as vision transformers are trained with it: momentum, no relative step size.

    With v the second moment, factored over the two longest dimensions where both have
    `min_dim_size_to_factor`: m ← momentum · m + (1 − momentum) · g / √v,
    w ← w − lr · (m + weight_decay · w).

    Variant: big_vision's, with timm's choice of decay and clipping. timm divides by the wrong mean
     where the longest dimension comes first; this does not.
    Equals: timm's AdafactorBigVision where the longest dimension comes last; optax's
     scale_by_factored_rms where momentum is 0 and beta2_cap 1; both to float32 rounding.
    Assumes: second moments that are nearly a product of rows and columns.
    Theory: no proof is published with it.
    Practice: trains vision transformers to AdamW's accuracy with a third of its state.
    State: 2*m*n + 4*m + 4*n bytes for m × n, 6*n for n; so where both sides reach
     min_dim_size_to_factor.
    Flops: about 14 an element.
    Use: for large vision transformers, and wherever momentum helps and Adam's state is too much.
    Avoid: at its default lr of 1 without a schedule whose peak is far lower.
    Recipe: {optimizer: adafactor_bv, lr: {schedule: cosine, peak: 1e-2, warmup: 20}, weight_decay:
     0.01}
    Tags: adaptive, factored, matrix, momentum, low-memory
    Source: Zhai et al. 2022 (arXiv:2106.04560), section 3.4; Shazeer & Stern 2018
     (arXiv:1804.04235).
    lr: step size; a step's root mean square is about lr. Usual [1e-5, 1.0] weight: more learns
     faster, until it diverges; the default is a factor for schedules that hold the peak.
    min_dim_size_to_factor: both factored dimensions have at least this length. Usual [16, 128]
     elements: lower saves memory in small matrices.
    decay_rate: the second moment's decay rate is 1 − t^−decay_rate at step t. Usual [0.5, 1.0]:
     higher averages over more steps late in a run.
    decay_offset: steps that t begins late. Usual [0, 100000] updates: for a run that goes on from
     another's weights.
    beta2_cap: the second moment's largest decay rate. Usual [0.95, 0.9999]: lower follows a change
     of the gradient's scale sooner.
    momentum: fraction of the running mean of updates kept each step; 0 keeps no buffer. Usual
     [0, 0.95]: higher is steadier, slower to turn.
    momentum_dtype: precision of that buffer; float32 means the parameter's own. Usual 'bfloat16':
     'float32' costs two bytes more an element.
    eps: added to the square of the gradient. Usual [1e-30, 1e-12] gradient²: larger damps small
     gradients.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    clipping_threshold: largest root mean square of g / √v; none where it is not given. Usual
     [1, 10] RMS of g / √v: lower clips more.
    unscaled_wd: take the fraction off at every step, whatever the lr. Usual False: True keeps the
     decay when the lr falls.
    """
    return chain(
        scale_by_factored_rms(decay_rate, decay_offset, beta2_cap, eps, min_dim_size_to_factor),
        *([limit_update_rms(clipping_threshold)] if clipping_threshold is not None else []),
        *([average_update(momentum, momentum_dtype)] if momentum else []),
        *([] if unscaled_wd else [add_decayed_weights(weight_decay)]),
        scale_by_learning_rate(lr),
        *([_unscaled(weight_decay)] if unscaled_wd else []),
    )


def _unscaled(weight_decay: float) -> Transform:
    """Decay beside the step size, where a zero lr does not stop it."""

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * param

    return Transform(
        update,
        hyperparameters={"weight_decay": weight_decay},
        scope="element",
        name="unscaled_decay",
    )
