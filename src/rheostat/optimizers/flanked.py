"""A rule of which some pieces need a parameter in its shape, on the CPU: what stands before and
after these works element by element, and runs as compiled functions of addresses (`native`).

Muon's momentum and its step, say, around its products: each is one pass through the memory, and
nothing is allocated but what the products make.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheostat.core.transform import Buffer, Hyper, State, Transform, UndeclaredError
from rheostat.optimizers.native import (
    compiles,
    finish,
    launch,
    lie_plain,
    program,
    takes_address,
)
from rheostat.optimizers.pieces import checked
from rheostat.optimizers.structure import structure
from rheostat.optimizers.tracing import Traced, graph_of, through

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item

_HANDED = "update handed over"


class FlankedKernel:
    """Runs the first and the last pieces of a rule compiled, those between them one by one."""

    finishes = True

    def __init__(self, rule: Transform) -> None:
        found = _flanks(rule)
        assert found is not None
        self._before, self._middle, self._after = found

    @staticmethod
    def can_run(rule: Transform) -> bool:
        """Whether its last pieces work element by element, and none asks for more than its own
        parameter and its gradient there."""
        return _flanks(rule) is not None

    def __deepcopy__(self, memo: dict[int, object]) -> FlankedKernel:
        """Itself: it holds no tensor."""
        return self

    def suits(self, param: Tensor, state: Mapping[str, Tensor]) -> bool:
        """Real float32 and float64 parameters on the CPU, whose buffers have their dtype; none
        where the compiler fails."""
        flanks = [flank for flank in (self._before, self._after) if flank is not None]
        wide = [state[name] for flank in flanks for name in flank.names]
        return lie_plain([(one, param.dtype) for one in (param, *wide)]) and all(
            flank.serves(param.dtype) and compiles(flank.text) for flank in flanks
        )

    def takes(self, item: Item) -> bool:
        """Dense gradients, and neither they nor the parameter with holes."""
        return takes_address(item)

    def run(self, items: Sequence[Item]) -> None:
        """Move the items' parameters and write their buffers."""
        # One piece of memory for all that is handed over: it stays in the cache.
        longest = max(item.param.numel() for item in items)
        scratch: dict[torch.dtype, Tensor] = {}
        vectors: dict[tuple[Any, ...], tuple[Tensor | None, Tensor]] = {}
        for item in items:
            key = (id(item.numbers), item.same, item.param.dtype)
            if key not in vectors:
                first = self._before and self._before.vector(item)
                vectors[key] = first, self._after.vector(item)
            before, after = vectors[key]
            hyper = item.hyper  # which holds the gradient
            update, state, param = item.update, item.seen, item.param
            if self._before is not None and before is not None:
                if param.dtype not in scratch:
                    scratch[param.dtype] = torch.empty(longest, dtype=param.dtype)
                handed = scratch[param.dtype][: param.numel()].view(param.shape)
                self._before.run(before, item, update, handed)
                update = handed
            for piece in self._middle:
                update = checked(piece, item, piece.update(update, state, param, hyper))
            self._after.run(after, item, update.to(param.dtype).contiguous())
            finish([item])


class _Flank:
    """Some pieces as a program: from an update to another one, or to the moved parameter."""

    def __init__(self, names: tuple[str, ...], graph: Traced, text: str) -> None:
        self.names = names
        self.text = text
        self._graph = graph

    def vector(self, item: Item) -> Tensor:
        """The numbers of the program, for all items of one group and count."""
        known = {**item.numbers, "step": item.step}
        return self._graph.numbers(known, {}, item.param.dtype)

    def serves(self, dtype: torch.dtype) -> bool:
        """Whether it is written for parameters of this dtype."""
        return self._graph.serves(dtype)

    def run(self, vector: Tensor, item: Item, *given: Tensor) -> None:
        """Run it on an item's update, and on where to hand the next one."""
        update, *handed = given
        wide = [item.state[name] for name in self.names]
        launch(self.text, vector, [[one] for one in (item.param, update, *wide, *handed)])


_Flanks = tuple[_Flank | None, tuple[Transform, ...], _Flank]
_cache: dict[tuple[Any, ...], _Flank | None] = {}


def _flanks(rule: Transform) -> _Flanks | None:
    """What runs before, between and after; None where the rule has nothing to compile after."""
    pieces = rule.pieces
    shaped = [i for i, piece in enumerate(pieces) if piece.scope in ("matrix", "tensor")]
    if not shaped or any(p.measure or p.probe or p.search or p.after for p in pieces):
        return None
    begin, end = shaped[0], shaped[-1] + 1
    after = _flank(rule, pieces[end:], _move)
    before = _flank(rule, pieces[:begin], _hand_over)
    return after and (before, pieces[begin if before else 0 : end], after)


def _move(
    pieces: Sequence[Transform], update: Tensor, state: State, param: Tensor, hyper: Hyper
) -> None:
    del hyper.gradient  # what a piece is given here is not the gradient any more
    param.sub_(through(pieces, update, state, param, hyper))


def _hand_over(
    pieces: Sequence[Transform], update: Tensor, state: State, param: Tensor, hyper: Hyper
) -> None:
    state[_HANDED].copy_(through(pieces, update, state, param, hyper))


def _flank(
    rule: Transform, pieces: Sequence[Transform], verb: Callable[..., None]
) -> _Flank | None:
    """The program of some of a rule's pieces; None where there are none, or none can be written."""
    made_of = structure(rule, pieces)
    if not pieces or made_of is None:
        return None
    key = (verb, made_of)
    if key not in _cache:
        _cache[key] = _written(rule, tuple(pieces), verb)
    return _cache[key]


def _written(
    rule: Transform, pieces: tuple[Transform, ...], verb: Callable[..., None]
) -> _Flank | None:
    own = {name: buffer for piece in pieces for name, buffer in piece.buffers.items()}
    if any(not buffer.like_parameter or buffer.dtype for buffer in own.values()):
        return None
    handed = {_HANDED: Buffer()} if verb is _hand_over else {}
    alone = replace(rule, buffers={**own, **handed}, parts=pieces)
    try:
        graph = graph_of(alone, functools.partial(verb, pieces), ())
    except UndeclaredError:  # a piece asks for the gradient
        return None
    text = graph and program(alone, graph)
    return _Flank(tuple(own), graph, text) if graph and text else None
