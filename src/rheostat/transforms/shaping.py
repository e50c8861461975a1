"""Pieces that reshape an update: masked, centred, projected, filtered, noisy, limited."""

from __future__ import annotations

import torch
from torch import Tensor

from rheostat.core.hyper import Fraction, NonNegative, Positive
from rheostat.core.registry import register
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.transforms.norms import norm


@register("transform", "cautious_update")
def cautious_update() -> Transform:
    """Keep what agrees in sign with the gradient, and scale it up: u ← u · φ / max(mean φ, 1e-3).

    φ = 1[u g > 0], g being the gradient as it entered the chain. After a rule with momentum, before
    decay.

    Source: Liang et al. 2024 (arXiv:2411.16085); the floor of the mean is that of the authors'
     c_adamw.py and of timm, where the paper divides by the mean plus one element.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        kept = (u * hyper.gradient > 0).to(u.dtype)
        share = kept.mean() if kept.numel() else kept.sum()
        return u * kept / share.clamp(min=1e-3)

    return Transform(update, scope="matrix")


@register("transform", "centralize_gradient")
def centralize_gradient() -> Transform:
    """Take the mean off each output's update: u ← u − mean over all dimensions but the first.

    Vectors and scalars stay as they are.

    Source: Yong et al. 2020 (arXiv:2004.01461).
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if u.ndim < 2 or not u.numel():
            return u
        return u - u.mean(dim=tuple(range(1, u.ndim)), keepdim=True)

    return Transform(update, scope="matrix")


@register("transform", "orthogonal_gradient")
def orthogonal_gradient(rescale: bool = True) -> Transform:
    """⊥Grad: take off the part of the update along the weights, which only scales the logits.

    u⊥ = u − (⟨w, u⟩ / ⟨w, w⟩) w, then u ← u⊥ ‖u‖ / ‖u⊥‖. What is left of an update that has no
    other part is rounding, and stays unscaled.

    Source: Prieto et al. 2025 (arXiv:2501.04697); the rescaling is in the authors' code.
    rescale: give the result the norm of the update.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        w = param.to(u.dtype)
        square = (w * w).sum()
        rest = u - w * ((w * u).sum() / (square + (square == 0)))
        if not rescale:
            return rest
        before, after = norm(u), norm(rest)
        meant = after > 64 * torch.finfo(u.dtype).eps * before
        return rest * torch.where(meant, before / after, 1.0).to(u.dtype)

    return Transform(update, scope="matrix")


@register("transform", "add_noise")
def add_noise(noise_eta: NonNegative = 0.3, noise_gamma: NonNegative = 0.55) -> Transform:
    """Gaussian noise that anneals: u ← u + N(0, σ²), σ² = noise_eta / tᵞ, t counting from 1.

    The draw follows from the group's seed, the step and the parameter's name, so that a resumed run
    draws the same.

    Source: Neelakantan et al. 2015 (arXiv:1511.06807), with its η and γ.
    noise_eta: variance at the first step, in squared units of the gradient.
    noise_gamma: how fast it falls; 0 keeps it.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        deviation = (hyper.noise_eta / hyper.step**hyper.noise_gamma) ** 0.5
        return u + hyper.noise(u) * deviation

    return Transform(update, scope="tensor", host_step=True)


@register("transform", "limit_update_rms")
def limit_update_rms(max_rms: Positive = 1.0) -> Transform:
    """Each parameter's root mean square at most max_rms: u ← u / max(1, RMS(u) / max_rms).

    After the rule, before the step size.

    Source: Shazeer & Stern 2018 (arXiv:1804.04235).
    max_rms: largest root mean square that is not scaled down.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        rms = norm(u) / max(u.numel(), 1) ** 0.5
        return u / (rms / hyper.max_rms).clamp(min=1.0).to(u.dtype)

    return Transform(update, scope="matrix")


@register("transform", "grokfast_ema")
def grokfast_ema(grok_alpha: Fraction = 0.98, grok_lamb: NonNegative = 2.0) -> Transform:
    """Amplify the slow part of the gradient: μ ← α μ + (1 − α) u, u ← u + λ μ.

    μ begins at the first gradient, as in the authors' code. Before the rule.

    Source: Lee et al. 2024 (arXiv:2405.20233).
    grok_alpha: α, decay rate of the running mean.
    grok_lamb: λ, how much of the running mean is added.
    """

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        old = hyper.grok_alpha * (1 - 0.0 ** (hyper.step - 1))  # 0 at the first step
        slow = state["grokfast_mean"].mul_(old).add_(u * (1 - old))
        return u + slow * hyper.grok_lamb

    return Transform(update, buffers={"grokfast_mean": Buffer()}, scope="element")
