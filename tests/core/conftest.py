"""What the tests of the registry share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.references.table import strangers_gone


@pytest.fixture
def _table_as_it_was() -> Iterator[None]:
    with strangers_gone():
        yield
