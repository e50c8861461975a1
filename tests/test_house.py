"""The rules of the house that no linter checks: what an import brings, signs, pages, links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rheostat

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "rheostat"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SIGNS = [path for path in SOURCES if path.name == "__init__.py" and path.parent != PACKAGE]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

FRONT_DOOR = [
    "Buffer",
    "Hyper",
    "InputError",
    "MachineError",
    "Recipe",
    "Schedule",
    "StepResult",
    "Transform",
    "attach",
    "chain",
    "component",
    "components",
    "layerwise_groups",
    "match",
    "named",
    "optimizer",
    "policy",
    "register",
    "schedules",
    "transforms",
]
"""The names that `rs.` offers. Users, documents and checks call them: add, never take away."""

SHELVES = {
    f"{kind}s": (
        f"from rheostat.core.registry import shelf\n__getattr__, __dir__ = shelf({kind!r})"
    )
    for kind in ("schedule", "transform")
}
"""Package -> the code of its sign, for the two that are also shelves of the front door."""

TORCH_FREE = {
    "root": ["rheostat"],
    "cli": ["rheostat.cli.__main__"],
    "core": [
        f"rheostat.core.{name}"
        for name in ("durable", "errors", "lock", "preview", "registry", "schedule", "sketch")
    ],
    "checkpoint": [
        f"rheostat.checkpoint.{name}"
        for name in ("attempts", "commit", "documents", "generations", "layout", "verify")
    ],
    "lab": [
        f"rheostat.lab.{name}" for name in ("fairness", "plan", "results", "statistics", "verdict")
    ],
    **{
        room: [
            f"rheostat.{room}.{path.stem}" for path in sorted((PACKAGE / room).glob("[a-z]*.py"))
        ]
        for room in ("record", "report")
    },
}
"""Room -> those of its modules that a machine without torch can import."""


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("room", TORCH_FREE)
def test_importing_it_leaves_torch_out(room: str) -> None:
    # A process of its own: this one has torch loaded, and import-linter sees no lazy or dynamic
    # import, nor what a third package brings along.
    code = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "torch" in sys.modules:
        sys.exit(f"importing {module} loads torch")
"""
    command = [sys.executable, "-c", code, *TORCH_FREE[room]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert TORCH_FREE[room]
    assert done.returncode == 0, done.stderr


def test_the_front_door_offers_what_is_listed() -> None:
    assert sorted(rheostat.__all__) == FRONT_DOOR
    assert set(FRONT_DOOR) <= set(dir(rheostat))
    for name in FRONT_DOOR:
        assert getattr(rheostat, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = rheostat.no_such_name


def test_every_package_has_a_sign() -> None:
    folders = {path.parent for path in SOURCES}
    assert folders == {sign.parent for sign in SIGNS} | {PACKAGE}
    assert ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text("utf-8")))


@pytest.mark.parametrize("sign", SIGNS, ids=_name)
def test_a_sign_is_a_docstring_and_nothing_else(sign: Path) -> None:
    # A re-export would give one thing two addresses. What `rs.schedules` and `rs.transforms` offer
    # comes from the registry, when it is asked for.
    tree = ast.parse(sign.read_text("utf-8"))
    assert ast.get_docstring(tree), "says what lives here, and what to copy to add one"
    expected = ast.parse(SHELVES.get(sign.parent.name, ""))
    assert ast.unparse(tree.body[1:]) == ast.unparse(expected.body)


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_no_file_is_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400, "look for the second idea in it"


def test_licence_and_type_marker_are_there() -> None:
    licence = (ROOT / "LICENSE").read_text("utf-8")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "The Rheostat authors" in licence
    assert (PACKAGE / "py.typed").is_file()


def test_constraints_pin_every_dependency_exactly() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][0-9a-z.]*", pin) for pin in pins), pins
    pinned = {_normal(pin.partition("==")[0]) for pin in pins}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    asked = [line for group in groups for line in group]
    named = {_normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in asked}
    assert named - {"rheostat"} <= pinned


def _normal(name: str) -> str:
    """A distribution's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    targets += re.findall(r"^\[[^\]]+\]:\s*(\S+)", text, flags=re.MULTILINE)
    files = [t.partition("#")[0] for t in targets if not re.match(r"[a-z]+:|#", t)]
    broken = [file for file in files if not (page.parent / file).exists()]
    assert not broken
