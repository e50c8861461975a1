"""The shape of a task: what a study's runs train and how the outcome is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class Metric:
    """What is judged: which way is better, and the score of a run that failed.

    `best` is the end that no run can pass, None where there is none. A margin as wide as from
    `worst` to it is refused.
    """

    goal: Literal["maximize", "minimize"]
    worst: float
    unit: str = ""
    best: float | None = None


class Task(Protocol):
    """A workload with its data in memory. Everything random comes from the seed given."""

    data: str
    """Fingerprint of the data, by content."""

    def model(self, seed: int) -> nn.Module:
        """A model with the initial weights of this seed."""
        ...

    def batches(self, seed: int) -> Iterator[Any]:
        """Training batches without end, in the order of this seed."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The training loss of one batch (0-dim)."""
        ...

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        """Every declared metric, on data not trained on."""
        ...


class ShiftingTask(Task, Protocol):
    """A task whose world can change while it is learned.

    Its batches are tuples of tensors, one example a row of each; the inputs come first, the targets
    last.
    """

    held_out: tuple[Tensor, ...]
    """The examples that are not trained on, as one batch."""

    def evaluate(
        self, model: nn.Module, examples: tuple[Tensor, ...] | None = None
    ) -> dict[str, float]:
        """Every declared metric, on the held-out examples or on others in their place."""
        ...

    def shifted(self, examples: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The same examples as they look once the world has changed."""
        ...


@dataclass(frozen=True)
class Workload:
    """A task by declaration; `load` reads its data, once a process."""

    metrics: Mapping[str, Metric]
    load: Callable[[], Task]
