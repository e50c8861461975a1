"""A task whose examples are rows of tensors: what most workloads are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from rheostat.lab.workload import ShiftingTask
from rheostat.signals.fingerprint import fingerprint

Rows: TypeAlias = tuple[Tensor, ...]
"""Examples: inputs and targets, one example a row of both."""


@dataclass(frozen=True)
class Trial:
    """What a workload says of itself.

    net: makes a model, its initial weights drawn from torch's generator.
    loss: outputs and targets -> the training loss (0-dim).
    measure: outputs and targets of held-out examples -> every declared metric.
    shift: examples -> the same as they look once the world has changed.
    """

    net: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    measure: Callable[[Tensor, Tensor], dict[str, float]]
    shift: Callable[[Rows], Rows]


class TensorTask(ShiftingTask):
    """Shuffled batches of `train`, epoch after epoch; the last, smaller batch is left out."""

    def __init__(self, train: Rows, held_out: Rows, trial: Trial, batch: int) -> None:
        self.data = fingerprint([*train, *held_out])
        self.held_out = held_out
        self._train = train
        self._trial = trial
        self._batch = batch

    def model(self, seed: int) -> nn.Module:
        """A model with the initial weights of this seed."""
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            torch.manual_seed(seed)
            return self._trial.net()

    def batches(self, seed: int) -> Iterator[Rows]:
        """Training batches without end, in the order of this seed."""
        inputs, targets = self._train
        # Not the seed of the weights itself: the two streams of numbers must differ.
        generator = torch.Generator().manual_seed(seed + 1_000_003)
        while True:
            order = torch.randperm(len(targets), generator=generator)
            for start in range(0, len(order) - self._batch + 1, self._batch):
                index = order[start : start + self._batch]
                yield inputs[index], targets[index]

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        """The training loss of one batch (0-dim)."""
        inputs, targets = batch
        return self._trial.loss(model(inputs), targets)

    def evaluate(self, model: nn.Module, examples: Rows | None = None) -> dict[str, float]:
        """Every declared metric, on the held-out examples or on others in their place."""
        inputs, targets = self.held_out if examples is None else examples
        with torch.no_grad():
            return self._trial.measure(model(inputs), targets)

    def shifted(self, examples: Rows) -> Rows:
        """The same examples as they look once the world has changed."""
        return self._trial.shift(examples)
