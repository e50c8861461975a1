"""The time of a step, as ratios in one run: ours against torch, pytorch-optimizer and heavyball.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--threads N] [--repeats N] [--only PATTERN]

Every ratio is the median of several pairs, taken in turn, so that a machine whose speed drifts
does not decide. Run it on an idle machine. Three lists of tensors: "large" (14.7 M parameters in
41), "double" (29.4 M in 81) and "small" (1 M in 400).
"""

from __future__ import annotations

import argparse
import fnmatch
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import rheostat as rs

BLOCK = [(512,), (1536, 512), (1536,), (512, 512), (512,), (512,), (512,), (2048, 512), (2048,)]
LISTS: dict[str, list[tuple[int, ...]]] = {
    "large": [(4096, 512), *([*BLOCK, (512, 2048)] * 4)],
    "double": [(8192, 512), *([*BLOCK, (512, 2048)] * 8)],
    "small": [(50, 50)] * 400,
}

WORDS = {
    # What a rule must read and write for each parameter: p and g read, p written, and twice for
    # each buffer. torch's fused AdamW is the yardstick: 7 words.
    "adamw": 7,
    "lion": 5,
    "signum": 5,
    "adabelief": 7,
    "ademamix": 9,
    "laprop": 7,
    "adan": 9,
    "adopt": 7,
    "rmsprop": 5,
    "adagrad": 5,
    "adamax": 7,
    "nadamw": 7,
    "radam": 7,
    "lamb": 7,
    "schedule_free_adamw": 7,
    "mars": 9,
    "sophia": 6,
    "madgrad": 9,
    "sgd": 5,
}


FOREACH: dict[str, Any] = {
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adadelta": torch.optim.Adadelta,
    "rmsprop": torch.optim.RMSprop,
    "rprop": torch.optim.Rprop,
    "asgd": torch.optim.ASGD,
}
"""Rules of torch for which it has no fused kernel: without a compiler they run eagerly."""


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """Parameters with gradients, the same every time."""
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    for param in made:
        param.grad = 0.01 * torch.randn(param.shape, generator=generator)
    return made


def compare(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of the ratios pair by pair."""
    for _ in range(3):
        ours()
        theirs()
    mine, other = [], []
    for _ in range(repeats):
        for act, times in ((ours, mine), (theirs, other)):
            start = time.perf_counter()
            act()
            times.append(1e3 * (time.perf_counter() - start))
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return statistics.median(mine), statistics.median(other), statistics.median(ratios)


def report(name: str, result: tuple[float, float, float], wanted: float | None = None) -> None:
    """One line of the table."""
    mine, other, ratio = result
    goal = (
        ""
        if wanted is None
        else f"  wanted ≤ {wanted:.2f}  {'ok' if ratio <= wanted else 'MISSED'}"
    )
    print(f"{name:<58} {mine:9.2f} {other:9.2f} {ratio:7.3f}{goal}", flush=True)


def fused_adamw(params: list[nn.Parameter], norm: bool = False) -> Callable[[], None]:
    """torch's fused AdamW, with one `_foreach_norm` before it if asked."""
    peer = torch.optim.AdamW(params, fused=True)

    def step() -> None:
        if norm:
            torch._foreach_norm([p.grad for p in params])
        peer.step()

    return step


def clipped_adamw(params: list[nn.Parameter]) -> Callable[[], None]:
    """clip_grad_norm_ and torch's fused AdamW."""
    peer = torch.optim.AdamW(params, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        peer.step()

    return step


def our_chain() -> rs.Transform:
    """The chain that equals adamw."""
    pieces = rs.transforms
    return rs.chain(pieces.scale_by_adam(), pieces.add_decayed_weights(0.01))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", default="*")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    n = options.repeats
    wanted = lambda name: fnmatch.fnmatch(name, options.only)  # noqa: E731
    print(
        f"torch {torch.__version__}, {options.threads} thread(s), "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    print(f"{'':<58} {'ours ms':>9} {'peer ms':>9} {'ratio':>7}")

    for size, shapes in LISTS.items():
        if wanted("adamw"):
            for label, rule in (("adamw", "adamw"), ("the chain that equals it", our_chain())):
                for nonfinite, norm in (("propagate", False), ("skip", True)):
                    opt = rs.optimizer(rule, parameters(shapes), nonfinite=nonfinite)
                    peer = fused_adamw(parameters(shapes), norm)
                    against = "torch fused" + (" + norm" if norm else "")
                    name = f"{size}: {label}, {nonfinite}, against {against}"
                    report(name, compare(opt.step, peer, n), 1.05)
        if wanted("clip"):
            lr = rs.schedules.cosine(1e-3, steps=100_000, warmup=100)
            chained = rs.chain(rs.transforms.clip_by_global_norm(1.0), our_chain())
            opt = rs.optimizer(chained, parameters(shapes), lr=lr)
            peer = clipped_adamw(parameters(shapes))
            name = f"{size}: clip + adamw + decay + schedule, against clip_grad_norm_ + fused"
            report(name, compare(opt.step, peer, n), 1.0)

    for size in ("large", "double"):
        shapes = LISTS[size]
        for name, words in WORDS.items():
            if wanted(name) and name != "adamw":
                arguments = {"momentum": 0.9} if name == "sgd" else {}
                opt = rs.optimizer(name, parameters(shapes), nonfinite="propagate", **arguments)
                mine, fused, ratio = compare(opt.step, fused_adamw(parameters(shapes)), n)
                mode = opt.param_groups[0]["mode"]
                line = f"{size}: {name} ({mode}), against {words}/7 of torch fused AdamW"
                report(line, (mine, fused * words / 7, ratio * 7 / words), 1.5)

    for name, peer in FOREACH.items():
        if wanted(name):
            made = rs.optimizer(
                name, parameters(LISTS["small"]), mode="eager", nonfinite="propagate"
            )
            theirs = peer(parameters(LISTS["small"]), foreach=True)
            line = f"small: {name} (eager), against torch foreach"
            report(line, compare(made.step, theirs.step, n), 1.5)

    if wanted("muon"):
        muon()

    against_pytorch_optimizer(options, wanted)


def muon() -> None:
    """torch.optim.Muon against ours, and how far each is from the polar factor of a Gaussian matrix
    and of one whose singular values fall as 1/i."""
    shapes = [shape for shape in LISTS["large"] if len(shape) == 2]
    quiet: dict[str, Any] = {"lr": 1.0, "weight_decay": 0.0, "momentum": 0.0, "nesterov": False}
    far = [_distance(torch.optim.Muon, spectrum, quiet) for spectrum in (False, True)]
    print(f"torch.optim.Muon: distance {far[0]:.3f} (Gaussian), {far[1]:.3f} (1/i)")
    for coefficients, steps in (
        ("quintic", 5),
        ("polar_express_wide", 4),
        ("polar_express_wide", 3),
    ):
        given: dict[str, Any] = {"coefficients": coefficients, "ns_steps": steps}

        def make(params: Any, given: Any = given, **arguments: Any) -> Any:
            named = [(f"m{i}", param) for i, param in enumerate(params)]
            return rs.optimizer("muon", named, **given, **arguments)

        near = [_distance(make, spectrum, quiet) for spectrum in (False, True)]
        opt, peer = make(parameters(shapes)), torch.optim.Muon(parameters(shapes))
        line = f"muon, {coefficients} × {steps}, distance {near[0]:.3f}, {near[1]:.3f}"
        report(line, compare(opt.step, peer.step, 3), 0.5)


def _distance(make: Callable[..., Any], falling: bool, arguments: dict[str, Any]) -> float:
    """‖u − polar‖ / ‖polar‖ of the first update for a 1536 × 512 gradient, lengths made equal."""
    gradient = torch.randn(1536, 512, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    if falling:
        gradient = left @ torch.diag(1 / torch.arange(1.0, 513.0)) @ right
    param = nn.Parameter(torch.zeros_like(gradient))
    param.grad = gradient
    make([param], **arguments).step()
    update, polar = -param.detach().double(), (left @ right).double()
    return float((update * (polar.norm() / update.norm()) - polar).norm() / polar.norm())


def against_pytorch_optimizer(options: argparse.Namespace, wanted: Callable[[str], bool]) -> None:
    """The same names of pytorch-optimizer, at 400 small tensors and at the large list."""
    try:
        import pytorch_optimizer as peers
    except ImportError:
        print("pytorch-optimizer is not installed; its column is left out")
        return
    names = {
        "lion": "Lion",
        "adabelief": "AdaBelief",
        "ademamix": "AdEMAMix",
        "lamb": "Lamb",
        "schedule_free_adamw": "ScheduleFreeAdamW",
        "laprop": "LaProp",
        "adan": "Adan",
        "adopt": "ADOPT",
        "soap": "SOAP",
    }
    for size in ("small", "large"):
        for name, theirs in names.items():
            if not wanted(name) or (name == "soap" and size == "small"):
                continue
            opt = rs.optimizer(name, parameters(LISTS[size]), nonfinite="propagate")
            peer = getattr(peers, theirs)(parameters(LISTS[size]))
            if name == "schedule_free_adamw":
                peer.train()
            repeats = 3 if name == "soap" else options.repeats
            goal = 0.6 if name == "soap" else 1.0
            line = f"{size}: {name}, against pytorch_optimizer.{theirs}"
            report(line, compare(opt.step, peer.step, repeats), goal)


if __name__ == "__main__":
    main()
