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
    Assumes: that a layer may change by a share of its norm, whatever its gradient; weights that
     start away from 0.
    Theory: O(1 / √T) to a stationary point with large batches, without momentum and decay (the
     paper).
    Practice: trains BERT with batches of 32,000 as AdamW does with 512; at small batches no better
     than AdamW.
    State: 8*m*n bytes for m × n, 8*n for n.
    Flops: about 19 an element, and two norms a parameter.
    Use: for batches of thousands, with lr scaled by the root of the batch size.
    Avoid: for norms and biases, whose small weights make steps small: give them to adamw in a
     policy.
    Recipe: {optimizer: lamb, lr: {schedule: cosine, peak: 2e-2, warmup: 20}}
    Tags: adaptive, momentum, layerwise, large-batch
    Source: You et al. 2020 (arXiv:1904.00962), Algorithm 2.
    lr: the share of its norm by which a layer moves in one update. Usual [1e-4, 2e-2] of ‖w‖: more
     learns faster, until it diverges.
    betas: decay rates of the running mean and of the running mean square. Usual [0.8, 0.95],
     [0.95, 0.9999]: higher averages over more steps, which is steadier and slower to notice a
     change.
    eps: added to the denominator, in units of the gradient. Usual [1e-10, 1e-4] gradient: larger
     damps weights whose gradients are small.
    weight_decay: weight of w in r; what it takes off depends on the ratio too. Usual [0, 0.1] of r:
     more pulls towards 0, within a step of the same length.
    """
    return chain(
        scale_by_adam(*betas, eps),
        add_decayed_weights(weight_decay),
        scale_by_trust_ratio(),
        scale_by_learning_rate(lr),
    )
