"""The time of a step, as ratios in one run: ours against torch, pytorch-optimizer and heavyball.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--threads N] [--repeats N] [--only PATTERN]

PATTERN matches a rule, or a part: clip, sums (rules against their bytes), torch, eager, muon, peers
(pytorch-optimizer), heavyball, build, memory; or a rule of a part, as in "sums:lion".

Every ratio is the median of several pairs, taken in turn, so that a machine whose speed drifts
does not decide. Run it on an idle machine. Three lists of tensors: "large" (14.7 M parameters in
41), "double" (29.4 M in 81) and "small" (1 M in 400).
"""

from __future__ import annotations

import argparse
import ctypes
import fnmatch
import importlib
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import rheostat as rs
from rheostat.optimizers.flanked import FlankedKernel
from rheostat.optimizers.kernels import make_kernels
from rheostat.optimizers.traits import state_bytes

BLOCK = [(512,), (1536, 512), (1536,), (512, 512), (512,), (512,), (512,), (2048, 512), (2048,)]
LISTS: dict[str, list[tuple[int, ...]]] = {
    "large": [(4096, 512), *([*BLOCK, (512, 2048)] * 4)],
    "double": [(8192, 512), *([*BLOCK, (512, 2048)] * 8)],
    "small": [(50, 50)] * 400,
}

_NAMES = "SGD Adam AdamW Adagrad NAdam RAdam Adamax Adadelta RMSprop Rprop ASGD Adafactor"
TORCH: dict[str, Any] = {name.lower(): getattr(torch.optim, name) for name in _NAMES.split()}
FUSED = ("sgd", "adam", "adamw", "adagrad")
"""Rules of torch's that have a fused kernel; the others run as `foreach`."""

PYTORCH_OPTIMIZER = {
    "lion": "Lion",
    "adabelief": "AdaBelief",
    "ademamix": "AdEMAMix",
    "lamb": "Lamb",
    "schedule_free_adamw": "ScheduleFreeAdamW",
    "laprop": "LaProp",
    "adan": "Adan",
    "adopt": "ADOPT",
    "adafactor": "AdaFactor",
    "adam_mini": "AdamMini",
    "soap": "SOAP",
    "shampoo": "ScalableShampoo",
}
PERIOD = 10
"""Steps from one refreshment of SOAP's bases, or of Shampoo's roots, to the next."""
SAME_PERIOD: dict[str, dict[str, int]] = {
    "pytorch_optimizer.SOAP": {},
    "pytorch_optimizer.ScalableShampoo": {
        "preconditioning_compute_steps": PERIOD,
        "start_preconditioning_step": 1,
    },
    "heavyball.SOAP": {"precondition_frequency": PERIOD, "use_precond_schedule": False},
}
"""What others have to be told for that."""
HEAVYBALL = {
    "adamw": "AdamW",
    "adopt": "ADOPT",
    "ademamix": "AdEMAMix",
    "laprop": "LaProp",
    "schedule_free_adamw": "SFAdamW",
    "muon": "Muon",
    "soap": "SOAP",
}


def first_order() -> dict[str, float]:
    """The rules without products of matrices, and the words of float32 that each must read and
    write for a parameter's element: p and g read, p written, and each buffer of its shape twice."""
    found: dict[str, float] = {}
    for component in rs.components("optimizer"):
        made = component.factory() if component.module.startswith("rheostat.") else None
        if isinstance(made, rs.Transform) and made.scope != "tensor":
            like = [buffer.dtype for buffer in made.buffers.values() if buffer.like_parameter]
            found[component.name] = 3 + sum(
                2 * (dtype or torch.float32).itemsize / 4 for dtype in like
            )
    found["sophia"] -= 1  # its Hessian is only read
    return found


def parameters(shapes: list[tuple[int, ...]]) -> list[nn.Parameter]:
    """Parameters with gradients, the same every time."""
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(0.02 * torch.randn(shape, generator=generator)) for shape in shapes]
    for param in made:
        param.grad = 0.01 * torch.randn(param.shape, generator=generator)
    return made


def compare(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, period: int = 1
) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of the ratios pair by pair. With a `period` the
    times are means over so many steps, in which whatever is done once in a period is done once."""
    for _ in range(3 if period == 1 else 1):
        ours()
        theirs()
    mine, other = [], []
    for _ in range(repeats):
        for act, times in ((ours, mine), (theirs, other)):
            start = time.perf_counter()
            for _ in range(period):
                act()
            times.append(1e3 * (time.perf_counter() - start) / period)
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
    print(f"{name:<64} {mine:9.2f} {other:9.2f} {ratio:7.3f}{goal}", flush=True)


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

    def wanted(part: str, name: str) -> bool:
        return any(fnmatch.fnmatch(x, options.only) for x in (part, name, f"{part}:{name}"))

    print(
        f"torch {torch.__version__}, {options.threads} thread(s), "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    print(f"{'':<64} {'ours ms':>9} {'peer ms':>9} {'ratio':>7}")
    for size in LISTS:
        yardsticks(size, n, wanted)
    for size in ("large", "double"):
        for name, words in first_order().items():
            if wanted("sums", name):
                against_bytes(size, name, words, n)
    against_torch(n, wanted)
    if wanted("muon", "muon"):
        muon()
    against_others("peers", "pytorch_optimizer", PYTORCH_OPTIMIZER, n, wanted)
    against_others("heavyball", "heavyball", HEAVYBALL, n, wanted)
    if wanted("build", "build"):
        builds()
    memory(wanted)


def against_torch(n: int, wanted: Callable[[str, str], bool]) -> None:
    """torch's own rules at 400 small tensors, as they run with a compiler and without one."""
    for name, peer in TORCH.items():
        if wanted("torch", name):
            theirs = peer(parameters(LISTS["small"]), **_best(name))
            opt = rs.optimizer(name, parameters(LISTS["small"]), nonfinite="propagate")
            line = f"small: {name} ({_mode(opt)}), against torch {next(iter(_best(name)))}"
            report(line, compare(opt.step, theirs.step, n), 1.0)
    for name, peer in TORCH.items():
        if wanted("eager", name):
            # What torch has no fused kernel for runs eagerly where there is no compiler.
            mode: Any = "fused" if name in FUSED else "eager"
            opt = rs.optimizer(name, parameters(LISTS["small"]), mode=mode, nonfinite="propagate")
            theirs = peer(parameters(LISTS["small"]), foreach=True)
            line = f"small: {name} ({mode}: no compiler), against torch foreach"
            report(line, compare(opt.step, theirs.step, n), 1.5)


def _best(name: str) -> dict[str, bool]:
    return {"fused": True} if name in FUSED else {"foreach": True}


def _mode(opt: Any) -> str:
    return opt.param_groups[0]["mode"]


def yardsticks(size: str, n: int, wanted: Callable[[str, str], bool]) -> None:
    """AdamW, the chain that equals it, and the usual chain with a clip."""
    shapes = LISTS[size]
    if wanted("adamw", "adamw"):
        for label, rule in (("adamw", "adamw"), ("the chain that equals it", our_chain())):
            for nonfinite, norm in (("propagate", False), ("skip", True)):
                opt = rs.optimizer(rule, parameters(shapes), nonfinite=nonfinite)
                peer = fused_adamw(parameters(shapes), norm)
                against = "torch fused" + (" + norm" if norm else "")
                name = f"{size}: {label}, {nonfinite}, against {against}"
                report(name, compare(opt.step, peer, n), 1.05)
    if wanted("clip", "clip"):
        lr = rs.schedules.cosine(1e-3, steps=100_000, warmup=100)
        chained = rs.chain(rs.transforms.clip_by_global_norm(1.0), our_chain())
        opt = rs.optimizer(chained, parameters(shapes), lr=lr)
        peer = clipped_adamw(parameters(shapes))
        name = f"{size}: clip + adamw + decay + schedule, against clip_grad_norm_ + fused"
        report(name, compare(opt.step, peer, n), 1.0)


def against_bytes(size: str, name: str, words: float, n: int) -> None:
    """A rule against the time of its bytes, at the rate of torch's fused AdamW: 7 words."""
    shapes = LISTS[size]
    opt = rs.optimizer(name, parameters(shapes), nonfinite="propagate")
    mine, fused, ratio = compare(opt.step, fused_adamw(parameters(shapes)), n)
    line = f"{size}: {name} ({_mode(opt)}), against {words:g}/7 of torch fused AdamW"
    report(line, (mine, fused * words / 7, ratio * 7 / words), 1.5)


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


def against_others(
    part: str, library: str, names: dict[str, str], n: int, wanted: Callable[[str, str], bool]
) -> None:
    """The same names of another library, at 400 small tensors and at the large list."""
    listed = [name for name in names if wanted(part, name)]
    if not listed:
        return
    try:
        peers = importlib.import_module(library)
    except ImportError:
        print(f"{library} is not installed; its lines are left out")
        return
    for size, shapes in (("small", LISTS["small"]), ("large", LISTS["large"])):
        for name in listed:
            heavy = name in ("soap", "muon", "shampoo")
            if heavy and size == "small":
                continue
            named = [(f"m{i}", p) for i, p in enumerate(parameters(shapes))]
            opt = rs.optimizer(name, named, nonfinite="propagate")
            # Of Adam-mini pytorch-optimizer makes groups by the names in a model.
            whole = library == "pytorch_optimizer" and name == "adam_mini"
            theirs = parameters(shapes)
            called = f"{library}.{names[name]}"
            told = SAME_PERIOD.get(called)
            made = nn.ParameterList(theirs) if whole else theirs
            peer = getattr(peers, names[name])(made, **(told or {}))
            if library == "pytorch_optimizer" and name == "schedule_free_adamw":
                peer.train()
            step = peer.step
            if library == "heavyball":
                step = _with_gradients(peer)

            goal = 0.6 if name == "soap" else 1.0
            repeats, period = (3 if heavy else n), (1 if told is None else PERIOD)
            found = compare(opt.step, step, repeats, period)
            report(f"{size}: {name}, against {called}", found, goal)


def _with_gradients(peer: Any) -> Callable[[], None]:
    """A step of heavyball's, which takes the gradients away."""
    params = [param for group in peer.param_groups for param in group["params"]]
    kept = [param.grad for param in params]

    def step() -> None:
        for param, gradient in zip(params, kept, strict=True):
            param.grad = gradient
        peer.step()

    return step


CHILD = """
import sys, time
sys.path.insert(0, {folder!r})
import torch, step, rheostat as rs
torch.set_num_threads(1)
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])  # loads what every optimizer of torch loads
for name in {names!r}:
    params = step.parameters(step.LISTS[{size!r}])
    start = time.perf_counter()
    opt = rs.optimizer(name, params, mode="compiled", nonfinite="propagate")
    opt.step()
    print(time.perf_counter() - start)
"""


def builds() -> None:
    """Seconds from a rule's name to the end of its first step, in processes of their own: with an
    empty cache, the first kernel and a further one; and both again with a warm cache."""
    names = ["lion", "lamb", "prodigy"]
    with tempfile.TemporaryDirectory() as cache:
        for label, size, goals in (
            ("empty cache", "small", (20, 6, 6)),
            ("warm cache", "small", (4, 4, 4)),
            ("warm cache", "large", (4, 4, 4)),
        ):
            code = CHILD.format(folder=str(Path(__file__).parent), names=names, size=size)
            told = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "XDG_CACHE_HOME": cache},
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            for name, seconds, goal in zip(names, map(float, told), goals, strict=True):
                verdict = "ok" if seconds <= goal else "MISSED"
                print(
                    f"build: {name}, {size}, {label}: {seconds:.2f} s  wanted ≤ {goal}  {verdict}"
                )


def memory(wanted: Callable[[str, str], bool]) -> None:
    """What a step takes beside what is there, and whether the state is what the rule declares."""
    shapes = LISTS["large"]
    largest = max(4 * math.prod(shape) for shape in shapes) / 2**20
    for component in rs.components("optimizer"):
        name = component.name
        if not component.module.startswith("rheostat.") or not wanted("memory", name):
            continue
        if name in ("lbfgs", "sparse_adam"):  # take a closure, or sparse gradients
            continue
        made = component.factory()
        opt = rs.optimizer(made, [(f"m{i}", param) for i, param in enumerate(parameters(shapes))])
        opt.step()
        extra = _extra(opt.step)
        held = sum(
            tensor.numel() * tensor.element_size()
            for state in opt.state.values()
            for key, tensor in state.items()
            if key != "step"
        )
        declared = sum(state_bytes(made, shape) for shape in shapes)
        goal = f"wanted ≤ {largest:.0f} {'ok' if extra <= largest else 'MISSED'}"
        if _eager(opt):
            goal = "eager in part: none wanted"
        same = "ok" if held == declared else "MISSED"
        line = f"memory: {name} ({_mode(opt)}): {extra:.1f} MiB extra, {goal}"
        print(f"{line}; state {held} bytes, declared {declared} {same}", flush=True)


def _eager(opt: Any) -> bool:
    """Whether its pieces run eagerly; of rules by matrices those are that multiply matrices."""
    kernels = make_kernels(opt.rule(0), _mode(opt))
    return _mode(opt) == "eager" or isinstance(kernels[0], FlankedKernel)


def _extra(step: Callable[[], Any]) -> float:
    """MiB that a step holds at most beside what was there, as the system counts."""

    def peak() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

    ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held
    before = peak()
    step()
    return (peak() - before) / 1024


if __name__ == "__main__":
    main()
