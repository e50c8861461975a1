"""The registry: names and versions of components, found without importing them.

A component is a factory under ``@register(kind, name, version=…)``. Ours are found by reading
the source of the rooms in `SHELVES` (a file in a folder is the registration), so that listing
imports nothing; a component's module is imported when it is first made. Names are unique
across kinds, and a name and version is registered once.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, cast, runtime_checkable

from rheostat.core.errors import InputError, nearest
from rheostat.core.hyper import arguments_of, check_arguments

SHELVES: Mapping[str, str] = {
    "optimizer": "rheostat.optimizers",
    "transform": "rheostat.transforms",
    "schedule": "rheostat.schedules",
    "workload": "rheostat.lab.workloads",
}
"""Kind -> the package whose files hold components of that kind."""

P = ParamSpec("P")
R = TypeVar("R")


@runtime_checkable
class Stamped(Protocol):
    """A product that keeps a note of the component that made it."""

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Any:
        """The product, marked."""
        ...


@dataclass(frozen=True)
class Component:
    """A registered factory: `adamw@1` is `Component("optimizer", "adamw", 1, …)`."""

    kind: str
    name: str
    version: int
    module: str
    function: str
    doc: str

    @property
    def ref(self) -> str:
        """`name@version`, as it is recorded."""
        return f"{self.name}@{self.version}"

    @property
    def summary(self) -> str:
        """The first line of its card."""
        return self.doc.strip().partition("\n")[0].strip()

    @property
    def factory(self) -> Callable[..., Any]:
        """The factory, its module imported if need be."""
        if self.ref not in _factories:
            importlib.import_module(self.module)
        return _factories[self.ref]

    @property
    def signature(self) -> inspect.Signature:
        """Its arguments with their defaults: the schema."""
        return inspect.signature(self.factory)


_components: dict[str, Component] = {}
_factories: dict[str, Callable[..., Any]] = {}
_kinds: dict[str, str] = {}


def _add(component: Component) -> None:
    known = _components.get(component.ref)
    if known is not None and (known.module, known.function) != (
        component.module,
        component.function,
    ):
        raise InputError(
            f"{component.ref} is registered already, by {known.module}.{known.function}; "
            "choose another name, or the next version"
        )
    kind = _kinds.setdefault(component.name, component.kind)
    if kind != component.kind:
        raise InputError(
            f"the name {component.name!r} belongs to a component of kind {kind}; names are unique "
            "across kinds"
        )
    _components[component.ref] = component


def register(
    kind: str, name: str, *, version: int = 1
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: make a factory a component.

    The factory it returns checks every argument against the signature before the body runs, and
    marks the product with the component's name and arguments.

    Raises:
        InputError: an unknown kind, a malformed name, a name and version registered twice, a
            parameter without an annotation.
    """
    if kind not in SHELVES:
        raise InputError(f"register: unknown kind {kind!r}; {nearest(kind, SHELVES)}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or version < 1:
        raise InputError(
            f"register: {name!r} version {version}: a name is lower-case letters, digits and _, "
            "a version counts from 1"
        )

    def decorate(factory: Callable[P, R]) -> Callable[P, R]:
        component = Component(
            kind,
            name,
            version,
            factory.__module__,
            factory.__qualname__,
            inspect.getdoc(factory) or "",
        )
        if component.ref in _factories:
            raise InputError(f"{component.ref} is registered already; choose the next version")
        numbers: set[str] = set()
        signature = inspect.signature(factory)

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
            arguments = check_arguments(factory, {**given, **kwargs}, where=name)
            product = factory(**arguments)  # type: ignore[call-arg]  # P is checked just above
            if isinstance(product, Stamped):
                return cast("R", product.stamped(component.ref, arguments, numbers))
            return product

        _scan()
        _add(component)
        _factories[component.ref] = make
        return make

    return decorate


@functools.cache
def _scan() -> None:
    """Read the sources of our rooms for @register lines, importing none of them."""
    for package in SHELVES.values():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        for folder in spec.submodule_search_locations:
            for path in sorted(Path(folder).glob("*.py")):
                for component in _read(path, f"{package}.{path.stem}"):
                    _add(component)


def _read(path: Path, module: str) -> list[Component]:
    source = path.read_text(encoding="utf-8")
    if "@register(" not in source:
        return []
    found: list[Component] = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if (
                isinstance(decorator, ast.Call)
                and isinstance(decorator.func, ast.Name)
                and decorator.func.id == "register"
            ):
                kind, name = (ast.literal_eval(argument) for argument in decorator.args)
                options = {k.arg: ast.literal_eval(k.value) for k in decorator.keywords}
                doc = ast.get_docstring(node) or ""
                found.append(
                    Component(kind, name, options.get("version", 1), module, node.name, doc)
                )
    return found


def components(kind: str | None = None, pattern: str = "*") -> list[Component]:
    """All components of a kind (of every kind if None) whose name matches a shell pattern.

    Ordered by kind, name and version. Raises InputError for an unknown kind.
    """
    _scan()
    if kind is not None and kind not in SHELVES:
        raise InputError(f"unknown kind {kind!r}; {nearest(kind, SHELVES)}")
    return sorted(
        (
            c
            for c in _components.values()
            if kind in (None, c.kind) and fnmatchcase(c.name, pattern)
        ),
        key=lambda c: (c.kind, c.name, c.version),
    )


def component(ref: str, kind: str | None = None) -> Component:
    """The component `name@version`; `name` alone means its newest version.

    Raises:
        InputError: no such name or version, or it is of another kind.
    """
    _scan()
    name, at, version = ref.partition("@")
    versions = {c.version: c for c in _components.values() if c.name == name}
    if not versions:
        known = [c.name for c in components(kind)]
        raise InputError(f"no {kind or 'component'} is named {name!r}; {nearest(name, known)}")
    if at and version not in map(str, versions):
        known = ", ".join(f"{name}@{v}" for v in sorted(versions))
        raise InputError(f"{ref!r} does not exist; there is {known}")
    found = versions[int(version) if at else max(versions)]
    if kind is not None and found.kind != kind:
        raise InputError(f"{found.ref} is of kind {found.kind}, not {kind}")
    return found


def shelf(kind: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` for a room, so that `schedules.cosine` finds the factory."""

    def getattr_(name: str) -> Any:
        _scan()
        if _kinds.get(name) != kind:
            known = [c.name for c in components(kind)]
            raise AttributeError(f"no {kind} is named {name!r}; {nearest(name, known)}")
        return component(name, kind).factory

    def dir_() -> list[str]:
        return sorted({c.name for c in components(kind)})

    return getattr_, dir_
