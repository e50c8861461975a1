"""Policies: which rule serves which parameter. Ordered, total, exclusive; nothing in silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, SupportsIndex

from torch import Tensor, nn

from rheostat.core.errors import InputError, nearest
from rheostat.core.naming import named_parameters
from rheostat.core.roles import ROLES, roles
from rheostat.core.schedule import Origin
from rheostat.core.transform import Transform, chain, transform_in
from rheostat.optimizers.state import with_names


@dataclass(frozen=True)
class Match:
    """One line of a policy: the parameters it claims, and their rule.

    A parameter matches where its role is among `role`, its name fits one of the shell patterns in
    `name`, and its number of dimensions is at least `min_dim`; what is not given claims all.
    An `optional` line may claim nothing.
    `overrides` are hyperparameters of the group, such as ``{"weight_decay": 0.0}``.
    """

    rule: Transform
    role: tuple[str, ...] = ()
    name: tuple[str, ...] = ()
    min_dim: int = 0
    optional: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Raises InputError for what is no transform, no text or no number of dimensions."""
        transform_in(self.rule, "match")
        for key, given in (("role", self.role), ("name", self.name)):
            if not all(isinstance(one, str) for one in given):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InputError(f"match: {key}={given!r}: should be text, or several in a list")
        if not isinstance(self.min_dim, SupportsIndex):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InputError(
                f"match: min_dim={self.min_dim!r}: should be a whole number, such as 2"
            )

    def claims(self, name: str, param: Tensor, role: str) -> bool:
        """Whether this line is for the parameter."""
        return (
            (not self.role or role in self.role)
            and (not self.name or any(fnmatchcase(name, pattern) for pattern in self.name))
            and param.ndim >= self.min_dim
        )

    @property
    def description(self) -> str:
        """The line in words, for errors."""
        wanted = {"role": self.role, "name": self.name, "min_dim": self.min_dim}
        said = ", ".join(f"{key}={value!r}" for key, value in wanted.items() if value)
        return f"{self.rule.name} for {said or 'the rest'}"


@dataclass(frozen=True)
class Policy:
    """Several rules in one optimizer: for each parameter, the first line that claims it."""

    lines: tuple[Match, ...]
    name: str = "policy"
    origin: Origin | None = field(default=None, compare=False)

    @property
    def no_transform(self) -> str:
        """What it is where a transform belongs, and what would be one; see `transform_in`."""
        return (
            f"the policy {self.name}, which serves all parameters by itself; give that to "
            "optimizer(), or here the rule of one of its lines, such as .lines[0].rule, its "
            f"{self.lines[0].description}"
        )

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Policy:
        """This policy, marked with the component that made it."""
        del numbers  # its rules have hyperparameters, not the policy
        return replace(self, name=component.partition("@")[0], origin=Origin(component, arguments))

    def after(self, *transforms: Transform) -> Policy:
        """The policy with these transforms before the rule of every line.

        They are the same objects in every line, so what they measure (a global norm) is summed
        over all parameters together.
        """
        return replace(
            self,
            lines=tuple(replace(line, rule=chain(*transforms, line.rule)) for line in self.lines),
            origin=Origin("after", {"policy": self, "transforms": transforms}),
        )

    def assign(self, model: nn.Module | Sequence[Any]) -> list[dict[str, Any]]:
        """Parameter groups, one a line, each with its rule under "rule".

        Without a module there are no roles but what the shape says: matrix, vector or scalar. Warns
        where that may mistake an embedding or a head for a hidden matrix.

        Raises:
            InputError: a parameter that no line claims, a line that claims none (both by name), a
                role that does not exist.
        """
        for line in self.lines:
            for role in line.role:
                if role not in ROLES:
                    raise InputError(f"policy: unknown role {role!r}; {nearest(role, ROLES)}")
        groups: list[dict[str, Any]] = [
            {"params": [], **line.overrides, "rule": line.rule} for line in self.lines
        ]
        for name, param, role in _described(model):
            index = next(
                (i for i, line in enumerate(self.lines) if line.claims(name, param, role)), None
            )
            if index is None:
                raise InputError(
                    f"policy: no line claims {name} (role {role}, shape {tuple(param.shape)}); end "
                    "with a line that claims the rest"
                )
            groups[index]["params"].append((name, param))
        for line, group in zip(self.lines, groups, strict=True):
            if not group["params"] and not line.optional:
                raise InputError(
                    f"policy: the line {line.description} claims no parameter; remove it, or mark "
                    "it optional=True"
                )
        used = [group for group in groups if group["params"]]
        if len(used) > 1 and not isinstance(model, nn.Module):
            self._warn_of_roles(used)
        return used

    def _warn_of_roles(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Say so where a line for hidden matrices may have an embedding or a head: among parameters
        of all kinds, without the modules that hold them."""
        by_role = [line.rule for line in self.lines if "matrix" in line.role]
        served = [pair for g in groups if g["rule"] in by_role for pair in g["params"]]
        if len(served) > 1:
            warnings.warn(
                f"{self.name}: without the model an embedding or a head is like any other matrix: "
                f"{len(served)} are taken for hidden ones; give the model, not its parameters",
                stacklevel=5,  # in the program that makes the optimizer
            )


def match(
    rule: Transform,
    *,
    role: str | Sequence[str] = (),
    name: str | Sequence[str] = (),
    min_dim: int = 0,
    optional: bool = False,
    **overrides: Any,
) -> Match:
    """A line of a policy; see `Match`. Other keyword arguments are the group's hyperparameters.

    Raises InputError for a rule that is no transform, a role or a name that is no text, a min_dim
    that is no whole number.
    """
    return Match(
        rule,
        _several("role", role),
        _several("name", name),
        min_dim,
        optional,
        overrides,
    )


def _several(key: str, given: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(given, str):
        return (given,)
    if not isinstance(given, Iterable):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"match: {key}={given!r}: should be text, or several in a list")
    return tuple(given)


def policy(*lines: Match) -> Policy:
    """Rules for different parameters in one optimizer: ordered, first match wins, total.

    Raises InputError where there is no line, or something else.
    """
    for line in lines:
        if not isinstance(line, Match):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(line).__name__
            raise InputError(f"policy: should be lines, match(rule, role='matrix'), not a {kind}")
    if not lines:
        raise InputError("policy() needs at least one line: policy(match(rule, role='matrix'), …)")
    return Policy(tuple(lines))


def _described(model: nn.Module | Sequence[Any]) -> list[tuple[str, Tensor, str]]:
    if isinstance(model, nn.Module):
        known = roles(model)
        return [(name, param, known[name]) for name, param in named_parameters(model)]
    if any(isinstance(item, dict) for item in model):
        raise InputError("policy: give a module or parameters; the policy makes the groups")
    described: list[tuple[str, Tensor, str]] = []
    for name, param in with_names(model, ()):
        kind = "matrix" if param.ndim >= 2 else "vector" if param.ndim == 1 else "scalar"
        described.append((name, param, kind))
    return described
