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
from rheostat.core.naming import named_parameters
from rheostat.core.preview import Preview
from rheostat.core.registry import component
from rheostat.core.roles import roles
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Buffer, Transform
from rheostat.optimizers.items import Options
from rheostat.recipes.build import Served, is_foreign, lines_of
from rheostat.recipes.document import spelt
from rheostat.recipes.explain_regime import Watching, watching
from rheostat.recipes.parts import Parts, Piece, Rule
from rheostat.recipes.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """One parameter: its role, the line of the recipe that serves it, and what that costs.

    `state` and `rank_state` are bytes, in all and on the rank that has most of it, None where the
    optimizer is another library's, which does not say; `moved` the bytes read and written in a
    step, at least; `flops` those of a step, None where not known.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    dtype: str
    line: int
    state: int | None
    rank_state: int | None
    moved: int
    flops: float | None


@dataclass(frozen=True)
class Line:
    """One line of the recipe: its rule, the primitive pieces of that, what the recipe says of them
    (`pieces`: each component with its arguments), and the numbers that matter."""

    rule: str
    chain: tuple[str, ...]
    pieces: tuple[str, ...]
    lr: str
    lr_factor: float
    decay: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """All of it: a row a parameter, the lines that serve them, the schedules, the warnings, and
    what watches over the run."""

    title: str
    ranks: int
    rows: tuple[Row, ...]
    lines: tuple[Line, ...]
    previews: tuple[Preview, ...]
    warnings: tuple[str, ...]
    watching: Watching | None = None


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
    known = roles(model)
    rows: list[Row] = []
    for name, param in named_parameters(model):
        role = known[name]
        index = next(i for i, line in enumerate(lines) if line.match.claims(name, param, role))
        rows.append(_row(name, param, role, index, lines[index], recipe.parts, ranks))
    used = sorted({row.line for row in rows})
    return Explanation(
        title=f"{recipe.document.name}, hash {recipe.hash[:12]}",
        ranks=ranks,
        rows=tuple(rows),
        lines=tuple(_line(line, recipe.parts) for line in lines),
        previews=tuple(_previews(recipe, [lines[index] for index in used])),
        warnings=tuple(problem.line for problem in warnings),
        watching=_watching(recipe.parts, lines, rows, model),
    )


def _watching(
    parts: Parts, lines: Sequence[Served], rows: Sequence[Row], model: nn.Module
) -> Watching | None:
    states = [row.state for row in rows if row.state is not None]
    weights = sum(_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))
    copy = weights + sum(states) if len(states) == len(rows) else None
    written = [_written(piece) for piece in (parts.regime.controllers if parts.regime else ())]
    return watching(parts, lines, written, copy)


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
    name: str, param: Tensor, role: str, index: int, line: Served, parts: Parts, ranks: int
) -> Row:
    rule, settings = line.match.rule, parts.settings
    shape = tuple(param.shape)
    like = torch.empty(shape, dtype=param.dtype, device="meta")
    state = rank_state = None
    if not is_foreign(parts):
        options = Options(settings["nonfinite"], settings["accumulate"], settings["precision"])
        buffers = {**rule.buffers, **options.buffers(param)}.values()
        state = sum(_bytes(buffer.make(like)) for buffer in buffers)
        rank_state = sum(_rank_bytes(buffer, like, ranks) for buffer in buffers)
    # The gradient once, the weight twice, and its state twice.
    moved = 3 * _bytes(like) + 2 * (state or 0)
    dtype = str(param.dtype).removeprefix("torch.")
    flops = _flops(rule, line.rule, shape)
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


def _line(line: Served, parts: Parts) -> Line:
    match, rule = line.match, line.rule
    transform = match.rule
    numbers = transform.hyperparameters
    decays = {n: v for n, v in numbers.items() if n.rpartition(".")[2] == "weight_decay"}
    pieces = (*parts.before, *rule.before, *rule.pieces)
    return Line(
        rule=rule.optimizer.ref if rule.optimizer else "chain",
        chain=tuple(piece.name for piece in transform.pieces),
        pieces=tuple(map(_written, pieces)),
        lr=_shown(numbers.get("lr")),
        lr_factor=float(match.overrides.get("lr_factor", 1.0)),
        decay=", ".join(_shown(value) for value in decays.values()) or "none",
        source="; ".join(dict.fromkeys(filter(None, (_source(p.ref) for p in pieces)))),
    )


def _written(piece: Piece) -> str:
    """A component with its arguments: `trace@1 (momentum 0.9, …)`."""
    said = [f"{name} {_argument(value)}" for name, value in piece.values.items()]
    name = f"{piece.ref} named {piece.named}" if piece.named else piece.ref
    return f"{name} ({', '.join(said)})" if said else name


def _argument(value: Any) -> str:
    """An argument as the recipe has it; a schedule by its name, for its curve is shown."""
    if isinstance(value, list):
        return f"[{', '.join(map(_argument, cast('list[Any]', value)))}]"
    for kind in ("schedule", "transform"):
        if isinstance(value, dict) and kind in value:
            return str(cast("dict[str, Any]", value)[kind])
    return spelt(cast("object", value))


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


def _previews(recipe: Recipe, lines: Iterable[Served]) -> Iterator[Preview]:
    """The curve of every scheduled hyperparameter, those that are alike once."""
    seen: set[str] = set()
    for line in lines:
        alone = line.rule.optimizer
        for name, value in line.match.rule.hyperparameters.items():
            parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
            for index, part in enumerate(parts):
                if not isinstance(part, Schedule):
                    continue
                own = _argument_of(name, line.match.rule, alone.ref if alone else "")
                label = own if not isinstance(value, tuple) else f"{own}[{index}]"
                title = f"{label} of {alone.ref if alone else 'the chain'}"
                key = f"{title} {part.written()}"
                if key in seen:
                    continue
                seen.add(key)
                usual = component(alone.ref).card.usual(own) if alone else ()
                length = recipe.parts.end(part.unit) or part.horizon or 1
                bounds = usual[index] if index < len(usual) else None
                yield part.preview(length, usual=bounds, title=title)


def _argument_of(name: str, rule: Transform, ref: str) -> str:
    """Which argument of a component a hyperparameter is of: its own, or that of the AdamW that it
    leaves the other parameters to."""
    beside = f"adamw_{name}"
    left = any(piece.name == "scale_by_adam" for piece in rule.pieces)
    return beside if left and ref and beside in component(ref).parameters else name
