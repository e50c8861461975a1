"""A small noisy problem, and the ways to descend it: our optimizers, torch-like peers, optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import rheostat as rs

Array = NDArray[np.float64]
Gradient = Callable[[int, Array], Array]
"""(the number of the step, from 1; the weights) -> the gradient."""


def problem(shape: tuple[int, ...], seed: int = 0, scale: float = 1.0) -> tuple[Array, Gradient]:
    """Where to start, and the gradient of a quadratic whose noise follows from the step alone."""
    rng = np.random.default_rng(seed)
    start = rng.normal(size=shape)
    target, curvature = rng.normal(size=shape), rng.uniform(0.2, 2.0, size=shape)

    def gradient(t: int, w: Array) -> Array:
        noise = np.random.default_rng([seed, t]).normal(size=shape)
        return scale * (curvature * (w - target) + 0.5 * noise)

    return start, gradient


def ours(name: str, **arguments: Any) -> Callable[[list[nn.Parameter]], torch.optim.Optimizer]:
    """What makes our optimizer of this name."""
    return lambda params: rs.optimizer(name, params, **arguments)


def close(mine: Array, other: Array, tolerance: float) -> None:
    """Assert equality to a tolerance, relative and absolute."""
    np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def descend(
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    start: Array,
    gradient: Gradient,
    steps: int = 60,
    dtype: torch.dtype = torch.float64,
    before: Callable[[int, torch.optim.Optimizer, nn.Parameter], None] | None = None,
) -> Array:
    """The weights after so many steps of a torch optimizer; `before` is called ahead of each."""
    param = nn.Parameter(torch.tensor(start, dtype=dtype))
    optimizer = make([param])
    for t in range(1, steps + 1):
        slope = gradient(t, param.detach().double().numpy())
        param.grad = torch.tensor(slope, dtype=dtype)
        if before is not None:
            before(t, optimizer, param)
        optimizer.step()
    return param.detach().double().numpy()


def descend_optax(transformation: Any, start: Array, gradient: Gradient, steps: int = 60) -> Array:
    """The weights after so many steps of an optax transformation, in float32."""
    import jax.numpy as jnp
    import optax

    weights: Any = jnp.asarray(start, jnp.float32)
    state = transformation.init(weights)
    for t in range(1, steps + 1):
        slope = jnp.asarray(gradient(t, np.asarray(weights, np.float64)), jnp.float32)
        updates, state = transformation.update(slope, state, weights)
        weights = optax.apply_updates(weights, updates)
    return np.asarray(weights, np.float64)
