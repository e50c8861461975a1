"""One schedule of every registered kind, and other libraries' learning rates step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import rheostat as rs
from rheostat.core.schedule import Schedule

S = rs.schedules
STEPS = 1000
COSINE = S.cosine(0.3, steps=STEPS)

SAMPLES: dict[str, Schedule] = {
    "constant": S.constant(0.3, warmup=7),
    "on_base": S.on_base(S.cosine(1.0, steps=STEPS, warmup=10), base=0.3),
    "cosine": S.cosine(0.3, steps=STEPS, warmup=10, floor=0.001),
    "linear": S.linear(0.3, steps=STEPS, warmup=10, floor=0.001),
    "linear_to_zero": S.linear_to_zero(0.3, steps=STEPS, warmup=10),
    "polynomial": S.polynomial(0.3, steps=STEPS, power=1.7, warmup=10, floor=0.001),
    "rex": S.rex(0.3, steps=STEPS, warmup=10, floor=0.001),
    "tanh": S.tanh(0.3, steps=STEPS, warmup=10, floor=0.001),
    "ramp": S.ramp(0.85, 0.95, steps=STEPS),
    "exponential": S.exponential(0.3, steps=STEPS, factor=0.01, warmup=10, floor=0.004),
    "inverse_sqrt": S.inverse_sqrt(0.3, warmup=50, floor=0.01),
    "power": S.power(0.3, scale=2.0, warmup=50),
    "step": S.step(0.3, steps=STEPS, warmup=10),
    "multi_step": S.multi_step(0.3, milestones=(100, 400, 400, 700), warmup=10),
    "piecewise": S.piecewise((100, 500, 900), (0.1, 0.3, 0.2, 0.0), interpolate="cosine"),
    "table": S.table((0.1, 0.3, 0.2, 0.0), every=300, interpolate="linear"),
    "wsd": S.wsd(0.3, steps=STEPS, warmup=10, shape="one_minus_sqrt", floor=0.001),
    "one_cycle": S.one_cycle(0.3, steps=STEPS),
    "one_cycle_momentum": S.one_cycle_momentum(steps=STEPS, three_phase=True),
    "triangular": S.triangular(0.3, floor=0.01, rise=40, fall=70),
    "triangular2": S.triangular2(0.3, floor=0.01, rise=40),
    "exp_range": S.exp_range(0.3, floor=0.01, rise=40, factor=0.999),
    "cosine_restarts": S.cosine_restarts(
        0.3, period=37, steps=STEPS, multiplier=1.7, decay=0.8, warmup=5
    ),
    "linear_restarts": S.linear_restarts(0.3, period=90, floor=0.01),
    "polynomial_restarts": S.polynomial_restarts(0.3, period=90, steps=STEPS, decay=0.9),
    "exponential_restarts": S.exponential_restarts(0.3, period=50, steps=STEPS, multiplier=2),
    "restart": S.restart(S.wsd(0.3, steps=100, warmup=10), steps=STEPS, multiplier=1.5),
    "triggered": S.triggered(COSINE, at=(123, 456), decay=0.5),
    "warmup": S.warmup(COSINE, length=20),
    "shift": S.shift(COSINE, by=20),
    "join": S.join((S.ramp(0.0, 0.3, steps=50), COSINE, S.constant(0.01))),
    "repeat": S.repeat(S.ramp(0.1, 0.3, steps=30), times=20),
    "scale": S.scale(COSINE, factor=0.5),
    "add": S.add((COSINE, S.constant(0.1))),
    "multiply": S.multiply((COSINE, S.triangular(1.0, floor=0.5, rise=50))),
    "clamp": S.clamp(COSINE, lower=0.05, upper=0.2),
    "until": S.until(S.inverse_sqrt(0.3), steps=500),
    "in_unit": S.in_unit(COSINE, "tokens", per_update=4096),
    "extend": S.extend(COSINE, at=400, steps=1500),
    "rescale_from": S.rescale_from(COSINE, at=400, peak=0.15),
    "cooldown_from": S.cooldown_from(S.wsd(0.3, steps=STEPS), at=400, steps=600, shape="cosine"),
    "restart_sgdr": S.restart_sgdr(0.3, steps=STEPS),
    "restart_equal": S.restart_equal(0.3, steps=STEPS),
    "restart_decayed": S.restart_decayed(0.3, steps=STEPS),
    "restart_once": S.restart_once(0.3, steps=STEPS),
    "restart_rewarmed": S.restart_rewarmed(0.3, steps=STEPS),
    "restart_fresh": S.restart_fresh(0.3, steps=STEPS),
}
"""Name -> a schedule of that component."""


def torch_optimizer(*lrs: float) -> torch.optim.SGD:
    """An optimizer with one group a learning rate, for schedulers to move."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in lrs]
    return torch.optim.SGD(groups, momentum=0.9)


def torch_values(scheduler: Any, steps: int, key: str = "lr") -> np.ndarray:
    """What each group of a torch scheduler's optimizer holds, in so many steps: (groups, steps)."""
    rows: list[list[float]] = []
    for k in range(steps):
        rows.append([group[key] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        if k < steps - 1:
            scheduler.step()
    return np.array(rows).T


def optax_values(make: Callable[[], Any], steps: int) -> np.ndarray:
    """An optax schedule at steps 0, 1, …, made and evaluated in float64."""
    import jax

    with jax.enable_x64(True):
        import jax.numpy as jnp

        return np.asarray(jax.vmap(make())(jnp.arange(steps)), dtype=np.float64)
