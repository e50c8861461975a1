"""Handwritten digits and a multilayer perceptron: real images, seconds a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, cast

import annotated_types as at
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rheostat.core.errors import MachineError
from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.lab.workload import Metric, Task, Workload
from rheostat.signals.fingerprint import fingerprint

TRAINING = 1433
"""How many images there are to train on."""
Batch = Annotated[int, at.Ge(1), at.Le(TRAINING)]


@register("workload", "digits_mlp")
def digits_mlp(hidden: Count = 64, batch: Batch = 64) -> Workload:
    """Scikit-learn's digits (1,797 images of 8×8, ten classes) and a two-layer perceptron.

    Every fifth image of each class, in the order of the file, is for testing (364 images),
    the others are for training (1,433); pixels are scaled to [0, 1]. The model is
    64 → hidden → hidden → 10 with ReLU, under cross-entropy.
    Source: the test set of UCI "Optical recognition of handwritten digits" (Alpaydin & Kaynak
    1998), as scikit-learn ships it.
    hidden: units in each hidden layer.
    batch: images a batch; the last, smaller batch of an epoch is left out.
    """
    metrics = {
        "test_accuracy": Metric("maximize", worst=0.0, unit="fraction", best=1.0),
        "test_loss": Metric("minimize", worst=float(np.log(10)), unit="nats", best=0.0),
    }
    return Workload(metrics, lambda: _DigitsMLP(hidden, batch))


class _DigitsMLP(Task):
    def __init__(self, hidden: int, batch: int) -> None:
        images, labels = _digits()
        test = _every_fifth(labels)
        self._train = (torch.from_numpy(images[~test]), torch.from_numpy(labels[~test]))
        self._test = (torch.from_numpy(images[test]), torch.from_numpy(labels[test]))
        self._hidden = hidden
        self._batch = batch
        self.data = fingerprint([*self._train, *self._test])

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):  # pyright: ignore[reportUnknownMemberType]
            torch.manual_seed(seed)
            return nn.Sequential(
                nn.Linear(64, self._hidden),
                nn.ReLU(),
                nn.Linear(self._hidden, self._hidden),
                nn.ReLU(),
                nn.Linear(self._hidden, 10),
            )

    def batches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self._train
        # Not the seed of the weights itself: the two streams of numbers must differ.
        generator = torch.Generator().manual_seed(seed + 1_000_003)
        while True:
            order = torch.randperm(len(labels), generator=generator)
            for start in range(0, len(order) - self._batch + 1, self._batch):
                index = order[start : start + self._batch]
                yield images[index], labels[index]

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        return functional.cross_entropy(model(images), labels)

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        images, labels = self._test
        with torch.no_grad():
            scores = model(images)
            hits = (scores.argmax(1) == labels).sum().item()
            return {
                "test_accuracy": hits / len(labels),
                "test_loss": functional.cross_entropy(scores, labels).item(),
            }


def _digits() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MachineError(
            'the workload digits_mlp needs scikit-learn: pip install "rheostat[study]"'
        ) from None
    pixels, labels = cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))
    return (pixels / 16.0).astype(np.float32), labels.astype(np.int64)


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    """A mask of the test images; no random numbers, so that no library version can move it."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[::5]] = True
    return mask
