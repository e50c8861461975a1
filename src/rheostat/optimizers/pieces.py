"""The pieces of one rule, one after the other, on one parameter or on many laid end to end."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform

if TYPE_CHECKING:
    from rheostat.optimizers.items import Item


def advance(item: Item) -> bool:
    """Run the item's pieces and move its parameter; False where one must measure first.

    Raises InputError for a piece whose update has another shape than the parameter.
    """
    ok, state = item.ok, item.seen
    while item.position < len(item.pieces):
        if item.waits:
            return False
        if item.measured is not None:
            item.hyper.measured = item.measured
            item.measured = None
        piece = item.pieces[item.position]
        if ok is None:
            item.update = piece.update(item.update, state, item.param, item.hyper)
        else:
            with in_doubt(ok, piece, state):
                item.update = piece.update(item.update, state, item.param, item.hyper)
        checked(piece, item, item.update)
        item.position += 1
    if ok is None:
        move(item.param, item.update)
    else:
        item.param.sub_(torch.where(ok, item.update, 0))
    return True


def checked(piece: Transform, item: Item, update: Any) -> Tensor:
    """What a piece gave for an item. Raises InputError where it is no tensor of the parameter's
    shape."""
    if not isinstance(update, Tensor):
        raise InputError(
            f"{piece.name} gave {update!r} for {item.name}; it should return the update, a tensor "
            f"of shape {tuple(item.param.shape)}"
        )
    if update.shape != item.param.shape:
        found, wanted = tuple(update.shape), tuple(item.param.shape)
        raise InputError(
            f"{piece.name} gave an update of shape {found} for {item.name}, which has {wanted}"
        )
    return update


@contextmanager
def in_doubt(ok: Tensor, piece: Transform, state: Mapping[str, Tensor]) -> Generator[None]:
    """The buffers that a piece writes in here are as they were, if the step turns out not to be."""
    kept = {name: state[name].clone() for name in piece.buffers}
    yield
    for name, before in kept.items():
        torch.where(ok, state[name], before, out=state[name])


def move(param: Tensor, update: Tensor) -> None:
    """``param ← param − update``; a sparse update touches its own rows alone."""
    if update.is_sparse:
        param.add_(update, alpha=-1)
    else:
        param.sub_(update)
