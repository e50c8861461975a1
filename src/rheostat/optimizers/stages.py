"""One update of many parameters, piece by piece: the eager way to run any rule.

Pieces run parameter by parameter, so that one parameter's intermediate tensors are all that is
held; only a piece that measures waits until every parameter has come as far as it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Evaluate, Transform
from rheostat.optimizers.items import Item


def run(items: Sequence[Item], evaluate: Evaluate | None) -> None:
    """Run every item's rule to its end and move its parameter.

    `evaluate` gives the closure's loss and gradients at displaced parameters; None where the step
    has no closure. Raises InputError where a rule needs one and there is none.
    """
    _elsewhere(items, evaluate)
    in_order = sorted(items, key=lambda item: item.name)
    _advance_all(items)
    while waiting := [item for item in in_order if item.next_piece is not None]:
        # Pieces that several rules share (what a policy's chain begins with) are one object, so
        # they are measured over all the parameters of those rules together.
        piece = waiting[0].next_piece
        assert piece is not None
        measured = [item for item in waiting if item.next_piece is piece]
        _measure(piece, measured)
        _advance_all(measured)


def _advance_all(items: Sequence[Item]) -> None:
    """Run items as far as they go: those whose whole rule a kernel can run, all at once."""
    left: list[Item] = []
    ready: dict[int, list[Item]] = {}
    for item in items:
        waits = not item.ready and item.rule.pieces[0].measure is not None
        if item.kernel is None or item.position > 0 or waits or not item.kernel.takes(item):
            left.append(item)
        else:
            ready.setdefault(id(item.kernel), []).append(item)
    for batch in ready.values():
        kernel = batch[0].kernel
        assert kernel is not None
        kernel.run(batch)
        pieces = batch[0].rule.pieces
        acts = any(piece.after is not None for piece in pieces)
        for item in batch:
            item.position = len(pieces)
            if acts:
                _afterwards(item)
    for item in left:
        _advance(item)


def _advance(item: Item) -> None:
    """Run the item's pieces up to the next one that must measure first, or move the parameter."""
    while (piece := item.next_piece) is not None:
        if piece.measure is not None and not item.ready:
            return
        item.update = piece.update(item.update, item.state, item.param, item.hyper)
        item.position += 1
        item.ready = False
    move(item.param, item.update)
    _afterwards(item)


def _afterwards(item: Item) -> None:
    for piece in item.rule.pieces:
        if piece.after is not None:
            result = piece.after(item.param, item.state, item.hyper)
            if result is not item.param:
                item.param.copy_(result)


def move(param: Tensor, update: Tensor) -> None:
    """``param ← param − update``; a sparse update touches its own rows alone."""
    if update.is_sparse:
        param.add_(update, alpha=-1)
    else:
        param.sub_(update)


def _measure(piece: Transform, items: Sequence[Item]) -> None:
    """Sum the measurements in the order of the parameters' names, and settle the scalars."""
    assert piece.measure is not None
    sums: dict[str, Tensor] = {}
    for item in items:
        for key, value in piece.measure(item.update, item.state, item.param, item.hyper).items():
            sums[key] = sums[key] + value if key in sums else value
    scalars: Mapping[str, float] = piece.settle(sums, items[0].hyper) if piece.settle else {}
    for item in items:
        item.hyper.measured = sums
        item.ready = True
        store(item, scalars)


def store(item: Item, scalars: Mapping[str, float]) -> None:
    """Give new values of the rule's scalars to the pieces that follow, and to the group."""
    for name, value in scalars.items():
        setattr(item.hyper, name, value)
        item.group[name] = value


def _elsewhere(items: Sequence[Item], evaluate: Evaluate | None) -> None:
    """Let the first pieces that need the gradient at other points have it."""
    for piece in _distinct(
        items, lambda piece: piece.search is not None or piece.probe is not None
    ):
        concerned = [item for item in items if any(p is piece for p in item.rule.pieces)]
        if evaluate is None:
            raise InputError(
                f"{piece.name} evaluates the loss several times a step: call step(closure)"
            )
        if piece.search is not None:
            # The parameters of other rules stand still during the search; their turn is after.
            others = [item for item in items if item not in concerned]
            _search(piece, concerned, _around(evaluate, items, concerned, others))
        else:
            _probe(piece, concerned, items, evaluate)


def _around(
    evaluate: Evaluate, items: Sequence[Item], concerned: Sequence[Item], others: Sequence[Item]
) -> Evaluate:
    if not others:
        return evaluate
    index = {id(item): i for i, item in enumerate(items)}

    def inner(moves: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        padded = [torch.zeros_like(item.param) for item in items]
        for item, displacement in zip(concerned, moves, strict=True):
            padded[index[id(item)]] = displacement
        loss, gradients = evaluate(padded)
        return loss, [gradients[index[id(item)]] for item in concerned]

    return inner


def _search(piece: Transform, items: Sequence[Item], evaluate: Evaluate) -> None:
    assert piece.search is not None
    updates, scalars = piece.search(
        [item.update for item in items],
        [item.state for item in items],
        [item.param for item in items],
        items[0].hyper,
        evaluate,
    )
    for item, update in zip(items, updates, strict=True):
        item.update = update
        store(item, scalars)


def _probe(
    piece: Transform, concerned: Sequence[Item], items: Sequence[Item], evaluate: Evaluate
) -> None:
    assert piece.probe is not None
    if piece.measure is not None:
        _measure(piece, sorted(concerned, key=lambda item: item.name))
    mine = {id(item) for item in concerned}
    moves = [
        piece.probe(item.update, item.state, item.param, item.hyper)
        if id(item) in mine
        else torch.zeros_like(item.param)
        for item in items
    ]
    _, gradients = evaluate(moves)
    for item, gradient in zip(items, gradients, strict=True):
        if id(item) in mine:
            item.update = gradient
            item.hyper.gradient = gradient


def _distinct(items: Sequence[Item], wanted: Callable[[Transform], bool]) -> list[Transform]:
    found: dict[int, Transform] = {}
    for rule in {id(item.rule): item.rule for item in items}.values():
        for piece in rule.pieces:
            if wanted(piece):
                found[id(piece)] = piece
    return list(found.values())
