"""Adafactor."""

from __future__ import annotations

from rheostat.core.hyper import NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import Transform
from rheostat.transforms.factored import AtLeastOne, NonPositive, step_by_adafactor


@register("optimizer", "adafactor")
def adafactor(
    lr: NonNegative = 1e-2,
    beta2_decay: NonPositive = -0.8,
    eps: tuple[NonNegative | None, NonNegative] = (None, 1e-3),
    d: AtLeastOne = 1.0,
    weight_decay: NonNegative = 0.0,
) -> Transform:
    """Adam without momentum, its second moment a product of rows and columns, its step relative to
    the weights.

    With v the factored second moment and û = g / √v:
    w ← w − lr · weight_decay · w − min(lr, 1/√t) · max(eps₂, RMS(w)) · û / max(1, RMS(û) / d).

    Variant: torch's: lr is the largest relative step (0.01 in the paper) and scales the decay; eps₁
     is a lower bound of √v; more than two dimensions are factored over the last two.
    Equals: torch.optim.Adafactor (same defaults), to float32 rounding.
    Assumes: second moments that are nearly a product of rows and columns; weights of a sensible
     size at the start, since steps are relative to it.
    Theory: no proof is published with it.
    Practice: as good as Adam for large transformers at a fraction of its state; the clipping by d
     carries it over spikes, and without momentum it wants a warm-up.
    State: 4*m + 4*n bytes for m × n, 4*n for n.
    Flops: about 12 an element.
    Use: where Adam's state does not fit, above all for embeddings and wide matrices.
    Avoid: for weights that start at 0 and must grow: steps are relative to max(eps₂, RMS(w)).
    Recipe: {optimizer: adafactor, lr: {schedule: cosine, peak: 1e-2, warmup: 20}}
    Tags: adaptive, factored, matrix, low-memory
    Source: Shazeer & Stern 2018 (arXiv:1804.04235), Algorithms 4 and 5.
    lr: largest step, as a fraction of the root mean square of the weights. Usual [1e-3, 1e-1]
     RMS(w): more moves weights by a larger share of their size.
    beta2_decay: the decay rate of the second moment is 1 − t^beta2_decay at step t. Usual
     [-1, -0.5]: closer to 0 forgets old gradients sooner.
    eps: the smallest √v, in units of the gradient (the precision of the parameter's type where none
     is given), and the smallest size of the weights that a step is relative to. Usual
     [1e-30, 1e-6], [1e-6, 1e-2] gradient, weight: a larger second lets small weights move farther.
    d: largest root mean square of û. Usual [1, 10] RMS of û: lower clips more.
    weight_decay: fraction of each weight taken off per unit of lr. Usual [0, 0.3] 1/lr: more keeps
     weights smaller and fits less closely.
    """
    return step_by_adafactor(lr, beta2_decay, eps, d, weight_decay)
