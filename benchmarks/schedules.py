"""The time of a million values of every schedule, in milliseconds, beside one of numpy's cosines.

    OMP_NUM_THREADS=1 python benchmarks/schedules.py [--steps N] [--repeats N] [--only PATTERN]

Processor time, the least of several runs, which a busy machine disturbs the least; "scattered" are
the same steps in a random order, "one" is a single value in microseconds. The bound is 50 ms for a
million steps in order. Exits with 1 where one is above it.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
import time
from collections.abc import Callable

import numpy as np

import rheostat as rs

S = rs.schedules
BOUND = 50.0


def schedules(n: int) -> dict[str, rs.Schedule]:
    """One of every registered schedule, over a horizon of n steps."""
    cosine = S.cosine(0.3, steps=n, warmup=n // 100)
    part = S.cosine(0.3, steps=n // 4)
    return {
        "constant": S.constant(0.3, warmup=n // 100),
        "cosine": cosine,
        "on_base": S.on_base(S.cosine(1.0, steps=n), base=0.3),
        "linear": S.linear(0.3, steps=n, warmup=n // 100, floor=0.01),
        "linear_to_zero": S.linear_to_zero(0.3, steps=n),
        "polynomial": S.polynomial(0.3, steps=n, power=1.7, floor=0.01),
        "rex": S.rex(0.3, steps=n, floor=0.01),
        "tanh": S.tanh(0.3, steps=n, floor=0.01),
        "ramp": S.ramp(0.1, 0.3, steps=n),
        "exponential": S.exponential(0.3, steps=n, warmup=n // 100),
        "inverse_sqrt": S.inverse_sqrt(0.3, warmup=n // 100),
        "power": S.power(0.3, scale=2.0, warmup=n // 100),
        "step": S.step(0.3, steps=n, warmup=n // 100),
        "multi_step": S.multi_step(0.3, milestones=tuple(range(1000, n, max(n // 50, 1)))),
        "piecewise": S.piecewise((n // 4, n // 2), (0.1, 0.3, 0.2), interpolate="cosine"),
        "table": S.table(tuple(np.linspace(0.1, 0.3, 1001).tolist()), every=n // 1000),
        "wsd": S.wsd(0.3, steps=n, warmup=n // 100, shape="one_minus_sqrt"),
        "one_cycle": S.one_cycle(0.3, steps=n),
        "one_cycle_momentum": S.one_cycle_momentum(steps=n),
        "triangular": S.triangular(0.3, rise=2000),
        "triangular2": S.triangular2(0.3, rise=2000),
        "exp_range": S.exp_range(0.3, rise=2000, factor=0.99999),
        "cosine_restarts": S.cosine_restarts(0.3, period=n // 100, decay=0.9, warmup=10),
        "linear_restarts": S.linear_restarts(0.3, period=n // 100, decay=0.9),
        "polynomial_restarts": S.polynomial_restarts(0.3, period=n // 100, multiplier=1.1, steps=n),
        "exponential_restarts": S.exponential_restarts(0.3, period=n // 100, steps=n),
        "restart": S.restart(part, period=n // 50, decay=0.9),
        "triggered": S.triggered(part, at=tuple(range(1000, n, max(n // 10, 1))), decay=0.9),
        "warmup": S.warmup(cosine, length=n // 100),
        "shift": S.shift(cosine, by=n // 100),
        "join": S.join((part, S.linear(0.3, steps=n // 4), part, part)),
        "repeat": S.repeat(part),
        "scale": S.scale(cosine, factor=0.5),
        "add": S.add((cosine, part)),
        "multiply": S.multiply((cosine, part)),
        "clamp": S.clamp(cosine, lower=0.01, upper=0.2),
        "until": S.until(S.inverse_sqrt(0.3), steps=n),
        "in_unit": S.in_unit(S.in_unit(cosine, "tokens", per_update=64), "updates", per_update=64),
        "extend": S.extend(part, at=n // 8, steps=n),
        "rescale_from": S.rescale_from(cosine, at=n // 2, peak=0.1),
        "cooldown_from": S.cooldown_from(cosine, at=n // 2, steps=n),
        "restart_sgdr": S.restart_sgdr(0.3, steps=n),
        "restart_equal": S.restart_equal(0.3, steps=n),
        "restart_decayed": S.restart_decayed(0.3, steps=n),
        "restart_once": S.restart_once(0.3, steps=n),
        "restart_rewarmed": S.restart_rewarmed(0.3, steps=n),
        "restart_fresh": S.restart_fresh(0.3, steps=n),
    }


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """The least time of so many runs."""
    times: list[float] = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return 1e3 * min(times)


def main() -> int:
    """Measure and print; 1 where a schedule is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="*")
    given = parser.parse_args()
    steps = np.arange(given.steps)
    scattered = np.random.default_rng(0).permutation(steps)
    found = schedules(given.steps)
    missing = {c.name for c in rs.components("schedule")} - set(found)
    if missing:
        sys.exit(f"not measured: {', '.join(sorted(missing))}")
    plain = milliseconds(lambda: np.cos(steps / given.steps), given.repeats)
    print(f"{'numpy cosine':<22} {plain:8.1f}")
    print(f"{'':<22} {'in order':>8} {'scattered':>10} {'one, µs':>8}")
    slow: list[str] = []
    for name in fnmatch.filter(found, given.only):
        schedule = found[name]
        ordered = milliseconds(lambda s=schedule: s.values(steps), given.repeats)
        mixed = milliseconds(lambda s=schedule: s.values(scattered), max(given.repeats // 2, 1))
        one = 1e3 * milliseconds(lambda s=schedule: s(12_345), 50)
        print(f"{name:<22} {ordered:8.1f} {mixed:10.1f} {one:8.1f}")
        if ordered * 1e6 / given.steps > BOUND:
            slow.append(name)
    if slow:
        print(f"above {BOUND:.0f} ms for a million steps: {', '.join(slow)}")
    return bool(slow)


if __name__ == "__main__":
    sys.exit(main())
