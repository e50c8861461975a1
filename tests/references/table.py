"""The table of components, put back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rheostat.core import component


@contextmanager
def strangers_gone() -> Iterator[None]:
    """What is registered within is gone afterwards, so that tests that go through all there is do
    not meet it. Ours stays, and so do other libraries': their modules are imported once."""
    before = set(component._components)
    yield
    for ref in set(component._components) - before:
        found = component._components[ref]
        if not found.ours and "/" not in found.name:
            del component._components[ref]
            component._factories.pop(ref, None)
