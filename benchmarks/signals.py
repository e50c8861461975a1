"""What signals cost: training steps with a monitor and without, in turn, in one run.

    OMP_NUM_THREADS=1 python benchmarks/signals.py [--threads N] [--rounds N] [--only NAME] [--each]

Two models are trained with torch's AdamW: an MLP of 25,194 parameters (64-256-32-10, batch 64),
and a transformer of 1.8 M (4 layers of 192, sequences of 64, batch 8). In each round both ways
train some steps, in turn; given is the median over rounds of the difference, for each step and
relative to the step. With one thread it is processor time, which a busy machine disturbs less.
"one norm" is one `_foreach_norm` of the gradients in a monitor's place; `--each` times the calls of
every signal by itself, in the same steps, in units of that norm.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import gc
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rheostat.core.registry import component, components
from rheostat.signals.monitor import Monitor

EIGHT = (
    *("loss_fast", "loss_slow", "loss_slope", "skip_rate"),
    *("gradient_norm", "gradient_spike", "update_ratio", "momentum_cosine"),
)
"""What a run would watch by default."""
MORE = (
    *EIGHT,
    *("loss_significance", "gradient_variance"),
    *("curvature", "second_moment_mean", "second_moment_spread", "weight_norm", "update_norm"),
    *("gradient_cosine", "gradient_sparsity", "page_hinkley", "step_time"),
)
Task = tuple[nn.Module, Callable[[nn.Module], Tensor]]
"""A model, and its loss on one batch."""


def mlp() -> Task:
    """The small one."""
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    x, y = torch.randn(64, 64), torch.randint(10, (64,))
    return model, lambda model: nn.functional.cross_entropy(model(x), y)


class Transformer(nn.Module):
    """A character model: embedding, encoder layers, head."""

    def __init__(self, width: int = 192, layers: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 96)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token."""
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        return self.head(self.layers(self.embedding(tokens), mask=mask, is_causal=True))


def transformer() -> Task:
    """The larger one."""
    tokens = torch.randint(96, (8, 65))

    def loss(model: nn.Module) -> Tensor:
        logits = model(tokens[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    return Transformer(), loss


class Norm:
    """One norm of all gradients, in the place of a monitor: the least that watching can cost."""

    def __init__(self, model: nn.Module) -> None:
        self._params = list(model.parameters())

    def before_step(self) -> None:
        """Take it."""
        torch._foreach_norm([param.grad for param in self._params])

    def after_step(self, loss: Tensor) -> None:
        """Nothing."""


def compare(
    make: Callable[[], Task], names: tuple[str, ...], every: int, given: argparse.Namespace
) -> tuple[float, float, float]:
    """Seconds of a step, what watching adds to it, and that relative to it."""
    clock = time.process_time if given.threads == 1 else time.perf_counter
    steps = 96 if make is mlp else 16
    torch.manual_seed(0)
    model, loss_of = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    signals = [component(name, "signal").factory(every=every) for name in names]
    monitor = Monitor(signals, model, optimizer) if signals else Norm(model)

    def train(watched: bool) -> float:
        started = clock()
        for _ in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model)
            loss.backward()
            if watched:
                monitor.before_step()
            optimizer.step()
            if watched:
                monitor.after_step(loss)
        return (clock() - started) / steps

    for watched in (True, False):
        train(watched)
    pairs: list[tuple[float, float]] = []
    gc.disable()
    for turn in range(given.rounds):
        # Alternately first, so that what comes second is neither.
        order = (False, True) if turn % 2 else (True, False)
        found = {watched: train(watched) for watched in order}
        pairs.append((found[False], found[True]))
    gc.enable()
    plain = statistics.median(a for a, _ in pairs)
    added = statistics.median(b - a for a, b in pairs)
    return plain, added, statistics.median(b / a - 1 for a, b in pairs)


def rows(make: Callable[[], Task]) -> list[tuple[str, tuple[str, ...], int, str]]:
    """What is measured on one model: in words, the signals, how often, and what is wanted."""
    small = make is mlp
    return [
        ("one norm every step", (), 1, ""),
        ("eight signals every step", EIGHT, 1, "wanted ≤ 60 µs" if small else "wanted ≤ 5 %"),
        ("eight signals every 16", EIGHT, 16, "wanted ≤ 2 %" if small else "wanted ≤ 1 %"),
        ("nineteen every step", MORE, 1, ""),
        ("nineteen every 16", MORE, 16, ""),
    ]


def each() -> list[str]:
    """Every signal that needs no report of the loop."""
    ours = (one for one in components("signal") if one.ours)
    return [one.name for one in ours if not one.factory().reported]


def inside(make: Callable[[], Task], names: Sequence[str]) -> list[float]:
    """Seconds that one norm takes, and the calls of a monitor of each signal by itself: medians
    over the same steps, in which all are called one after another."""
    torch.manual_seed(0)
    model, loss_of = make()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    alone: list[Monitor | Norm] = [Norm(model)]
    for name in names:
        signal = component(name, "signal").factory(every=1)
        alone.append(Monitor([*signal.needs, signal], model, optimizer))
    taken: list[list[float]] = [[] for _ in alone]
    for _ in range(300 if make is mlp else 30):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        before = [_timed(one.before_step) for one in alone]
        optimizer.step()
        after = [_timed(functools.partial(one.after_step, loss)) for one in alone]
        for times, a, b in zip(taken, before, after, strict=True):
            times.append(a + b)
    return [statistics.median(times) for times in taken]


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="*", help="rows whose name fits this shell pattern")
    parser.add_argument("--each", action="store_true", help="each signal by itself")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"torch {torch.__version__}, {given.threads} thread(s), {given.rounds} rounds")
    for make in (mlp, transformer):
        if given.each:
            norm, *found = inside(make, each())
            print(
                f"{make.__name__}, one norm: {1e6 * norm:.1f} µs; each signal by itself, in norms"
            )
            for name, seconds in zip(each(), found, strict=True):
                print(f"  {name:<24} {seconds / norm:6.2f}", flush=True)
            continue
        for about, names, every, wanted in rows(make):
            row = f"{make.__name__}, {about}"
            if fnmatch.fnmatch(row, given.only):
                plain, added, share = compare(make, names, every, given)
                print(
                    f"{row:<36} step {1e3 * plain:8.3f} ms  adds {1e6 * added:8.1f} µs"
                    f"  {100 * share:6.2f} %  {wanted}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
