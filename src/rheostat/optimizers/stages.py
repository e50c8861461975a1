"""One update of many parameters, piece by piece: the eager way to run any rule.

Pieces run parameter by parameter, so that one parameter's intermediate tensors are all that is
held; only a piece that measures waits until every parameter has come as far as it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.sharded import summed
from rheostat.core.transform import Evaluate, Transform, square
from rheostat.optimizers.closures import loss_of
from rheostat.optimizers.guard import NonFinite, check_elsewhere
from rheostat.optimizers.items import Item
from rheostat.optimizers.kernels import Kernel
from rheostat.optimizers.native import NativeKernel
from rheostat.optimizers.numbers import Number
from rheostat.optimizers.pieces import advance, in_doubt

PART = 1 << 16
"""Elements of a parameter that are measured at once."""


def run(
    items: Sequence[Item],
    evaluate: Evaluate | None,
    loss: Any,
    squares: Tensor | None,
    nonfinite: NonFinite,
) -> None:
    """Run every item's rule to its end and move its parameter.

    `evaluate` gives the closure's loss and gradients at displaced parameters; None where the step
    has no closure. `loss` is what it returned where they are. `squares` are the sums of squares of
    the items' gradients, None where nobody has taken them. `nonfinite` says what to do about
    gradients elsewhere that are not finite.

    Raises InputError where a rule needs a closure and there is none, LeftOut where the update must
    be skipped, RheostatError under "raise"; all before any parameter has moved.
    """
    if _elsewhere(items, evaluate, loss, nonfinite):
        squares = None  # of gradients that rules do not work with any more
    waiting = _advance_all(items)
    while waiting:
        # Pieces that several rules share (what a policy's chain begins with) are one object, so
        # they are measured over all the parameters of those rules together.
        piece = _awaited(waiting[0])
        together = [item for item in waiting if _awaited(item) is piece]
        others = [item for item in waiting if _awaited(item) is not piece]
        whole = all(item.pieces[0] is piece for item in items)
        if squares is not None and piece.measure is square and whole:
            _settle(piece, together, {"square": squares.sum()})
        else:
            together.sort(key=lambda item: item.name)
            _settle(piece, together, _summed(together, _found(piece, together)))
        waiting = others + _advance_all(together)


def _advance_all(items: Sequence[Item]) -> list[Item]:
    """Run items as far as they go, those whose whole rule a kernel can run all at once; returns
    those that wait for a measurement."""
    waiting: list[Item] = []
    ready: dict[Kernel, list[Item]] = {}
    for item in items:
        kernel = item.kernel
        if kernel is not None and kernel.takes(item):
            if kernel not in ready:
                ready[kernel] = []
            ready[kernel].append(item)
            continue
        item.kernel = None  # in this step
        if advance(item):
            _afterwards(item)
        else:
            waiting.append(item)
    for kernel, batch in ready.items():
        if batch[0].measured is None and batch[0].rule.measuring is not None:
            waiting += batch
            continue
        kernel.run(batch)
        acts = not kernel.finishes and any(piece.after for piece in batch[0].pieces)
        for item in batch:
            item.finish()
            if acts:
                _afterwards(item)
    return waiting


def _afterwards(item: Item) -> None:
    ok, state = item.ok, item.seen
    for piece in item.pieces:
        if piece.after is None:
            continue
        if ok is None:
            result = piece.after(item.param, state, item.hyper)
        else:
            with in_doubt(ok, piece, state):
                result = piece.after(item.param, state, item.hyper)
            result = torch.where(ok, result, item.param)
        if result is not item.param:
            item.param.copy_(result)


def _awaited(item: Item) -> Transform:
    """The piece that must measure before an item can go on; a kernel runs none before it."""
    measuring = item.rule.measuring if item.kernel is not None else item.pieces[item.position]
    assert measuring is not None
    return measuring


def _found(piece: Transform, items: Sequence[Item]) -> list[Mapping[str, Tensor]]:
    """What a piece measures of each item; of those that a native kernel takes, of all at once, in
    the place of the first, unless other processes hold parts of them."""
    parted = any(item.home is not None for item in items)
    batches: dict[Any, list[Item]] = {}
    for item in items:
        native = isinstance(item.kernel, NativeKernel) and item.kernel.measures and not parted
        batches.setdefault(item.kernel if native else id(item), []).append(item)
    return [
        key.measure(batch)
        if isinstance(key, NativeKernel)
        else _sums(piece, batch[0], _reaching(piece, batch[0]))
        for key, batch in batches.items()
    ]


def _reaching(piece: Transform, item: Item) -> Tensor:
    """The update that a piece is to measure; what a kernel's rule has before it keeps nothing."""
    update = item.update
    if item.kernel is not None:
        for before in itertools.takewhile(lambda one: one is not piece, item.pieces):
            update = before.update(update, item.seen, item.param, item.hyper)
    return update


def _summed(items: Sequence[Item], found: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """The sums of what was measured, in its order."""
    if any(item.home is not None for item in items):
        found = _over_processes(items, found)
    sums: dict[str, Tensor] = {}
    for one in found:
        for key, value in one.items():
            sums[key] = sums[key] + value if key in sums else value
    return sums


def _sums(piece: Transform, item: Item, update: Tensor) -> Mapping[str, Tensor]:
    """What a piece measures of a parameter; of a large one part by part, where it works element by
    element, so that what it computes on the way stays in a near cache."""
    assert piece.measure is not None
    param, state = item.param, item.seen
    wide = [update, *(state[n] for n, buffer in piece.buffers.items() if buffer.like_parameter)]
    if (
        param.numel() <= PART
        or piece.scope != "element"
        or not param.is_cpu
        or any(one.is_sparse or not one.is_contiguous() for one in (param, *wide))
    ):
        return piece.measure(update, state, param, item.hyper)
    sums: dict[str, Tensor] = {}
    flat = {
        n: state[n].view(-1) if b.like_parameter else state[n] for n, b in piece.buffers.items()
    }
    for start in range(0, param.numel(), PART):
        cut = slice(start, start + PART)
        part = {n: one[cut] if piece.buffers[n].like_parameter else one for n, one in flat.items()}
        given = update.view(-1)[cut], part, param.detach().view(-1)[cut], item.hyper
        for key, value in piece.measure(*given).items():
            sums[key] = sums[key] + value if key in sums else value
    return sums


def _over_processes(
    items: Sequence[Item], found: Sequence[Mapping[str, Tensor]]
) -> list[Mapping[str, Tensor]]:
    """What was measured of parts, summed over the processes that hold them; one call a scalar."""
    homes = [item.param if item.home is None else item.home for item in items]
    whole = {key: summed(torch.stack([one[key] for one in found]), homes) for key in found[0]}
    return [{key: values[i] for key, values in whole.items()} for i in range(len(items))]


def _settle(piece: Transform, items: Sequence[Item], sums: Mapping[str, Tensor]) -> None:
    scalars: Mapping[str, Any] = {}
    if piece.settle is not None:
        hyper = items[0].hyper
        scalars = piece.settle({name: items[0].number(sum_) for name, sum_ in sums.items()}, hyper)
    for item in items:
        item.measured = sums
    if scalars:
        store(items, scalars)


def store(items: Sequence[Item], scalars: Mapping[str, Any]) -> None:
    """Give new values of the rule's scalars to all that follows, and to the groups."""
    for item in items:
        for name, value in scalars.items():
            setattr(item.hyper, name, value)
    for item in {id(item.group): item for item in items}.values():
        item.numbers.update(scalars)
        for name, value in scalars.items():
            if isinstance(value, Number):
                kept = item.group[name]
                kept.copy_(
                    value.tensor if item.ok is None else torch.where(item.ok, value.tensor, kept)
                )
            else:
                item.group[name] = value


def share_scalars(
    groups: Sequence[dict[str, Any]],
    rules: Sequence[Transform],
    rule: Transform,
    source: Mapping[str, Any] | None = None,
) -> None:
    """Scalars are of the whole optimizer: every group of the rule has those of the source, by
    default of its first group."""
    if not rule.scalars:
        return
    mine = [group for group, other in zip(groups, rules, strict=True) if other is rule]
    known = {name: (source or mine[0])[name] for name in rule.scalars}
    for group in mine:
        group.update(known)


def share_all(
    groups: Sequence[dict[str, Any]], rules: Sequence[Transform], items: Sequence[Item]
) -> None:
    """Scalars that these items wrote are those of all groups of their rules."""
    for rule, group in {id(one.group): (one.rule, one.group) for one in items}.values():
        share_scalars(groups, rules, rule, group)


def _elsewhere(
    items: Sequence[Item], evaluate: Evaluate | None, loss: Any, nonfinite: NonFinite
) -> bool:
    """Let the pieces that need the gradient at other points have it; says whether there are any."""
    pieces = _distinct(items, lambda piece: piece.search is not None or piece.probe is not None)
    settled: list[tuple[Sequence[Item], Mapping[str, float]]] = []
    for piece in pieces:
        concerned = [item for item in items if any(p is piece for p in item.pieces)]
        if evaluate is None:
            raise InputError(
                f"{piece.name} evaluates the loss several times a step: call step(closure)"
            )
        if piece.search is not None:
            # The parameters of other rules stand still during the search; their turn is after.
            others = [item for item in items if item not in concerned]
            around = _around(evaluate, items, concerned, others)
            scalars = _search(piece, concerned, around, loss_of(loss, items))
            settled.append((concerned, scalars))
        else:
            _probe(piece, concerned, items, evaluate)
        found = [item.update for item in concerned]
        check_elsewhere(piece.name, [item.name for item in concerned], found, nonfinite)
    for concerned, scalars in settled:  # now that nothing can go wrong elsewhere
        store(concerned, scalars)
    return bool(pieces)


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


def _search(
    piece: Transform, items: Sequence[Item], evaluate: Evaluate, loss: float
) -> Mapping[str, float]:
    assert piece.search is not None
    updates, scalars = piece.search(
        [item.update for item in items],
        [item.seen for item in items],
        [item.param for item in items],
        items[0].hyper,
        evaluate,
        loss,
    )
    for item, update in zip(items, updates, strict=True):
        item.update = update
    return scalars


def _probe(
    piece: Transform, concerned: Sequence[Item], items: Sequence[Item], evaluate: Evaluate
) -> None:
    assert piece.probe is not None
    if piece.measure is not None:
        named = sorted(concerned, key=lambda item: item.name)
        _settle(piece, named, _summed(named, [_sums(piece, item, item.update) for item in named]))
        for item in concerned:
            item.hyper.measured = item.measured or {}
    mine = {id(item) for item in concerned}
    moves = [
        piece.probe(item.update, item.seen, item.param, item.hyper)
        if id(item) in mine
        else torch.zeros_like(item.param)
        for item in items
    ]
    _, gradients = evaluate(moves)
    for item, gradient in zip(items, gradients, strict=True):
        if id(item) in mine:
            item.update = gradient
            item.hyper.gradient = gradient
            if item.pieces[0] is not piece:
                item.measured = None  # not what the piece that comes first has measured


def _distinct(items: Sequence[Item], wanted: Callable[[Transform], bool]) -> list[Transform]:
    found: dict[int, Transform] = {}
    for rule in {id(item.rule): item.rule for item in items}.values():
        for piece in rule.pieces:
            if wanted(piece):
                found[id(piece)] = piece
    return list(found.values())
