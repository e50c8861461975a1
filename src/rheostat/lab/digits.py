"""Scikit-learn's handwritten digits, split once and for all; two workloads train on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, cast

import annotated_types as at
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rheostat.core.errors import MachineError
from rheostat.lab.tensor_task import Rows, TensorTask, Trial
from rheostat.lab.workload import Metric

TRAINING = 1433
"""How many images there are to train on."""
Batch = Annotated[int, at.Ge(1), at.Le(TRAINING)]

METRICS = {
    "test_accuracy": Metric("maximize", worst=0.0, unit="fraction", best=1.0),
    "test_loss": Metric("minimize", worst=float(np.log(10)), unit="nats", best=0.0),
}


def digits_task(net: Callable[[], nn.Module], shape: tuple[int, ...], batch: int) -> TensorTask:
    """The digits for a model that takes images of this shape (64 numbers each) and gives ten
    scores.

    Every fifth image of each class, in the order of the file, is held out (364 images), the others
    are for training (1,433); pixels are scaled to [0, 1]. Once the world has changed, images are
    negatives. Raises MachineError without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MachineError('the digits need scikit-learn: pip install "rheostat[study]"') from None
    pixels, labels = cast("tuple[np.ndarray, np.ndarray]", load_digits(return_X_y=True))
    images = (pixels / 16.0).astype(np.float32).reshape(-1, *shape)
    labels = labels.astype(np.int64)
    out = _every_fifth(labels)
    train = (torch.from_numpy(images[~out]), torch.from_numpy(labels[~out]))
    held_out = (torch.from_numpy(images[out]), torch.from_numpy(labels[out]))
    trial = Trial(net, functional.cross_entropy, _measure, _negatives)
    return TensorTask(train, held_out, trial, batch)


def _every_fifth(labels: np.ndarray) -> np.ndarray:
    """A mask of the held-out images; no random numbers, so no library version can move it."""
    mask = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[::5]] = True
    return mask


def _measure(scores: Tensor, labels: Tensor) -> dict[str, float]:
    hits = (scores.argmax(1) == labels).sum().item()
    return {
        "test_accuracy": hits / len(labels),
        "test_loss": functional.cross_entropy(scores, labels).item(),
    }


def _negatives(examples: Rows) -> Rows:
    images, labels = examples
    return 1 - images, labels
