"""Components of other people: installed plug-ins, modules that a person names, other libraries.

A plug-in is announced by its distribution in the entry-point group `rheostat.components`; it is
read like our own files, and imported when one of its components is made. A library is one that
has a file of its name in the package `LIBRARIES`, which is imported when a key of that library is
asked for. What is broken is kept with its reason, and stops nobody.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from fnmatch import fnmatchcase
from pathlib import Path

from rheostat.core.component import BrokenPlugin, Component, add, known, mark_broken, one_line
from rheostat.core.errors import InputError, MachineError, nearest
from rheostat.core.sources import EntryPoint, Registration, entry_points, files_of, registrations

LIBRARIES = "rheostat.integrations.libraries"
"""The package whose files, named after a library each, bring that library's components."""

_typed: list[str] = []


def from_source(found: Registration, plugin: str | None = None) -> Component:
    """The component of a registration that was read."""
    return Component(
        found.kind,
        found.name,
        found.version,
        found.module,
        found.function,
        found.doc,
        found.parameters,
        found.deprecated,
        plugin,
    )


@functools.cache
def scan_plugins() -> None:
    """Read the installed plug-ins; one whose registrations cannot be read is imported."""
    for point in entry_points():
        try:
            _read(point)
        # Whatever a stranger's module raises, it stops nobody.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            mark_broken(BrokenPlugin.of(point.name, point.module, point.distribution, error))


def _read(point: EntryPoint) -> None:
    for module, path in files_of(point.module):
        for found in registrations(module, path):
            add(from_source(found, point.distribution))
    if not any(component.within(point.module) for component in known()):
        importlib.import_module(point.module)
    if not any(component.within(point.module) for component in known()):
        raise InputError(f"{point.module} registers no component")


def import_plugin(module: str) -> None:
    """Import a module that registers components: what a person typed, never what a file says.

    The working directory is searched last. Raises InputError where the module fails to import, or
    registers nothing.
    """
    if module.endswith(".py"):
        name = Path(module).stem
        raise InputError(
            f"the plug-in {module!r}: should be a module's name, not a file's; give {name!r}, in "
            "the file's folder"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        importlib.import_module(module)
    # Whatever the module raises, the person who named it gets one line about it.
    except (Exception, SystemExit) as error:  # noqa: BLE001
        raise InputError(f"the plug-in {module!r}: {one_line(error)}") from None
    if not any(component.within(module) for component in known()):
        raise InputError(f"the plug-in {module!r} registers no component")
    if module not in _typed:
        _typed.append(module)


def typed_plugins() -> tuple[str, ...]:
    """The modules that `import_plugin` has imported: another process needs them too."""
    return tuple(_typed)


def libraries(pattern: str = "*") -> list[str]:
    """The libraries whose components have keys here, and that are installed; none is imported."""
    return [
        name
        for name in _adapted()
        if fnmatchcase(name, pattern) and importlib.util.find_spec(name) is not None
    ]


@functools.cache
def _adapted() -> tuple[str, ...]:
    names = (module.rpartition(".")[2] for module, _ in files_of(LIBRARIES) if module != LIBRARIES)
    return tuple(names)


@functools.cache
def import_library(name: str) -> None:
    """Import a library, and with it its components.

    Raises:
        InputError: a library that has no keys here.
        MachineError: it is not installed, or fails to import.
    """
    if name not in _adapted():
        raise InputError(f"no library {name!r} has keys here; {nearest(name, _adapted())}")
    if name not in libraries():
        raise MachineError(f"{name} is not installed: pip install {name.replace('_', '-')}")
    try:
        importlib.import_module(f"{LIBRARIES}.{name}")
    # A library that is installed in part raises anything.
    except Exception as error:  # noqa: BLE001
        raise MachineError(f"{name} cannot be imported: {one_line(error)}") from None
