"""Handwritten digits and a multilayer perceptron: real images, seconds a run."""

from __future__ import annotations

from torch import nn

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.lab.digits import METRICS, Batch, digits_task
from rheostat.lab.workload import Workload


@register("workload", "digits_mlp")
def digits_mlp(hidden: Count = 64, batch: Batch = 64) -> Workload:
    """Scikit-learn's digits (1,797 images of 8×8, ten classes) and a two-layer perceptron.

    Every fifth image of each class, in the order of the file, is for testing (364 images),
    the others are for training (1,433); pixels are scaled to [0, 1]. The model is
    64 → hidden → hidden → 10 with ReLU (8,970 parameters as it is), under cross-entropy.
    Source: the test set of UCI "Optical recognition of handwritten digits" (Alpaydin & Kaynak
    1998), as scikit-learn ships it.
    hidden: units in each hidden layer.
    batch: images a batch; the last, smaller batch of an epoch is left out.
    """

    def net() -> nn.Module:
        return nn.Sequential(
            nn.Linear(64, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 10),
        )

    return Workload(METRICS, lambda: digits_task(net, (64,), batch))
