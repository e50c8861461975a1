"""Two rules at once: their updates mixed, so that one can hand over to the other without a jump."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import UnitInterval
from rheostat.core.registry import register
from rheostat.core.transform import Hyper, State, Transform, chain, named

FIRST, SECOND = "first", "second"


@register("transform", "blend", version=1)
def blend(first: Transform, second: Transform, blend: UnitInterval = 0.0) -> Transform:
    """Two rules mixed, so that one can hand over to the other.

    u ← (1 − blend) · first(u) + blend · second(u). Both rules see every update, so the one that is
    not used yet has its state when its turn comes. The names that the rules declare have "first."
    and "second." before them. Give the rules without a step size: the loop closes the chain with
    one; where their updates differ in size, scale one of them.

    Raises InputError for a rule with a step size, or one that acts in another way than by its
    update; for a piece that measures after another one.

    Source: Keskar & Socher 2017 (arXiv:1712.07628), who switch at once, from Adam to SGD.
    first: the rule that acts alone where blend is 0; in a recipe a list of transforms.
    second: the rule that acts alone where blend is 1; in a recipe a list of transforms.
    blend: the weight of the second: a number, a schedule, or what the controller hand_over moves.
    """
    rules = {FIRST: named(FIRST, first), SECOND: named(SECOND, second)}
    for where, rule in rules.items():
        _check(where, rule)
    both = chain(*rules.values())

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        a, b = (_run(name, rule, u, state, param, hyper) for name, rule in rules.items())
        # At either end it is one of them, to the bit.
        return (1 - hyper.blend) * a + hyper.blend * b

    def measure(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Mapping[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, rule in rules.items()
            if (of := rule.pieces[0].measure) is not None
            for key, value in of(u, state, param, hyper).items()
        }

    measures = any(piece.measure for piece in both.pieces)
    return Transform(
        update,
        buffers=both.buffers,
        hyperparameters={**both.hyperparameters, "blend": blend},
        scope=both.scope,
        measure=measure if measures else None,
        name="blend",
    )


def _run(
    name: str, rule: Transform, u: Tensor, state: State, param: Tensor, hyper: Hyper
) -> Tensor:
    for piece in rule.pieces:
        seen = hyper
        if piece.measure is not None:
            start = f"{name}."
            mine = {
                k.removeprefix(start): v
                for k, v in hyper.measured.items()
                if k[: len(start)] == start
            }
            seen = Hyper(**{**vars(hyper), "measured": mine})
        u = piece.update(u, state, param, seen)
    return u


def _check(where: str, rule: Transform) -> None:
    if rule.scaled:
        raise InputError(f"blend: {where}: has a step size; leave that to the end of the chain")
    for position, piece in enumerate(rule.pieces):
        verbs = ("settle", "after", "view", "probe", "search", "observe")
        found = [verb for verb in verbs if getattr(piece, verb) is not None]
        if found or piece.scalars:
            how = found[0] if found else "scalars"
            raise InputError(
                f"blend: {where}: {piece.name} acts by {how} too, which cannot be mixed; put it "
                "before or after the blend"
            )
        if position and piece.measure is not None:
            raise InputError(
                f"blend: {where}: {piece.name} measures what the piece before it makes; it has to "
                "be the first, or stand outside of the blend"
            )
