"""L-BFGS."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from rheostat.core.hyper import Count, NonNegative
from rheostat.core.registry import register
from rheostat.core.transform import (
    Buffer,
    Evaluate,
    Hyper,
    Search,
    Shape,
    State,
    Transform,
    identity,
)
from rheostat.transforms.line_search import Point, strong_wolfe

_LEAST_CURVATURE = 1e-10


@register("optimizer", "lbfgs")
def lbfgs(
    lr: NonNegative = 1.0,
    tolerance_grad: NonNegative = 1e-7,
    tolerance_change: NonNegative = 1e-9,
    max_iter: Count = 20,
    max_eval: Count | None = None,
    history_size: Count = 100,
    line_search_fn: Literal["strong_wolfe"] | None = None,
) -> Transform:
    """L-BFGS: Newton's step by an inverse Hessian made of the latest changes of the gradient.

    w ← w + t d,  d = −H g, iterated up to max_iter times a step; H by the two-loop recursion over
    pairs (y, s) of changes of gradient and weights with y·s > 1e-10, starting from (y·s / y·y) I.

    Variant: minFunc's, as in torch: t is lr (at the first iteration of all, at most lr / |g|₁), or
     what the line search finds from there. Needs `step(closure)`, with a closure that gives the
     same loss for the same weights. The numbers of the first group hold for all. Where other
     parameters have gradients than the last time, or a step broke off, the pairs are forgotten.
    Equals: torch.optim.LBFGS (same defaults, with and without strong_wolfe), to rounding.
    Assumes: a smooth loss without noise: the full batch, and a closure that gives the same loss for
     the same weights.
    Theory: linear for strongly convex losses, where the line search meets Wolfe's conditions (Liu &
     Nocedal 1989); without a line search nothing is promised.
    Practice: orders of magnitude fewer evaluations than SGD on small full-batch problems, to many
     digits; fails under minibatch noise.
    State: 808*m*n + 408 bytes for m × n, 808*n + 408 for n; so with 100 pairs.
    Flops: 4 k an element and iteration for k pairs kept, and up to max_eval evaluations a step.
    Use: for physics-informed networks, calibration, least squares, the last digits.
    Avoid: with minibatches, dropout or a GradScaler; and without line_search_fn on losses that are
     not nearly quadratic.
    Recipe: {optimizer: lbfgs, line_search_fn: strong_wolfe, history_size: 10}
    Tags: second-order, full-batch
    Source: Nocedal 1980; Liu & Nocedal 1989; Nocedal & Wright 2006, Algorithm 7.4.
    lr: t, in units of Newton's step. Usual [0.1, 1] 1: less is safer without a line search.
    tolerance_grad: largest element of the gradient at which it stops. Usual [0, 1e-5] gradient:
     larger stops sooner.
    tolerance_change: change of the weights, or of the loss, below which it stops. Usual [0, 1e-6]
     weight: larger stops sooner.
    max_iter: most iterations a step. Usual [1, 100]: more does more a step, in as many evaluations.
    max_eval: evaluations a step after which it stops; max_iter · 5 / 4 if not given. Usual [1, 200]
     evaluations: a bound on what a step may cost.
    history_size: pairs kept. Usual [5, 100] pairs: more is closer to Newton, at 8 bytes an element
     a pair.
    line_search_fn: how t is found. Usual 'strong_wolfe': without it nothing keeps a step from going
     up.
    """
    limits = (max_iter, max_iter * 5 // 4 if max_eval is None else max_eval)
    ring = {
        "old_dirs": Buffer(shape=_rows(history_size)),
        "old_stps": Buffer(shape=_rows(history_size)),
    }
    return Transform(
        identity,
        buffers={
            **ring,
            "curvatures": Buffer(shape=_row(history_size)),
            "prev_grad": Buffer(),
            "prev_step": Buffer(),
            "search": Buffer(dtype=torch.int64, shape=_row()),
        },
        hyperparameters={
            "lr": lr,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
        },
        scalars=dict.fromkeys(("searches", "members", "n_iter", "pairs"), 0.0) | {"h_diag": 1.0},
        scaled=True,
        search=_search(history_size, *limits, line_search=line_search_fn is not None),
    )


def _rows(count: int) -> Shape:
    return lambda param: (count, *param.shape)


def _row(*shape: int) -> Shape:
    def of(param: Tensor) -> tuple[int, ...]:
        return shape

    return of


def _search(history_size: int, max_iter: int, max_eval: int, *, line_search: bool) -> Search:
    def search(
        updates: list[Tensor],
        states: list[State],
        params: list[Tensor],
        hyper: Hyper,
        evaluate: Evaluate,
        loss: float,
    ) -> tuple[list[Tensor], Mapping[str, float]]:
        memory = _Memory(states, hyper, history_size)
        look = _looking(states, evaluate)
        moves = [torch.zeros_like(state["prev_grad"]) for state in states]
        gradients = [u.to(move.dtype) for u, move in zip(updates, moves, strict=True)]
        if _largest(gradients) <= hyper.tolerance_grad:
            return moves, memory.scalars
        loss = _ordered(loss)
        evaluations = 1
        for iteration in range(1, max_iter + 1):
            memory.learn(gradients)
            direction = memory.direction(gradients)
            slope = _dot(gradients, direction)
            if slope > -hyper.tolerance_change:
                break
            t, before = memory.first_guess(gradients, hyper.lr), loss
            if line_search:
                (t, loss, _, gradients), used = strong_wolfe(
                    _along(look, moves, direction),
                    Point(0.0, loss, slope, gradients),
                    t,
                    reach=_largest(direction),
                    tolerance_change=hyper.tolerance_change,
                    limit=max_eval - evaluations,
                )
                evaluations += used
            moves = _plus(moves, t, direction)
            memory.moved(t, direction)
            if not line_search and iteration < max_iter:
                loss, gradients = look(moves)
                evaluations += 1
            if not all(bool(gradient.isfinite().all()) for gradient in gradients):
                # Whether such a step is left out is for the loop to say.
                return [torch.full_like(move, math.nan) for move in moves], memory.scalars
            if (
                iteration == max_iter
                or evaluations >= max_eval
                or _largest(gradients) <= hyper.tolerance_grad
                or t * _largest(direction) <= hyper.tolerance_change
                or abs(loss - before) < hyper.tolerance_change
            ):
                break
        return [move.neg_() for move in moves], memory.scalars

    return search


class _Memory:
    """The latest pairs of changes, in the states' rings of rows: pair k is row k mod size."""

    def __init__(self, states: Sequence[State], hyper: Hyper, size: int) -> None:
        self.states, self.size = states, size
        same = hyper.members == len(states) and all(
            state["search"].item() == hyper.searches for state in states
        )
        # Rows that not all parameters have written together are no pairs.
        self.n_iter, self.pairs = (int(hyper.n_iter), int(hyper.pairs)) if same else (0, 0)
        self.h_diag = float(hyper.h_diag) if same else 1.0
        self.searches = hyper.searches + 1
        for state in states:
            state["search"].fill_(self.searches)

    @property
    def scalars(self) -> dict[str, float]:
        """What must be kept beside the buffers."""
        return {
            "searches": self.searches,
            "members": float(len(self.states)),
            "n_iter": float(self.n_iter),
            "pairs": float(self.pairs),
            "h_diag": self.h_diag,
        }

    def _all(self, name: str, row: int | None = None) -> list[Tensor]:
        return [state[name] if row is None else state[name][row] for state in self.states]

    def learn(self, gradients: Sequence[Tensor]) -> None:
        """Begin an iteration: keep the pair that the last move made, and the gradients."""
        self.n_iter += 1
        last, steps = self._all("prev_grad"), self._all("prev_step")
        if self.n_iter > 1:
            changes = [new - old for new, old in zip(gradients, last, strict=True)]
            curvature = _dot(changes, steps)
            if curvature > _LEAST_CURVATURE:
                row = self.pairs % self.size
                self.pairs += 1
                self.h_diag = curvature / _dot(changes, changes)
                _copy(self._all("old_dirs", row), changes)
                _copy(self._all("old_stps", row), steps)
                for whole, y, s in zip(self._all("curvatures", row), changes, steps, strict=True):
                    whole.fill_(_dot([y], [s]))
        _copy(last, gradients)
        for step in steps:  # until it has moved
            step.zero_()

    def direction(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """−H g, by the two-loop recursion."""
        rows = [k % self.size for k in range(max(0, self.pairs - self.size), self.pairs)]
        result = [gradient.neg() for gradient in gradients]
        first: dict[int, float] = {}
        for row in reversed(rows):
            first[row] = _dot(self._all("old_stps", row), result) / self._curvature(row)
            _add(result, -first[row], self._all("old_dirs", row))
        for tensor in result:
            tensor.mul_(self.h_diag)
        for row in rows:
            second = _dot(self._all("old_dirs", row), result) / self._curvature(row)
            _add(result, first[row] - second, self._all("old_stps", row))
        return result

    def _curvature(self, row: int) -> float:
        return sum(value.item() for value in self._all("curvatures", row))

    def first_guess(self, gradients: Sequence[Tensor], lr: float) -> float:
        """The step length to begin with."""
        if self.n_iter > 1:
            return float(lr)
        return min(1.0, 1.0 / sum(g.abs().sum().item() for g in gradients)) * float(lr)

    def moved(self, t: float, direction: Sequence[Tensor]) -> None:
        """Keep the move."""
        _add(self._all("prev_step"), t, direction)


def _looking(states: Sequence[State], evaluate: Evaluate) -> Evaluate:
    """`evaluate` in the buffers' precision, with losses that can be compared."""

    def look(moves: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        loss, found = evaluate(moves)
        kept = [g.to(state["prev_grad"].dtype) for g, state in zip(found, states, strict=True)]
        return _ordered(loss), kept

    return look


def _ordered(loss: float) -> float:
    """A loss that can be compared: not a number is worse than any."""
    return math.inf if math.isnan(loss) else loss


def _along(
    look: Evaluate, moves: Sequence[Tensor], direction: Sequence[Tensor]
) -> Callable[[float], Point]:
    def at(t: float) -> Point:
        loss, gradients = look(_plus(moves, t, direction))
        return Point(t, loss, _dot(gradients, direction), gradients)

    return at


def _dot(left: Iterable[Tensor], right: Iterable[Tensor]) -> float:
    pairs = zip(left, right, strict=True)
    products = [torch.dot(a.flatten(), b.flatten()).item() for a, b in pairs]
    return math.fsum(products) if all(map(math.isfinite, products)) else sum(products)


def _add(tensors: Iterable[Tensor], factor: float, others: Iterable[Tensor]) -> None:
    for tensor, other in zip(tensors, others, strict=True):
        tensor.add_(other, alpha=factor)


def _plus(moves: Sequence[Tensor], t: float, direction: Sequence[Tensor]) -> list[Tensor]:
    return [move.add(d, alpha=t) for move, d in zip(moves, direction, strict=True)]


def _copy(targets: Iterable[Tensor], sources: Iterable[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _largest(tensors: Iterable[Tensor]) -> float:
    """The largest absolute element; 0 where there is none."""
    return max((t.abs().max().item() for t in tensors if t.numel()), default=0.0)
