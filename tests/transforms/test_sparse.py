"""`lazily`: an element-wise rule on what has a gradient alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer, Hyper, State, Transform
from rheostat.transforms.sparse import lazily

SHAPE = (6, 4)


def _accumulate(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    return state["total"].add_(u * param) * 2


RULE = Transform(_accumulate, buffers={"total": Buffer()}, scope="element")


@given(st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=6), st.booleans())
def test_it_is_the_rule_where_there_is_a_gradient_and_nothing_elsewhere(
    batches: list[set[int]], by_element: bool
) -> None:
    """Rows (one sparse dimension) or single elements (two): like the dense rule under a mask."""
    generator = torch.Generator().manual_seed(0)
    param = torch.randn(SHAPE, generator=generator)
    total, untouched = torch.zeros(SHAPE), torch.ones(SHAPE)
    state = {"total": torch.zeros(SHAPE), "another's": untouched}
    for rows in batches:
        mask = torch.zeros(SHAPE, dtype=torch.bool)
        mask[list(rows), : 2 if by_element else None] = True
        dense = torch.where(mask, torch.randn(SHAPE, generator=generator), 0.0)
        sparse = dense.to_sparse(2 if by_element else 1)
        result = lazily(RULE).update(sparse, state, param, Hyper(step=1.0, gradient=sparse))
        assert result.is_sparse
        total = torch.where(mask, total + dense * param, total)
        torch.testing.assert_close(state["total"], total, rtol=0, atol=0)
        expected = torch.where(mask, total * 2, 0.0)
        torch.testing.assert_close(result.to_dense(), expected, rtol=0, atol=0)
    assert torch.equal(untouched, torch.ones(SHAPE))


def test_a_dense_update_goes_through() -> None:
    state = {"total": torch.zeros(SHAPE)}
    u = torch.ones(SHAPE)
    result = lazily(RULE).update(u, state, u, Hyper(step=1.0, gradient=u))
    assert torch.equal(result, 2 * u)


def test_a_rule_on_whole_tensors_is_refused() -> None:
    with pytest.raises(InputError, match="transform works on whole tensors"):
        lazily(Transform(_accumulate, buffers={"total": Buffer()}))
    assert lazily(rs.transforms.scale_by_adam()).sparse
