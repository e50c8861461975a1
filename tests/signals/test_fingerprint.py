"""Fingerprints tell apart what differs, and nothing else."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheostat.signals.fingerprint import (
    SECTIONS,
    fingerprint,
    mark,
    parted,
    rng_mark,
    section_names,
    sections,
)
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


def _plain_mark(tensors: list[torch.Tensor]) -> str:
    """As the docstring says, byte by byte, in Python's own integers."""
    found = ""
    for part in sections(len(tensors)):
        total = 0
        chunks = [t.contiguous().reshape(-1).view(torch.uint8).tolist() for t in tensors[part]]
        small = [chunk for chunk in chunks if len(chunk) <= 1 << 16]
        if len(small) > 1:  # they are summed as one piece
            joined = [byte for chunk in small for byte in chunk]
            chunks = [joined, *(chunk for chunk in chunks if len(chunk) > 1 << 16)]
        for chunk in chunks:
            whole = len(chunk) - len(chunk) % 8
            for i in range(0, whole, 8):
                total += int.from_bytes(bytes(chunk[i : i + 8]), "little")
            total += sum(chunk[whole:])
        found += f"{(total * 0x9E3779B97F4A7C15 >> 48) % 65536:04x}"
    return found


@pytest.mark.parametrize("count", [0, 1, 5, SECTIONS, SECTIONS + 1, 3 * SECTIONS - 1])
def test_a_mark_is_the_sum_it_says(count: int) -> None:
    torch.manual_seed(count)
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.int8)
    tensors = [torch.randn(3, i % 5 + 1).to(dtypes[i % 4]) for i in range(count)]
    if count > 4:
        tensors[2] = torch.randn(20_000)
        tensors[3] = torch.randn(7, 5).T
        tensors[4] = torch.tensor(1.5)
    assert mark(tensors) == _plain_mark(tensors)
    assert len(mark(tensors)) == 4 * min(count, SECTIONS)


def test_a_mark_names_the_section_that_changed() -> None:
    rng = random.Random(0)
    for count in (3, SECTIONS, 70):
        tensors = [torch.randn(4, 3) for _ in range(count)]
        names = [f"t{i}" for i in range(count)]
        before = mark(tensors)
        for _ in range(20):
            changed = rng.randrange(count)
            kept = tensors[changed].clone()
            flat = tensors[changed].view(torch.int32).view(-1)
            flat[rng.randrange(12)] ^= 1 << rng.randrange(31)
            name = parted(before, mark(tensors), section_names(names))
            assert name is not None
            first, _, last = name.partition(" … ")
            assert int(first[1:]) <= changed <= int((last or first)[1:])
            tensors[changed] = kept
        assert parted(before, mark(tensors), section_names(names)) is None


def test_the_mark_of_the_generators_changes_with_a_draw() -> None:
    torch.manual_seed(0)
    before = rng_mark()
    assert before == rng_mark()
    torch.rand(1)
    assert before != rng_mark()
    torch.manual_seed(0)
    assert before == rng_mark()
