"""How products are summed: in one pass of C++, or vector by vector."""

from __future__ import annotations

import pytest

from rheostat.signals import monitor


@pytest.fixture
def vector_by_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no compiler."""
    monkeypatch.setattr(monitor, "compiled", lambda: None)


@pytest.fixture(params=["in one pass", "vector by vector"])
def either_way(request: pytest.FixtureRequest) -> bool:
    """Once in one pass, and once as where there is no compiler."""
    if request.param == "vector by vector":
        request.getfixturevalue("vector_by_vector")
    return request.param == "in one pass"
