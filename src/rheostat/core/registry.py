"""The registry: names and versions of components, found without importing them.

A component is a factory under ``@register(kind, name, version=…)``. Ours are found by reading
the source of the rooms in `SHELVES` (a file in a folder is the registration), so that listing
imports nothing; plug-ins are found in the same way, once a name is not among ours or all are asked
for (`rheostat.core.plugins`). A component's module is imported when it is first made. Names are
unique across kinds, a name's versions come from one package, and a name and version is
registered once.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from rheostat.core.component import BESIDE, SHELVES, Component, add, adopt, broken_plugins, known
from rheostat.core.errors import InputError, nearest
from rheostat.core.hyper import arguments_of, check_arguments
from rheostat.core.plugins import from_source, import_library, libraries, scan_plugins
from rheostat.core.sources import files_of, registrations

P = ParamSpec("P")
R = TypeVar("R")

_wanted = {"plugins": True}
"""Whether installed plug-ins are looked for."""


@runtime_checkable
class Stamped(Protocol):
    """A product that keeps a note of the component that made it."""

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Any:
        """The product, marked."""
        ...


def register(
    kind: str, name: str, *, version: int = 1, deprecated: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: make a factory a component.

    The factory it returns checks every argument against the signature before the body runs, and
    marks the product with the component's name and arguments. A deprecated one says what to use
    and in which release it goes, "use adamw; goes in 1.0", and warns with that when it is made.

    Raises:
        InputError: an unknown kind, a malformed name, a name and version registered twice, a
            parameter without an annotation, a deprecation without a replacement or a term.
    """

    def decorate(factory: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(factory)
        component = Component(
            kind,
            name,
            version,
            factory.__module__ or "__main__",  # None in code that exec runs without a name
            factory.__qualname__,
            inspect.getdoc(factory) or "",
            tuple(signature.parameters),
            deprecated,
        )
        numbers: set[str] = set()

        @functools.wraps(factory)
        def make(*args: P.args, **kwargs: P.kwargs) -> R:
            if not numbers:
                numbers.update(n for n, a in arguments_of(factory).items() if a.number)
            if len(args) > len(signature.parameters):
                raise InputError(f"{name}: takes at most {len(signature.parameters)} arguments")
            given = dict(zip(signature.parameters, args, strict=False))
            twice = set(given) & set(kwargs)
            if twice:
                raise InputError(f"{name}: argument {twice.pop()!r} is given twice")
            live = kind != "schedule"  # a schedule's own numbers are numbers
            arguments = check_arguments(factory, {**given, **kwargs}, where=name, live=live)
            if deprecated:
                said = f"{component.ref} is deprecated: {deprecated}"
                warnings.warn(said, FutureWarning, stacklevel=_level_of_the_user())
            product = factory(**arguments)  # type: ignore[call-arg]  # P is checked just above
            if isinstance(product, Stamped):
                return cast("R", product.stamped(component.ref, arguments, numbers))
            return product

        _scan()
        adopt(component, make)
        return make

    return decorate


def _level_of_the_user() -> int:
    """The level of the first caller outside of this library: the line that a warning is about."""
    frame, level = sys._getframe(1), 1  # pyright: ignore[reportPrivateUsage]  (as warnings has it)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("rheostat."):
        frame, level = frame.f_back, level + 1
    return level


@functools.cache
def _scan() -> None:
    """Read the sources of our rooms for @register lines, importing none of them."""
    for package in SHELVES.values():
        if importlib.util.find_spec(package) is None:
            continue
        for module, path in files_of(package):
            for found in registrations(module, path):
                add(from_source(found))


def leave_plugins_out() -> None:
    """From here on no installed plug-in is looked for, or found."""
    _wanted["plugins"] = False


def _present() -> list[Component]:
    return [c for c in known() if _wanted["plugins"] or c.plugin is None]


def components(kind: str | None = None, pattern: str = "*") -> list[Component]:
    """All components of a kind (of every kind if None) whose name matches a shell pattern.

    `-` in the pattern matches `_`. A pattern with a `/` asks for other libraries' components
    ("torch/Ada*"), and imports those libraries. Ordered by kind, name and version.

    Raises:
        InputError: an unknown kind.
    """
    if kind is not None and kind not in SHELVES:
        raise InputError(f"unknown kind {kind!r}; {nearest(kind, SHELVES)}")
    _scan()
    foreign = "/" in pattern
    if foreign:
        for library in libraries(pattern.partition("/")[0]):
            import_library(library)
    elif _wanted["plugins"]:
        scan_plugins()
    shape = pattern if foreign else _with_underscores(pattern)
    return sorted(
        (
            c
            for c in _present()
            if kind in (None, c.kind) and ("/" in c.name) == foreign and fnmatchcase(c.name, shape)
        ),
        key=lambda c: (c.kind, c.name, c.version),
    )


def _with_underscores(pattern: str) -> str:
    """The pattern with `_` for each `-`, but for those in brackets, which mean a range."""
    return re.sub(r"\[[^]]*\]|-", lambda found: "_" if found[0] == "-" else found[0], pattern)


def component(ref: str, kind: str | None = None) -> Component:
    """The component `name@version`; `name` alone means its newest version.

    Raises:
        InputError: no such name or version, or it is of another kind.
        MachineError: it is of a library that is not installed.
    """
    _scan()
    name, at, version = ref.partition("@")
    if "/" in name:
        import_library(name.partition("/")[0])
    elif _wanted["plugins"] and not any(c.name == name for c in _present()):
        scan_plugins()
    versions = {c.version: c for c in _present() if c.name == name}
    if not versions:
        if broken := next((b for b in broken_plugins() if b.name == name), None):
            raise InputError(f"{name} is broken ({broken.plugin}): {broken.reason}")
        near = [c.name for c in _present() if kind in (None, c.kind) or "/" in name]
        raise InputError(f"no {kind or 'component'} is named {name!r}; {nearest(name, near)}")
    if at and version not in map(str, versions):
        there = ", ".join(f"{name}@{v}" for v in sorted(versions))
        raise InputError(f"{ref!r} does not exist; there is {there}")
    found = next(c for v, c in versions.items() if str(v) == version) if at else _newest(versions)
    if kind is not None and found.kind != kind:
        raise InputError(f"{found.ref} is of kind {found.kind}, not {kind}")
    return found


def _find(name: str, kind: str) -> Component | None:
    try:
        return component(name, kind)
    except InputError:
        return None


def _newest(versions: Mapping[int | str, Component]) -> Component:
    # Versions of one name are all numbers, or, in another library, the only one that is installed.
    return versions[max(versions)]


def shelf(kind: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a room, so that `schedules.cosine` finds the factory."""

    beside = BESIDE.get(kind, ())

    def getattr_(name: str) -> Any:
        if name in beside:
            return getattr(importlib.import_module(f"{SHELVES[kind]}.imports"), name)
        # Python itself asks modules for names with an underscore; none of ours has one.
        found = None if name.startswith("_") else _find(name, kind)
        if found is None:
            near = [c.name for c in _present() if c.kind == kind]
            raise AttributeError(f"no {kind} is named {name!r}; {nearest(name, near)}")
        return found.factory

    def dir_() -> list[str]:
        return sorted({*beside, *(c.name for c in components(kind))})

    return getattr_, dir_
