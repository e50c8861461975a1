"""Plug-ins: found by their entry points, read without being imported, broken ones kept apart."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rheostat.core.errors import InputError
from rheostat.core.plugins import import_plugin, typed_plugins
from rheostat.core.sources import files_of, registrations

GOOD = '''
import rheostat as rs
from rheostat.core.hyper import NonNegative

@rs.register("optimizer", "{name}", version={version})
def {name}(lr: NonNegative = 0.1) -> rs.Transform:
    """Plain descent, by a stranger."""
    return rs.Transform(lambda u, s, p, h: u)
'''


def _install(site: Path, distribution: str, points: dict[str, str], files: dict[str, str]) -> None:
    """What pip leaves behind: the modules, and the folder that announces them."""
    info = site / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = "\n".join(f"{name} = {module}" for name, module in points.items())
    (info / "entry_points.txt").write_text(f"[rheostat.components]\n{lines}\n")
    for name, source in files.items():
        path = site / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))


def _python(site: Path, code: str) -> str:
    """What the code prints in a process that has the site on its path."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(site), "PATH": "", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_plugin_is_read_and_imported_only_when_it_is_made(tmp_path: Path) -> None:
    source = GOOD.format(name="stranger", version=3)
    _install(
        tmp_path,
        "strange-things",
        {"stranger": "strange.rules.first:stranger"},
        {"strange/__init__": "", "strange/rules/__init__": "", "strange/rules/first": source},
    )
    said = _python(
        tmp_path,
        """
        import sys
        from rheostat.core.registry import component, components
        component("adamw")
        assert "importlib.metadata" not in sys.modules, "nobody asked for a plug-in"
        (found,) = components("optimizer", "stran*")
        assert "strange" not in sys.modules, "the parents of a module are not imported either"
        assert found.card.summary == "Plain descent, by a stranger."
        print(found.ref, found.plugin)
        print(found.factory(lr=0.5).hyperparameters["lr"], "strange.rules.first" in sys.modules)
        """,
    )
    assert said.splitlines() == ["stranger@3 strange-things", "0.5 True"]


def test_the_files_of_a_package_are_its_components(tmp_path: Path) -> None:
    one, two = (GOOD.format(name=f"rule_{i}", version=1) for i in (1, 2))
    files = {"rules/__init__": "", "rules/a": one, "rules/b": two}
    _install(tmp_path, "rules", {"rules": "rules"}, files)
    code = "from rheostat.core.registry import component; print(component('rule_2').module)"
    assert _python(tmp_path, code).strip() == "rules.b"


def test_who_brought_it_is_known_though_a_program_imported_it_first(tmp_path: Path) -> None:
    _install(
        tmp_path, "dist-first", {"first": "first"}, {"first": GOOD.format(name="first", version=1)}
    )
    code = """
    import first
    from rheostat.core.registry import components
    (found,) = components("optimizer", "first")
    print(found.plugin, found.factory is first.first)
    """
    assert _python(tmp_path, code).split() == ["dist-first", "True"]


def test_what_cannot_be_read_is_imported(tmp_path: Path) -> None:
    loop = """
    import rheostat as rs
    for name in ("made_1", "made_2"):
        def factory() -> rs.Transform:
            return rs.Transform(lambda u, s, p, h: u)
        factory.__qualname__ = name
        rs.register("transform", name)(factory)
    """
    _install(tmp_path, "loops", {"loops": "loops"}, {"loops": loop})
    code = "from rheostat.core.registry import components; print(len(components(None, 'made*')))"
    assert _python(tmp_path, code).strip() == "2"


BROKEN = {
    "absent": "no_such_module",
    "needy": "needy",
    "bad_syntax": "bad_syntax",
    "thief": "thief",
    "usurper": "usurper",
    "empty": "empty",
    "leaver": "leaver",
    "liar": "liar",
    "quoted": '"quoted_module"',
}


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    sources = {
        "needy": "import no_such_library\n" + GOOD.format(name="needy", version=1),
        "bad_syntax": "@register(",
        "thief": GOOD.format(name="adamw", version=1),
        "usurper": GOOD.format(name="adamw", version=9),
        "empty": "",
        "leaver": "raise SystemExit(7)",
        "liar": GOOD.format(name="liar", version=1).replace(
            "@rs.", "register = lambda *a, **k: (lambda f: f)\n@"
        ),
        "fine": GOOD.format(name="fine", version=1),
    }
    for name, module in BROKEN.items():
        source = {name: sources[name]} if name in sources else {}
        _install(site, f"dist-{name}", {name: module}, source)
    _install(site, "dist-fine", {"fine": "fine"}, {"fine": sources["fine"]})
    return site


def _list(site: Path, *options: str) -> list[dict[str, str]]:
    code = (
        f"import sys; sys.argv[1:] = ['list', '--json', *{options!r}]; "
        "from rheostat.cli.__main__ import main; main()"
    )
    return json.loads(_python(site, code))


def test_what_is_broken_is_listed_with_its_reason_and_stops_nobody(broken: Path) -> None:
    rows = _list(broken)
    names = {row["name"] for row in rows if not row["broken"]}
    assert {"adamw", "fine"} <= names
    reasons = {row["name"]: row["broken"] for row in rows if row["broken"]}
    assert set(reasons) == set(BROKEN)
    for name, said in {
        "absent": "there is no module 'no_such_module'",
        "quoted": "there is no module '\"quoted_module\"'",
        "needy": "ModuleNotFoundError: No module named 'no_such_library'",
        "bad_syntax": "line 1: '(' was never closed",
        "thief": "adamw@1 is registered already, by rheostat.optimizers.adamw",
        "usurper": "the name 'adamw' belongs to rheostat, and usurper cannot give it a version",
        "empty": "empty registers no component",
        "leaver": "SystemExit: 7",
        "liar": "importing liar does not register it",
    }.items():
        assert said in reasons[name], name
        assert "\n" not in reasons[name]


def test_no_plugins_leaves_them_out(broken: Path) -> None:
    rows = _list(broken, "--no-plugins")
    assert not [row for row in rows if row["broken"] or row["plugin"]]
    assert "fine" not in {row["name"] for row in rows}


def test_a_broken_one_says_so_when_it_is_asked_for(broken: Path) -> None:
    said = _python(
        broken,
        """
        from rheostat.core.errors import InputError, MachineError
        from rheostat.core.registry import component
        assert component("adamw").module == "rheostat.optimizers.adamw"
        try:
            component("needy").factory()
        except MachineError as error:
            print(error)
        try:
            component("empty")
        except InputError as error:
            print(error)
        """,
    )
    needy, empty = said.splitlines()
    assert needy.startswith("needy@1 of the plug-in dist-needy is broken: ModuleNotFoundError")
    assert empty == "empty is broken (dist-empty): empty registers no component"


@pytest.mark.usefixtures("_table_as_it_was")
def test_a_module_that_a_person_names(tmp_path: Path) -> None:
    (tmp_path / "my_own_rule.py").write_text(GOOD.format(name="my_own_rule", version=1))
    import_plugin("my_own_rule")
    assert typed_plugins()[-1] == "my_own_rule"
    (tmp_path / "my_empty_module.py").write_text("")
    with pytest.raises(InputError, match="'my_empty_module' registers no component"):
        import_plugin("my_empty_module")
    with pytest.raises(InputError, match="ModuleNotFoundError: No module named 'my_absent'"):
        import_plugin("my_absent")
    with pytest.raises(InputError, match="a module's name, not a file's; give 'my_own_rule'"):
        import_plugin("my_own_rule.py")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("@register('optimizer', NAME)\ndef f(): ...", "line 1: the arguments of register should"),
        ("@register('optimizer')\ndef f(): ...", "should be literals"),
        ("@register(\ndef f(): ...", "line 1"),
    ],
)
def test_registrations_that_cannot_be_read(tmp_path: Path, source: str, said: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(source)
    with pytest.raises(InputError, match=said):
        registrations("module", path)


def test_files_of_a_package_are_found_without_importing_it() -> None:
    found = dict(files_of("rheostat.optimizers"))
    assert found["rheostat.optimizers.adamw"].name == "adamw.py"
    with pytest.raises(InputError, match=r"there is no module 'rheostat\.no\.such'"):
        list(files_of("rheostat.no.such"))
