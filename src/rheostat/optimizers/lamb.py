"""LAMB: layer-wise adaptive AdamW for large batches."""

from __future__ import annotations

from rheostat.core.hyper import Betas, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Transform, chain
from rheostat.transforms.adam import scale_by_adam
from rheostat.transforms.decay import add_decayed_weights
from rheostat.transforms.scaling import scale_by_learning_rate
from rheostat.transforms.trust import scale_by_trust_ratio


@register("optimizer", "lamb")
def lamb(
    lr: NonNegative = 1e-3,
    betas: Betas = (0.9, 0.999),
    eps: Positive = 1e-6,
    weight_decay: NonNegative = 1e-2,
) -> Transform:
    """LAMB: AdamW whose update of each layer is scaled to the norm of its weights.

    r = m̂ / (√v̂ + eps) + weight_decay · w,  w ← w − lr · ‖w‖ / ‖r‖ · r, the ratio being 1 where
    a norm is 0.

    Variant: Algorithm 2 with its bias correction and φ the identity: no bound on ‖w‖ or on the
    ratio, no normalisation of gradients. A parameter tensor is a layer; biases and norms are
    usually given to adamw, or decay 0, by a policy.
    Equals: optax.lamb (same arguments; its decay is 0 by default), to float32 rounding.
    pytorch_optimizer.Lamb bounds ‖w‖ by 10 and does not correct v: other numbers.
    Source: You et al. 2020 (arXiv:1904.00962), Algorithm 2.
    lr: the share of its norm by which a layer moves in one update.
    betas: decay rates of the running mean and of the running mean square.
    eps: added to the denominator, in units of the gradient.
    weight_decay: weight of w in r; what it takes off depends on the ratio too.
    """
    return chain(
        scale_by_adam(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_trust_ratio(),
        scale_by_learning_rate(lr),
    )
