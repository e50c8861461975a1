"""Gradients of several steps, averaged for one update."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers.items import Held, Options, check_kind
from rheostat.optimizers.results import ACCUMULATING


def check_average(rule: Transform, options: Options) -> None:
    """Refuse an average for a rule that takes the gradient elsewhere. Raises InputError."""
    piece = next((piece for piece in rule.pieces if piece.probe or piece.search), None)
    if piece is not None and options.averaged > 1:
        raise InputError(
            f"accumulate: {piece.name} would take the gradient elsewhere for the last of "
            f"{options.averaged} batches alone; leave it out, and let the closure run over all"
        )


def accumulate(
    groups: Sequence[dict[str, Any]],
    rules: Sequence[Transform],
    held: Sequence[Held],
    gradients: Sequence[Tensor],
    options: Options,
) -> str | None:
    """Take the gradients into the averages; says so until these are complete.

    Raises InputError for a sparse gradient, before anything is taken.
    """
    for one, gradient in zip(held, gradients, strict=True):
        if gradient.is_sparse:
            check_kind(one, gradient, rules[one.group], options)
    count, phase = options.averaged, int(groups[0]["phase"]) + 1
    received = [dict.fromkeys(group["received"]) for group in groups]
    for one, gradient in zip(held, gradients, strict=True):
        one.state["accumulated"].add_(gradient, alpha=1 / count)
        received[one.group][one.name] = None
    for group, names in zip(groups, received, strict=True):
        group["phase"], group["received"] = phase % count, tuple(names)
    return f"{ACCUMULATING}, {phase} of {count}" if phase < count else None


def complete(
    groups: Sequence[dict[str, Any]], every: Sequence[Held]
) -> tuple[list[Held], list[Tensor]]:
    """The parameters that received a gradient since the last update, and the averages of these;
    the next average begins."""
    received = [{*group["received"]} for group in groups]
    held = [one for one in every if one.name in received[one.group]]
    for group in groups:
        group["received"] = ()
    return held, [one.state["accumulated"] for one in held]


def empty(held: Sequence[Held]) -> None:
    """Forget what was accumulated."""
    for one in held:
        one.state["accumulated"].zero_()
