"""`optimizer(rule, target, …)`: an optimizer from a name, a chain or a policy, for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError, nearest
from rheostat.core.naming import named_parameters
from rheostat.core.registry import component
from rheostat.core.schedule import Origin, Schedule
from rheostat.core.transform import Transform, transform_in
from rheostat.optimizers.closing import scaled
from rheostat.optimizers.guard import NonFinite
from rheostat.optimizers.kernels import Mode
from rheostat.optimizers.loop import Optimizer
from rheostat.optimizers.policy import Policy


@runtime_checkable
class Foreign(Protocol):
    """What another library's component makes: its own optimizer, once there are parameters."""

    def on(self, target: nn.Module | Iterable[Any]) -> torch.optim.Optimizer:
        """That library's optimizer on a module or on parameters."""
        ...


_TORCHS = ("foreach", "fused", "capturable", "differentiable")


def optimizer(
    rule: str | Transform | Policy,
    target: nn.Module | Iterable[Any],
    *,
    nonfinite: NonFinite = "skip",
    accumulate: int = 1,
    precision: Literal["plain", "master", "stochastic"] = "plain",
    mode: Mode = "auto",
    maximize: bool = False,
    seed: int = 0,
    **hyperparameters: Any,
) -> Optimizer:
    """An optimizer that runs `rule` on `target`.

    Args:
        rule: a registered name (`"adamw"`, `"adamw@1"`), a Transform made by `chain`, or a Policy.
            Another library's (`"torch/AdamW"`) gives that library's optimizer, in its own loop.
        target: a module (its parameters are then known by name), or what torch.optim takes.
        nonfinite, accumulate, precision, mode: how the loop treats every rule; see `Optimizer`.
        maximize: go up the gradient.
        seed: of the noise that a rule draws.
        **hyperparameters: of the named rule; for a Transform only `lr`. Any number may be a
            Schedule instead.

    Raises:
        InputError: an unknown rule or hyperparameter (with the nearest real name), a value out of
            range, a target without parameters, a parameter that a policy leaves out.
    """
    if isinstance(rule, str):
        _refuse_torchs(rule, hyperparameters)
        made: Transform | Policy | Foreign = component(rule, "optimizer").factory(**hyperparameters)
        lr = None
        if isinstance(made, Foreign):
            options = (nonfinite, accumulate, precision, mode, maximize, seed)
            if options != ("skip", 1, "plain", "auto", False, 0):
                raise InputError(
                    f"{rule} runs in its library's own loop, which has no nonfinite, accumulate, "
                    "precision, mode, maximize or seed of ours; leave them out"
                )
            return cast("Optimizer", made.on(target))
    else:
        made, lr = rule, hyperparameters.get("lr")
        _refuse_numbers(rule, hyperparameters)
    if not isinstance(made, Policy):
        transform_in(made, rule if isinstance(rule, str) else "optimizer")
    if isinstance(target, Mapping):
        raise InputError(
            "optimizer: should be for a module or parameters, not a mapping; give the model, or "
            "model.named_parameters()"
        )
    if not isinstance(target, nn.Module | Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"optimizer: should be for a module or parameters, not {target!r}")
    return Optimizer(
        _groups(made, target, lr),
        nonfinite=nonfinite,
        accumulate=accumulate,
        precision=precision,
        mode=mode,
        maximize=maximize,
        seed=seed,
    )


def _refuse_torchs(rule: str, given: Iterable[str]) -> None:
    """Refuse what torch's optimizers are told of how they run."""
    found = sorted({*_TORCHS} & {*given})
    if found and "/" not in rule:  # not one of torch's own
        raise InputError(
            f"{rule}: {found[0]!r} is torch's; leave it out: mode='auto' chooses the "
            "kernels, and mode='fused', 'compiled' or 'eager' says which"
        )


def _refuse_numbers(rule: Transform | Policy, given: Iterable[str]) -> None:
    """Refuse hyperparameters beside a rule that has its own; a transform takes an lr."""
    for name in given:
        if isinstance(rule, Policy):
            raise InputError(
                f"{rule.name} is a policy, whose rules have the hyperparameters; give {name!r} to "
                "the rules in its lines"
            )
        if name != "lr":
            raise InputError(
                f"{transform_in(rule, 'optimizer').name} takes its hyperparameters in its pieces, "
                f"not {name!r} here; {nearest(name, ['lr'])}"
            )


def _groups(
    rule: Transform | Policy,
    target: nn.Module | Iterable[Any],
    lr: float | Schedule | Tensor | None,
) -> list[dict[str, Any]]:
    if isinstance(rule, Policy):
        listed = target if isinstance(target, nn.Module) else list(target)
        line = Origin("line", {"policy": rule})  # what the groups are lines of
        return [
            {**group, "rule": replace(scaled(group["rule"], None), origin=line)}
            for group in rule.assign(listed)
        ]
    whole = scaled(rule, lr)
    params: list[Any] = (
        named_parameters(target)
        if isinstance(target, nn.Module)
        else [target]
        if isinstance(target, Tensor)
        else list(target)
    )
    if params and isinstance(params[0], dict):
        # What is no group among groups is refused by the optimizer, which counts them.
        return [
            _with_rule(index, cast("dict[str, Any]", group), whole)
            if isinstance(group, dict)
            else group
            for index, group in enumerate(params)
        ]
    return [{"params": params, "rule": whole}]


def _with_rule(index: int, group: dict[str, Any], rule: Transform) -> dict[str, Any]:
    """The param group with this rule. Raises InputError where it has one of its own."""
    if group.get("rule") is not None:
        raise InputError(
            f"param group {index}: has a 'rule', but {rule.name} is to run on all groups; for "
            "several rules give a policy and the model: policy(match(rule, name='…'), match(rest))"
        )
    return {**group, "rule": rule}
