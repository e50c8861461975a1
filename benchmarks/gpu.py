"""What `benchmarks/step.py` asks, of a CUDA device: ratios in one run, and what must not happen.

    python benchmarks/gpu.py [--repeats N]

Every ratio is the median of pairs taken in turn and timed by events of the device, at 14.7 M
parameters in 41 tensors. Besides: kernels a step, whether a step ever waits for the device, and
whether a step can be captured in a CUDA graph. Without a device it says so and exits with 3.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import rheostat as rs

BLOCK = [(512,), (1536, 512), (1536,), (512, 512), (512,), (512,), (512,), (2048, 512), (2048,)]
SHAPES: list[tuple[int, ...]] = [(4096, 512), *([*BLOCK, (512, 2048)] * 4)]

WORDS = {"adamw": 7, "lion": 5, "ademamix": 9}
"""What a rule must read and write for each parameter: p and g read, p written, twice a buffer."""


def parameters(shapes: list[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    """Parameters with gradients on the device, the same every time."""
    generator = torch.Generator("cuda").manual_seed(0)

    def draw(shape: tuple[int, ...]) -> torch.Tensor:
        return 0.02 * torch.randn(shape, generator=generator, device="cuda")

    made = [nn.Parameter(draw(shape)) for shape in shapes]
    for param in made:
        param.grad = draw(tuple(param.shape))
    return made


def timed(act: Callable[[], Any]) -> float:
    """Milliseconds between two events around a call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    act()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def compare(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int
) -> tuple[float, float, float]:
    """Median milliseconds of both, and the median of the ratios pair by pair."""
    for _ in range(5):
        ours()
        theirs()
    torch.cuda.synchronize()
    pairs = [(timed(ours), timed(theirs)) for _ in range(repeats)]
    mine, other = zip(*pairs, strict=True)
    return (
        statistics.median(mine),
        statistics.median(other),
        statistics.median(a / b for a, b in pairs),
    )


def report(name: str, result: tuple[float, float, float], wanted: float) -> None:
    """One line of the table."""
    mine, other, ratio = result
    verdict = "ok" if ratio <= wanted else "MISSED"
    print(f"{name:<52} {mine:8.3f} {other:8.3f} {ratio:6.3f}  wanted ≤ {wanted:.2f}  {verdict}")


def adamw(*, norm: bool = False, clip: bool = False) -> Callable[[], None]:
    """torch's fused AdamW; with a `_foreach_norm`, or a clip of the global norm, before it."""
    params = parameters()
    peer = torch.optim.AdamW(params, fused=True)

    def step() -> None:
        if norm:
            torch._foreach_norm([p.grad for p in params])
        if clip:
            torch.nn.utils.clip_grad_norm_(params, 1.0)
        peer.step()

    return step


def clip_chain() -> rs.Transform:
    """Clip by the global norm, AdamW's rule and decay."""
    pieces = rs.transforms
    return rs.chain(
        pieces.clip_by_global_norm(1.0), pieces.scale_by_adam(), pieces.add_decayed_weights(0.01)
    )


def ratios(repeats: int) -> None:
    """The table of times: ours, theirs, and the ratio."""
    schedule = rs.schedules.cosine(1e-3, steps=10_000)
    plain = rs.optimizer("adamw", parameters(), nonfinite="propagate")
    report("adamw, propagate : torch fused", compare(plain.step, adamw(), repeats), 1.05)
    looking = rs.optimizer("adamw", parameters())
    report(
        "adamw, skip : torch fused + _foreach_norm",
        compare(looking.step, adamw(norm=True), repeats),
        1.05,
    )
    chained = rs.optimizer(clip_chain(), parameters(), lr=schedule)
    report(
        "clip + adamw + decay + schedule : clip_grad_norm_ + fused",
        compare(chained.step, adamw(clip=True), repeats),
        1.0,
    )
    for name in ("lion", "ademamix"):
        opt = rs.optimizer(name, parameters(), nonfinite="propagate")
        mine, other, ratio = compare(opt.step, adamw(), repeats)
        share = WORDS[name] / WORDS["adamw"]
        report(
            f"{name} : its bytes at fused AdamW's rate", (mine, other * share, ratio / share), 1.5
        )
    matrices = [shape for shape in SHAPES if len(shape) == 2]
    ours = rs.optimizer("muon", [(f"m{i}", p) for i, p in enumerate(parameters(matrices))])
    theirs = torch.optim.Muon(parameters(matrices))
    report("muon : torch.optim.Muon", compare(ours.step, theirs.step, max(5, repeats // 4)), 0.5)


def kernels(name: str, rule: Any, **arguments: Any) -> None:
    """How many kernels and copies a step launches."""
    opt = rs.optimizer(rule, parameters(), **arguments)
    for _ in range(3):
        opt.step()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        opt.step()
        torch.cuda.synchronize()
    on_device = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    print(f"kernels a step, {name:<36} {len(on_device)}")


def waits(name: str, rule: Any, **arguments: Any) -> bool:
    """Whether a step waits for the device."""
    opt = rs.optimizer(rule, parameters(), **arguments)
    for _ in range(3):
        opt.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        opt.step()
    except RuntimeError as error:
        print(f"a step of {name} WAITS: {str(error).splitlines()[0]}")
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def captured() -> bool:
    """Whether a fused step with a schedule can be captured, and goes on in replays."""
    opt = rs.optimizer("adamw", parameters(), lr=rs.schedules.cosine(1e-3, steps=100))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            opt.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    for _ in range(10):
        graph.replay()
    opt.refresh()
    return opt.param_groups[0]["updates"] == 13


def main() -> int:
    """Run all of it; 3 where there is no device."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=60)
    repeats: int = parser.parse_args().repeats
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here", file=sys.stderr)
        return 3
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; milliseconds ours, theirs")
    ratios(repeats)
    for name, rule in (("adamw", "adamw"), ("clip + adamw", clip_chain()), ("lion", "lion")):
        arguments = {} if isinstance(rule, str) else {"lr": 1e-3}
        kernels(name, rule, **arguments)
    rules = {name: name for name in ("adamw", "lion", "ademamix", "prodigy", "lamb", "muon")}
    found = [waits(name, rule) for name, rule in rules.items()]
    found.append(waits("clip + adamw", clip_chain(), lr=rs.schedules.cosine(1e-3, steps=100)))
    print(f"steps that wait for the device: {sum(found)} of {len(found)}")
    print(f"graph capture: {'ok' if captured() else 'MISSED'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
