"""The state as a rule sees it: buffers to read and to write in place, none to exchange."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from torch import Tensor

from rheostat.core.errors import InputError


class Sealed(dict[str, Tensor]):
    """Buffers by name; a compiled rule would lose one that is put into the place of another.

    Raises InputError for what would exchange, add or take away a buffer.
    """

    __slots__ = ("_rule",)

    def __init__(self, state: Mapping[str, Tensor], rule: str) -> None:
        super().__init__(state)
        self._rule = rule

    def __setitem__(self, name: str, value: Tensor) -> None:
        # `state["m"] += u` adds in place, and then puts the same tensor where it is.
        if self.get(name) is not value:
            self._refuse(name)

    def _refuse(self, *given: Any, **others: Any) -> NoReturn:
        del others
        name = given[0] if given and isinstance(given[0], str) else "…"
        raise InputError(
            f"{self._rule}: a buffer is written in place: state[{name!r}].copy_(…), not "
            f"state[{name!r}] = …"
        )

    __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse  # pyright: ignore
