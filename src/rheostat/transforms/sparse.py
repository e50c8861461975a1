"""Sparse gradients (`nn.Embedding(sparse=True)`): rules that work on what has a gradient alone."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative
from rheostat.core.sealed import Sealed
from rheostat.core.transform import Hyper, State, Transform
from rheostat.transforms.decay import add_decayed_weights


def lazily(rule: Transform) -> Transform:
    """The rule, taking a sparse update too: then elements without a gradient keep their state.

    `rule` works element by element, has buffers shaped like the parameter, and reads its update
    rather than `hyper.gradient`. The sparse update (coalesced) becomes a sparse update; a dense
    one goes to the rule as it is. The step count stays the parameter's, not an element's.

    Raises InputError for a rule that works on whole tensors.
    """
    if rule.scope != "element":
        raise InputError(f"lazily: {rule.name} works on whole tensors, not element by element")

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if not u.is_sparse:
            return rule.update(u, state, param, hyper)
        where = tuple(u.indices())
        part = Sealed({name: state[name][where] for name in rule.buffers}, rule.name)
        values = rule.update(u.values(), part, param[where], hyper)
        for name, rows in part.items():
            state[name][where] = rows
        return torch.sparse_coo_tensor(
            u.indices(), values, u.shape, is_coalesced=True, check_invariants=False
        )

    return replace(rule, update=update, sparse=True)


def add_decayed_weights_if_any(weight_decay: NonNegative = 0.0) -> Transform:
    """`add_decayed_weights`, which takes sparse gradients as long as the decay is 0.

    A decay would move every weight, and a sparse step must not.
    """
    decay = add_decayed_weights(weight_decay)

    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        if not u.is_sparse:
            return decay.update(u, state, param, hyper)
        if hyper.weight_decay != 0:  # a group's own; the rule's is refused before the step
            raise InputError(
                f"weight_decay={hyper.weight_decay!r} in the group of a parameter with a sparse "
                "gradient: a decay would move all its weights; give that group weight_decay 0"
            )
        return u

    return replace(
        decay, update=update, sparse=isinstance(weight_decay, float) and not weight_decay
    )
