"""Registrations read from source files, so that what there is can be listed without importing it.

A file's `@register(kind, name, …)` lines at its top level are its registrations; their arguments
are literals. Plug-ins are the modules that installed distributions name in the entry-point group
`rheostat.components`, and are read in the same way.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, cast

from rheostat.core.errors import InputError

GROUP = "rheostat.components"
"""The entry-point group of plug-ins. An entry's value is a module, or a package whose files are
read; its name is a label for people."""


@dataclass(frozen=True)
class Registration:
    """One `@register` line and the function under it."""

    kind: str
    name: str
    version: int
    deprecated: str | None
    module: str
    function: str
    doc: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class EntryPoint:
    """A plug-in as its distribution announces it."""

    name: str
    module: str
    distribution: str


def entry_points() -> list[EntryPoint]:
    """The plug-ins of all installed distributions, in the order of their names."""
    # It reads a file of every installed distribution, so it is loaded when somebody asks.
    from importlib.metadata import entry_points as installed

    found = {
        # A value that is no module's name is kept as it stands: it will be listed as broken.
        EntryPoint(
            point.name,
            point.module if point.pattern.match(point.value) else point.value,
            point.dist.name if point.dist else "?",
        )
        for point in installed(group=GROUP)
    }
    return sorted(found, key=lambda point: (point.distribution, point.name, point.module))


def files_of(module: str) -> Iterator[tuple[str, Path]]:
    """Module names and source files: the module's own, and, of a package, those of its folder.

    Nothing is imported, the parents of a nested module neither. Raises InputError where there is
    no such module.
    """
    spec = _spec(module)
    if spec.origin and spec.origin.endswith(".py"):
        yield module, Path(spec.origin)
    for folder in spec.submodule_search_locations or ():
        for path in sorted(Path(folder).glob("*.py")):
            if path.stem != "__init__":
                yield f"{module}.{path.stem}", path


def _spec(module: str) -> ModuleSpec:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    for i in range(len(rest)):
        if spec is None:
            break
        name = ".".join((top, *rest[: i + 1]))
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or ()))
    if spec is None:
        raise InputError(f"there is no module {module!r}")
    return spec


def registrations(module: str, path: Path) -> list[Registration]:
    """The registrations in a file.

    Raises InputError where the file is no Python, or a registration's arguments are no literals.
    """
    source = path.read_text(encoding="utf-8")
    if "register(" not in source:
        return []
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}") from None
    return [
        _registration(module, path, node, call)
        for node in tree.body
        if isinstance(node, ast.FunctionDef)
        for call in node.decorator_list
        if isinstance(call, ast.Call) and _called(call.func) == "register"
    ]


def _called(function: ast.expr) -> str:
    """The last part of what is called: `register` of `rs.register`."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _registration(module: str, path: Path, node: ast.FunctionDef, call: ast.Call) -> Registration:
    names = ("kind", "name", "version", "deprecated")
    try:
        given: dict[str, Any] = {"version": 1, "deprecated": None}
        given |= zip(names, map(ast.literal_eval, call.args), strict=False)
        given |= {cast("str", k.arg): ast.literal_eval(k.value) for k in call.keywords}
        kind, name, version, deprecated = (given[key] for key in names)
    except (ValueError, KeyError):
        raise InputError(
            f"{path}, line {call.lineno}: the arguments of register should be literals: a kind, a "
            "name, and where wanted version=2, deprecated='…'"
        ) from None
    arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
    doc = inspect.cleandoc(ast.get_docstring(node) or "")
    parameters = tuple(argument.arg for argument in arguments)
    return Registration(kind, name, version, deprecated, module, node.name, doc, parameters)
