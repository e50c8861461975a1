"""Fingerprints tell apart what differs, and nothing else."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.signals.fingerprint import fingerprint
from rheostat.signals.norms import total_norm


def test_content_counts_and_layout_does_not() -> None:
    a = torch.arange(12.0).reshape(3, 4)
    assert fingerprint(a) == fingerprint(a.T.contiguous().T) == fingerprint(a.clone())
    different = [
        a.reshape(4, 3),
        a.double(),
        a + torch.nn.functional.one_hot(torch.tensor([1, 0, 0]), 4) * 1e-6,
        -a,
        a.bfloat16(),
    ]
    prints = {fingerprint(x) for x in [a, *different]}
    assert len(prints) == 6
    assert fingerprint(torch.tensor([0.0])) != fingerprint(torch.tensor([-0.0]))


def test_nests_keep_their_order_and_keys() -> None:
    a, b = torch.zeros(2), torch.ones(2)
    assert fingerprint((a, b)) != fingerprint((b, a))
    assert fingerprint({"x": a, "y": b}) != fingerprint({"y": a, "x": b})
    assert fingerprint((a, 3)) != fingerprint((a, 4))
    assert fingerprint(torch.empty(0, 2)) != fingerprint(torch.empty(2, 0))


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1), max_size=4))
def test_total_norm(values: list[list[float]]) -> None:
    exact = math.sqrt(sum(x * x for row in values for x in row))
    found = total_norm([torch.tensor(row) for row in values])
    assert math.isclose(found, exact, rel_tol=1e-5, abs_tol=1e-30)
