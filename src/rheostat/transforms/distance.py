"""What D-Adaptation and Prodigy share: both estimate the distance to the solution.

Such a rule keeps the estimate d as a number of the whole optimizer. A step is taken with the
estimate that stood before it (`d_before`), while its own gradients already raise `d`.
"""

from __future__ import annotations

from typing import Annotated, Any

import annotated_types as at
import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Hyper
from rheostat.transforms.numbers import chosen

Growth = Annotated[float, at.Ge(1)]
"""The largest factor by which an estimate may grow in one step."""


def estimate(d0: Any, rule: str) -> dict[str, float]:
    """The scalars `d` and `d_before` at the start.

    Raises InputError for a schedule or a tensor: where the estimate starts is one number.
    """
    if not isinstance(d0, float):
        raise InputError(f"{rule}: d0={d0!r}: should be a plain number, where the estimate starts")
    return {"d": d0, "d_before": d0}


def relative_step(hyper: Hyper, d: Any, bias_correction: bool) -> Any:
    """d · lr, times Adam's correction of both moments at this parameter's step where it is on."""
    if not bias_correction:
        return d * hyper.lr
    b1, b2 = hyper.betas
    return d * hyper.lr * (1 - b2**hyper.step) ** 0.5 / (1 - b1**hyper.step)


def ratio(numerator: Any, denominator: Any, otherwise: Any) -> Any:
    """numerator / denominator; `otherwise` where the denominator is 0."""
    none = denominator == 0
    return chosen(none, otherwise, numerator / (denominator + none))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """⟨a, b⟩ in float64: these sums run over every weight of the model."""
    return (a * b).sum(dtype=torch.float64)


def l1(a: Tensor) -> Tensor:
    """‖a‖₁ in float64."""
    return a.abs().sum(dtype=torch.float64)
