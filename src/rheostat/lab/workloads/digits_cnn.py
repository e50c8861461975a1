"""Handwritten digits and a convolutional network."""

from __future__ import annotations

from torch import nn

from rheostat.core.hyper import Count
from rheostat.core.registry import register
from rheostat.lab.digits import METRICS, Batch, digits_task
from rheostat.lab.workload import Workload


@register("workload", "digits_cnn")
def digits_cnn(channels: Count = 16, batch: Batch = 64) -> Workload:
    """Scikit-learn's digits (1,797 images of 8×8, ten classes) and a convolutional network.

    The split is that of digits_mlp: 1,433 images for training, every fifth of each class (364) for
    testing; pixels are scaled to [0, 1]. Two 3×3 convolutions with ReLU, c and 2c channels, a 2×2
    maximum after each, then one linear layer to ten scores (6,090 parameters as it is), under
    cross-entropy.
    Source: the test set of UCI "Optical recognition of handwritten digits" (Alpaydin & Kaynak
    1998), as scikit-learn ships it.
    channels: of the first convolution, c; the second has twice as many.
    batch: images a batch; the last, smaller batch of an epoch is left out.
    """

    def net() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * channels * 4, 10),
        )

    return Workload(METRICS, lambda: digits_task(net, (1, 8, 8), batch))
