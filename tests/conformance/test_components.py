"""Every optimizer we ship keeps every clause of the contract."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import rheostat as rs
from rheostat.conformance.check import CLAUSES, examine
from rheostat.conformance.subject import Subject

OPTIMIZERS = [c.ref for c in rs.components("optimizer") if c.module.startswith("rheostat.")]


@pytest.mark.parametrize("ref", OPTIMIZERS)
@pytest.mark.parametrize("clause", CLAUSES, ids=lambda c: c.__name__)
def test_clause(clause: Callable[[Subject], None], ref: str) -> None:
    finding = examine(Subject.named(ref), clause)
    assert finding.outcome != "broken", finding.found
