"""Scale rules at the start: how a plan that was tuned on one model carries over to another.

Pure functions of names, shapes, roles and counts. They return factors relative to what was tuned,
so no constant of a paper enters. Widths carry over by two routes that agree on the learning rate:
`spectral` takes each shape by itself, `mup` asks which of its sides grow with the width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rheostat.core.errors import InputError, nearest
from rheostat.core.roles import Role

Rule = Literal["sgd", "adam", "orthogonal"]
"""How a rule's update follows the gradient: in proportion; in signs, about 1 an element; or with
all singular values near 1 (Muon)."""
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Transfer:
    """What a parameter gets, as factors on what it has in the base model.

    Attributes:
        lr: on its learning rate.
        deviation: on the standard deviation of its initial values.
        multiplier: on the output of its layer.
    """

    lr: float
    deviation: float
    multiplier: float = 1.0


def fans(shape: tuple[int, ...], role: Role = "matrix") -> tuple[int, int]:
    """The numbers of outputs and of inputs of a parameter.

    A vector (bias, gain) has one input; an embedding maps one of so many inputs to a row, so its
    rows are what comes in; a convolution's inputs are channels times places.
    """
    if len(shape) < 2:
        return math.prod(shape), 1
    if role == "embedding":
        return shape[1], shape[0]
    return shape[0], math.prod(shape[1:])


def spectral(
    shapes: Shapes, base: Shapes, rule: Rule, roles: Mapping[str, Role] | None = None
) -> dict[str, Transfer]:
    """Factors that keep the spectral norms of weights and updates at √(outputs / inputs).

    lr ∝ outputs / inputs for SGD, 1 / inputs for Adam and signs, √(outputs / inputs) for
    orthogonalised updates; deviation ∝ 1/√inputs · min(1, √(outputs / inputs)). Yang, Simon &
    Bernstein 2023 (arXiv:2310.17813), Parametrization 1 and its section on Adam.

    Raises InputError where the two models differ in more than shapes.
    """

    def one(name: str, role: Role) -> Transfer:
        new, old = fans(shapes[name], role), fans(base[name], role)
        return Transfer(
            _spectral_lr(*new, rule) / _spectral_lr(*old, rule),
            _spectral_deviation(*new) / _spectral_deviation(*old),
        )

    return {name: one(name, role) for name, role in _both(shapes, base, roles)}


def _spectral_lr(outputs: int, inputs: int, rule: Rule) -> float:
    if rule == "adam":
        return 1 / inputs
    return outputs / inputs if rule == "sgd" else math.sqrt(outputs / inputs)


def _spectral_deviation(outputs: int, inputs: int) -> float:
    return min(1.0, math.sqrt(outputs / inputs)) / math.sqrt(inputs)


def mup(
    shapes: Shapes,
    base: Shapes,
    rule: Literal["sgd", "adam"],
    roles: Mapping[str, Role] | None = None,
    *,
    table: Literal[3, 8] = 8,
) -> dict[str, Transfer]:
    """μP: factors by which sides of a parameter are wider than in the base model.

    With o and i the ratios of its outputs and inputs to the base's, a parameter is an input weight
    or a vector where i = 1, an output weight where o = 1, hidden where both grow.

    | | input, vector | output | hidden |
    | --- | --- | --- | --- |
    | deviation | 1 | 1 | 1/√i |
    | multiplier | 1 | 1/i | 1 |
    | lr, SGD | o | i | 1 |
    | lr, Adam | 1 | 1 | 1/i |

    That is Table 8 of Yang, Hu et al. 2022 (arXiv:2203.03466), which lets a head share its weights
    with the embedding. Table 3 has no multiplier: an output weight has deviation 1/i and lr 1/i,
    for SGD and Adam.

    Raises InputError where the two models differ in more than shapes.
    """

    def one(name: str, role: Role) -> Transfer:
        (outputs, inputs), (o_base, i_base) = fans(shapes[name], role), fans(base[name], role)
        o, i = outputs / o_base, inputs / i_base
        if i == 1:
            return Transfer(o if rule == "sgd" else 1.0, 1.0)
        if o != 1:
            # Widths that grow by different ratios: what matters to SGD is their quotient.
            return Transfer(o / i if rule == "sgd" else 1 / i, 1 / math.sqrt(i))
        if table == 8:
            return Transfer(i if rule == "sgd" else 1.0, 1.0, 1 / i)
        return Transfer(1 / i, 1 / i)

    return {name: one(name, role) for name, role in _both(shapes, base, roles)}


def _both(shapes: Shapes, base: Shapes, roles: Mapping[str, Role] | None) -> list[tuple[str, Role]]:
    for name, shape in shapes.items():
        if name not in base:
            raise InputError(f"scaling: the base model has no {name}; {nearest(name, base)}")
        if len(base[name]) != len(shape) or 0 in (*shape, *base[name]):
            raise InputError(
                f"scaling: {name} has the shape {shape}, and {base[name]} in the base model; they "
                "should differ in width alone"
            )
    known = roles or {}
    return [(name, known.get(name, "matrix")) for name in shapes]


def decay_by_data(updates: float, base_updates: float, lr: float = 1.0) -> float:
    """The factor on weight decay that keeps its timescale at as many epochs.

    1 / (lr · decay · updates an epoch) is the timescale; so base_updates / (updates · lr), with
    `lr` the factor on the learning rate. Decoupled decay that is multiplied by lr. Wang & Aitchison
    2024 (arXiv:2405.13698).
    """
    return _positive(base_updates) / (_positive(updates) * _positive(lr))


def clip_by_size(parameters: int, base_parameters: int) -> float:
    """The factor on a clip of the global norm: √(parameters / base).

    Of gradients whose elements keep their size, and only then: under μP they do not, and the norm
    should be looked at.
    """
    return math.sqrt(_positive(parameters) / _positive(base_parameters))


def lr_by_batch(batch: float, base: float, rule: Rule, noise_scale: float | None = None) -> float:
    """The factor on the learning rate for another batch.

    Without a noise scale: batch / base for SGD (Goyal et al. 2017, arXiv:1706.02677), √(batch /
    base) for Adam and the rest (Malladi et al. 2022, arXiv:2205.10287). With it, for SGD what the
    quadratic model gives, (1 + noise_scale / base) / (1 + noise_scale / batch), which is linear far
    below the noise scale and levels off above it (McCandlish et al. 2018, arXiv:1812.06162,
    equation 2.5); for the rest its root, as they report for Adam.
    """
    ratio = _positive(batch) / _positive(base)
    if noise_scale is not None:
        ratio = (1 + noise_scale / base) / (1 + noise_scale / batch)
    return ratio if rule == "sgd" else math.sqrt(ratio)


def betas_by_batch(betas: tuple[float, float], batch: float, base: float) -> tuple[float, float]:
    """Adam's betas for another batch: 1 − β in proportion to it, at most 1, so that the averages
    are over as many samples. Malladi et al. 2022 (arXiv:2205.10287)."""
    ratio = _positive(batch) / _positive(base)
    first, second = (max(0.0, 1 - (1 - beta) * ratio) for beta in betas)
    return first, second


def _positive(count: float) -> float:
    if not 0 < count < math.inf:
        raise InputError(f"scaling: {count!r}: should be a positive number")
    return count
