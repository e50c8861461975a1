"""Components, and the table of those that are known: what the registry looks things up in."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rheostat.core.card import Card
from rheostat.core.errors import InputError, MachineError, nearest

SHELVES: Mapping[str, str] = {
    "optimizer": "rheostat.optimizers",
    "transform": "rheostat.transforms",
    "schedule": "rheostat.schedules",
    "signal": "rheostat.signals",
    "controller": "rheostat.regimes",
    "workload": "rheostat.lab.workloads",
}
"""Kind -> the package whose files hold components of that kind."""

BESIDE: Mapping[str, tuple[str, ...]] = {"schedule": ("from_torch", "from_function", "from_csv")}
"""Kind -> functions that a room offers beside its components; they live in its `imports` module."""


@dataclass(frozen=True)
class Component:
    """A registered factory: `adamw@1` is `Component("optimizer", "adamw", 1, …)`.

    `version` counts from 1; that of another library's component (`torch/AdamW`) is the library's
    own, "2.13.0". `plugin` is the distribution that brought it, None for ours and for what a
    program registered.
    """

    kind: str
    name: str
    version: int | str
    module: str
    function: str
    doc: str
    parameters: tuple[str, ...] = ()
    deprecated: str | None = None
    plugin: str | None = None

    @property
    def ref(self) -> str:
        """`name@version`, as it is recorded."""
        return f"{self.name}@{self.version}"

    @property
    def ours(self) -> bool:
        """Whether it is one that we ship."""
        return self.module.startswith("rheostat.")

    @cached_property
    def card(self) -> Card:
        """What its docstring says of it."""
        return Card.parse(self.doc, self.parameters)

    @property
    def summary(self) -> str:
        """The first paragraph of its card."""
        return self.card.summary

    @property
    def factory(self) -> Callable[..., Any]:
        """The factory, its module imported if need be.

        Raises:
            MachineError: the module of a plug-in fails to import, or does not register it.
        """
        if self.ref not in _factories:
            self._import()
        return _factories[self.ref]

    @property
    def signature(self) -> inspect.Signature:
        """Its arguments with their defaults: the schema."""
        return inspect.signature(self.factory)

    def within(self, module: str) -> bool:
        """Whether the module, or one inside it, is where it comes from."""
        return self.module == module or self.module.startswith(f"{module}.")

    def _import(self) -> None:
        if self.plugin is None:
            importlib.import_module(self.module)
            return
        try:
            importlib.import_module(self.module)
            if self.ref not in _factories:
                raise InputError(f"importing {self.module} does not register it")
        # Whatever a stranger's module raises, the user gets one line about it.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            broken = mark_broken(BrokenPlugin.of(self.name, self.module, self.plugin, error))
            raise MachineError(
                f"{self.ref} of the plug-in {self.plugin} is broken: {broken.reason}"
            ) from None


@dataclass(frozen=True)
class BrokenPlugin:
    """A plug-in that cannot be used. `name` is the component where it is known, or else that of the
    entry point; `reason` is one line."""

    name: str
    module: str
    plugin: str
    reason: str

    @classmethod
    def of(cls, name: str, module: str, plugin: str, error: BaseException) -> BrokenPlugin:
        """The plug-in whose module raised an error."""
        return cls(name, module, plugin, one_line(error))


def one_line(error: BaseException) -> str:
    """An exception on one line; its type where it is not one of our finished sentences."""
    said = " ".join(str(error).split())
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said}"


_components: dict[str, Component] = {}
_factories: dict[str, Callable[..., Any]] = {}
_broken: dict[tuple[str, str], BrokenPlugin] = {}


def known() -> list[Component]:
    """All components that have been read or registered so far."""
    return list(_components.values())


def mark_broken(plugin: BrokenPlugin) -> BrokenPlugin:
    """Remember a plug-in that cannot be used; the first reason found stays."""
    return _broken.setdefault((plugin.name, plugin.module), plugin)


def broken_plugins() -> list[BrokenPlugin]:
    """The plug-ins that could not be read, or failed when they were imported, so far."""
    return [_broken[key] for key in sorted(_broken)]


def add(component: Component) -> None:
    """Put a component on the table; the same one twice is no matter.

    Raises InputError for an unknown kind, a malformed name, version or deprecation, a name and
    version of another module's, a name of another kind's or another package's, and one of ours
    whose card is not complete.
    """
    _check_form(component)
    others = [other for other in _components.values() if other.name == component.name]
    same = next((other for other in others if other.version == component.version), None)
    if same is not None:
        if (same.module, same.function) == (component.module, component.function):
            # A program may have imported a plug-in before anybody asked who brought it.
            if component.plugin is not None:
                _components[component.ref] = component
            return
        raise InputError(
            f"{component.ref} is registered already, by {same.module}.{same.function}; "
            "choose another name, or the next version"
        )
    for other in others:
        if other.kind != component.kind:
            raise InputError(
                f"the name {component.name!r} belongs to a component of kind {other.kind}; names "
                "are unique across kinds"
            )
        owner, top = (each.module.partition(".")[0] for each in (other, component))
        if owner != top:
            raise InputError(
                f"the name {component.name!r} belongs to {owner}, and {top} cannot give it a "
                "version; choose another name"
            )
    if component.ours and (lacks := component.card.missing(component.kind, component.parameters)):
        raise InputError(f"the card of {component.ref} lacks {', '.join(lacks)}")
    _components[component.ref] = component


def adopt(component: Component, factory: Callable[..., Any]) -> None:
    """Put a component on the table together with its factory.

    Raises InputError where `add` does, and for a name and version that has a factory.
    """
    if component.ref in _factories:
        raise InputError(f"{component.ref} is registered already; choose the next version")
    add(component)
    _factories[component.ref] = factory


def _check_form(component: Component) -> None:
    name, version, deprecated = component.name, component.version, component.deprecated
    if component.kind not in SHELVES:
        kind = component.kind
        raise InputError(f"register: unknown kind {kind!r}; {nearest(kind, SHELVES)}")
    if isinstance(version, str):
        return  # another library's: its names are its own
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or version < 1:
        raise InputError(
            f"register: {name!r} version {version}: a name is lower-case letters, digits and _, "
            "a version counts from 1"
        )
    if deprecated is not None and not re.fullmatch(r"use \S.*; goes in \d\S*", deprecated):
        raise InputError(
            f"register: deprecated={deprecated!r}: should say what to use and in which release it "
            "goes: 'use adamw; goes in 1.0'"
        )
