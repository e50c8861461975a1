"""Weight decay. Where a piece stands in the chain, and which piece it is, says the kind.

Decay kinds, by what a step takes off a weight w, with γ the learning rate of the step, γ̂ its
largest value and λ = weight_decay:

- decoupled, γ λ w: `add_decayed_weights` after the rule, before the step size. What AdamW does;
  another learning rate is another decay.
- L2, whatever the rule makes of λ w: `add_decayed_weights` before the rule.
- independent, (γ / γ̂) λ w: `add_independent_decay` in the place of the decoupled one. Another peak
  learning rate leaves it alone; λ is about 1e-4 where a decoupled one is 0.1.
- corrected, (γ / γ̂) γ λ w: `add_corrected_decay`, for layers that a normalisation follows.
- squared, γ² λ w: `add_squared_decay`, as PaLM with λ = 1.
- cautious, γ λ w where the step shrinks the weight anyway, else nothing: `add_cautious_decay`.

All stop where the learning rate is 0. λ = 0 for norms and biases is a matter of groups or policy.
"""

from __future__ import annotations

from torch import Tensor

from rheostat.core.hyper import NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform


@register("transform", "add_decayed_weights")
def add_decayed_weights(weight_decay: NonNegative = 0.0) -> Transform:
    """Add a fraction of the weights: u ← u + weight_decay · w.

    After the rule and before the step size this is decoupled decay; before the rule it is
    L2 regularisation, which the rule then rescales.

    Source: Loshchilov & Hutter 2019 (arXiv:1711.05101).
    weight_decay: share of the weights that is added; after the rule, what a step takes off per unit
     of lr.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * param

    return Transform(update, scope="element")


@register("transform", "add_independent_decay")
def add_independent_decay(weight_decay: NonNegative, peak_lr: Positive) -> Transform:
    """Decay that follows the schedule, not the peak: u ← u + (weight_decay / peak_lr) · w.

    After the rule and before the step size. At the peak a step takes off the fraction weight_decay,
    whatever the peak is. A group's `lr_factor` multiplies what is taken off, too; give such a group
    peak_lr times that factor where it should not.

    Source: Wortsman et al. 2023 (arXiv:2309.14322); the η_t λ of Loshchilov & Hutter 2019
     (arXiv:1711.05101), Algorithm 2.
    weight_decay: fraction of each weight taken off in a step at the peak.
    peak_lr: the largest learning rate of the schedule.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay / hyper.peak_lr * param

    return Transform(update, scope="element")


@register("transform", "add_corrected_decay")
def add_corrected_decay(weight_decay: NonNegative, peak_lr: Positive) -> Transform:
    """AdamC's decay: u ← u + weight_decay · (lr / peak_lr) · w.

    After the rule and before the step size, in a chain with an `lr`. For the layers that a
    normalisation follows, whose ratio of gradient to weights it keeps steady while the schedule
    falls. The lr is that of the group: one with an `lr_factor` needs peak_lr times that factor.

    Source: Defazio 2025 (arXiv:2506.02285).
    weight_decay: fraction of each weight taken off per unit of lr, at the peak.
    peak_lr: the largest learning rate of the schedule.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * hyper.lr / hyper.peak_lr * param

    return Transform(update, scope="element")


@register("transform", "add_squared_decay")
def add_squared_decay(weight_decay: NonNegative = 1.0) -> Transform:
    """PaLM's decay, lr² in a step: u ← u + weight_decay · lr · w.

    After the rule and before the step size, in a chain with an `lr`.

    Source: Chowdhery et al. 2022 (arXiv:2204.02311), where weight_decay is 1.
    weight_decay: share of each weight taken off per unit of lr².
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * hyper.lr * param

    return Transform(update, scope="element")


@register("transform", "add_cautious_decay")
def add_cautious_decay(weight_decay: NonNegative = 0.0) -> Transform:
    """Decay only where the update shrinks the weight too: u ← u + weight_decay · 1[u w ≥ 0] · w.

    After the rule and before the step size.

    Source: Chen et al. 2025 (arXiv:2510.12402).
    weight_decay: share of each weight taken off per unit of lr, where it is.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u + hyper.weight_decay * param * (u * param >= 0)

    return Transform(update, scope="element")
