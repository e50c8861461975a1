"""What a recipe does to a model, before anything runs: who gets which rule, and what it costs.

Only shapes and dtypes are looked at, so that a model on the meta device does as well.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from rheostat.core.errors import InputError
from rheostat.core.preview import Preview
from rheostat.core.registry import component
from rheostat.core.roles import roles
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Buffer, Transform
from rheostat.optimizers.items import Options
from rheostat.optimizers.policy import Match
from rheostat.recipes.build import lines_of
from rheostat.recipes.parts import Rule
from rheostat.recipes.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """One parameter: its role, the line of the recipe that serves it, and what that costs.

    `state` and `rank_state` are bytes, in all and on the rank that has most of it; `moved` the
    bytes read and written in a step, at least; `flops` those of a step, None where not known.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    line: int
    state: int
    rank_state: int
    moved: int
    flops: float | None


@dataclass(frozen=True)
class Served:
    """One line of the recipe: its rule, piece by piece, and the numbers that matter."""

    rule: str
    chain: tuple[str, ...]
    lr: str
    lr_factor: float
    decay: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """All of it: a row a parameter, the lines that serve them, the schedules, the warnings."""

    title: str
    ranks: int
    rows: tuple[Row, ...]
    lines: tuple[Served, ...]
    previews: tuple[Preview, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Rows that differ only in the numbers of their names (layers) and are shown as one."""

    name: str
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        """The first of them."""
        return self.rows[0]


def explain(recipe: Recipe, model: nn.Module, *, ranks: int = 1) -> Explanation:
    """The explanation of a recipe on a model.

    Args:
        recipe: bound to its horizon.
        model: what is trained; nothing of it is written, and nothing allocated.
        ranks: over how many processes parameters and state are sharded along the first dimension.

    Raises:
        InputError: what does not fit the model; a schedule without a horizon; ranks below 1.
    """
    if ranks < 1:
        raise InputError(f"explain: ranks={ranks}: should be at least 1")
    warnings = (*recipe.warnings, *recipe.check(model))
    lines = lines_of(recipe.parts)
    settings = recipe.parts.settings
    options = Options(settings["nonfinite"], settings["accumulate"], settings["precision"])
    known = roles(model)
    rows: list[Row] = []
    for name, param in model.named_parameters():
        role = known[name]
        index = next(i for i, (match, _) in enumerate(lines) if match.claims(name, param, role))
        rows.append(_row(name, param, role, index, lines[index], options, ranks))
    used = sorted({row.line for row in rows})
    return Explanation(
        title=f"{recipe.document.name}, hash {recipe.hash[:12]}",
        ranks=ranks,
        rows=tuple(rows),
        lines=tuple(_served(match, rule) for match, rule in lines),
        previews=tuple(_previews(recipe, [lines[index] for index in used])),
        warnings=tuple(problem.line for problem in warnings),
    )


def grouped(rows: Iterable[Row]) -> list[Group]:
    """The rows with what repeats layer after layer gathered."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        pattern = re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", row.name)
        found.setdefault((pattern, row.role, row.shape, row.dtype, row.line), []).append(row)
    return [
        Group(key[0] if len(rows) > 1 else rows[0].name, tuple(rows)) for key, rows in found.items()
    ]


def _row(
    name: str,
    param: Tensor,
    role: str,
    index: int,
    line: tuple[Match, Rule],
    options: Options,
    ranks: int,
) -> Row:
    rule = line[0].rule
    shape = tuple(param.shape)
    like = torch.empty(shape, dtype=param.dtype, device="meta")
    buffers = {**rule.buffers, **options.buffers(param)}.values()
    state = sum(_bytes(buffer.make(like)) for buffer in buffers)
    rank_state = sum(_rank_bytes(buffer, like, ranks) for buffer in buffers)
    # The gradient once, the weight twice, and its state twice.
    moved = 3 * _bytes(like) + 2 * state
    dtype = str(param.dtype).removeprefix("torch.")
    flops = _flops(rule, line[1], shape)
    return Row(name, role, shape, dtype, index, state, rank_state, moved, flops)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _rank_bytes(buffer: Buffer, param: Tensor, ranks: int) -> int:
    """Of a buffer that is shaped like the parameter, and so sharded like it; others are whole."""
    made = buffer.make(param)
    if not buffer.like_parameter or not made.ndim:
        return _bytes(made)
    rows = math.ceil(made.shape[0] / ranks)
    return rows * math.prod(made.shape[1:]) * made.element_size()


def _flops(rule: Transform, origin: Rule, shape: Sequence[int]) -> float | None:
    """What the cards say: so many an element, or those of making a matrix orthogonal."""
    names = {piece.name for piece in rule.pieces}
    rows = shape[0] if shape else 1
    count = math.prod(shape)
    if "orthogonalize" in names:
        short, long = sorted((rows, count // max(rows, 1)))
        return 20.0 * short**2 * long + 10.0 * short**3
    alone = origin.optimizer
    ref = "adamw" if "scale_by_adam" in names else alone.ref if alone else None
    if ref is None:
        return None
    said = component(ref, "optimizer").card.notes.get("Flops", "")
    found = re.match(r"(?:about )?(\d+) an element", said)
    return None if found is None else float(found[1]) * count


def _served(match: Match, rule: Rule) -> Served:
    transform = match.rule
    numbers = transform.hyperparameters
    decays = {n: v for n, v in numbers.items() if n.rpartition(".")[2] == "weight_decay"}
    sources = [_source(piece.ref) for piece in rule.pieces]
    return Served(
        rule=rule.optimizer.ref if rule.optimizer else "chain",
        chain=tuple(piece.name for piece in transform.pieces),
        lr=_shown(numbers.get("lr")),
        lr_factor=float(match.overrides.get("lr_factor", 1.0)),
        decay=", ".join(_shown(value) for value in decays.values()) or "none",
        source="; ".join(dict.fromkeys(filter(None, sources))),
    )


def _source(ref: str) -> str:
    """The paper on a card."""
    return component(ref).card.notes.get("Source", "")


def _shown(value: Any) -> str:
    if isinstance(value, Schedule):
        if value.origin is None:
            return "a schedule"
        name, given = value.origin.component.partition("@")[0], value.origin.arguments
        return f"{given['factor']:g} × {_shown(given['of'])}" if name == "scale" else name
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, cast('tuple[Any, ...]', value)))})"
    return "none" if value is None else f"{value:g}"


def _previews(recipe: Recipe, lines: Iterable[tuple[Match, Rule]]) -> Iterator[Preview]:
    """The curve of every scheduled hyperparameter, those that are alike once."""
    seen: set[str] = set()
    for match, rule in lines:
        for name, value in match.rule.hyperparameters.items():
            parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
            for index, part in enumerate(parts):
                if not isinstance(part, Schedule):
                    continue
                alone = rule.optimizer
                own = _argument(name, match.rule, alone.ref if alone else "")
                label = own if not isinstance(value, tuple) else f"{own}[{index}]"
                title = f"{label} of {alone.ref if alone else 'the chain'}"
                key = f"{title} {part.written()}"
                if key in seen:
                    continue
                seen.add(key)
                usual = component(alone.ref).card.usual(own) if alone else ()
                counted = recipe.steps if part.unit == "updates" else None
                length = counted or part.horizon or 1
                bounds = usual[index] if index < len(usual) else None
                yield part.preview(length, usual=bounds, title=title)


def _argument(name: str, rule: Transform, ref: str) -> str:
    """Which argument of a component a hyperparameter is of: its own, or that of the AdamW that it
    leaves the other parameters to."""
    beside = f"adamw_{name}"
    left = any(piece.name == "scale_by_adam" for piece in rule.pieces)
    return beside if left and ref and beside in component(ref).parameters else name
