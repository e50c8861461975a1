"""Layers: bases, overrides, and the walls around them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rheostat.core.errors import InputError
from rheostat.recipes.document import TOO_LONG, show
from rheostat.recipes.formats import read_text
from rheostat.recipes.layers import DEEPEST_BASE, open_recipe, read_overrides
from rheostat.recipes.recipe import Recipe

BASE = "optimizer: adamw\nlr: {schedule: cosine, peak: 0.1, floor: 0.01}\nclip: {global_norm: 1}\n"


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def refusal(text: str) -> str:
    with pytest.raises(InputError) as caught:
        open_recipe(write("top.yaml", text))
    return str(caught.value)


def test_a_file_over_its_base_key_by_key() -> None:
    write("base.yaml", BASE)
    path = write("top.yaml", "base: base.yaml\nlr: {peak: 0.2}\nclip: null\nweight_decay: 0\n")
    data = open_recipe(path).data
    assert data == {
        "optimizer": "adamw",
        "lr": {"schedule": "cosine", "peak": 0.2, "floor": 0.01},
        "weight_decay": 0,
    }
    assert "base" not in Recipe.load(path).canonical()


def test_another_component_replaces_the_mapping() -> None:
    write("base.yaml", BASE)
    path = write("top.yaml", "base: base.yaml\nlr: {schedule: constant, peak: 0.2}\n")
    assert open_recipe(path).data["lr"] == {"schedule": "constant", "peak": 0.2}
    same = write("top.yaml", "base: base.yaml\nlr: {schedule: cosine@1, peak: 0.2}\n")
    assert open_recipe(same).data["lr"]["floor"] == 0.01


def test_a_problem_is_told_in_the_file_where_it_stands() -> None:
    write("base.yaml", BASE.replace("floor: 0.01", "flor: 0.01"))
    path = write("top.yaml", "base: base.yaml\nlr:\n  peak: -1\n")
    with pytest.raises(InputError) as caught:
        Recipe.load(path, {"weight_decay": "x"})
    assert sorted(str(caught.value).split("\n")) == [
        '--set weight_decay: weight_decay: "x" should be a number, not text',
        "base.yaml:2:35: lr.flor: unknown key for cosine@1; did you mean 'floor'?",
        "top.yaml:3:9: lr.peak: -1 should be greater than or equal to 0",
    ]


def test_bases_of_bases_in_other_formats_and_below() -> None:
    write("sub/deep.json", '{"optimizer": "sgd", "momentum": 0.5}')
    write("sub/mid.toml", 'base = "deep.json"\nlr = 0.1\n')
    recipe = Recipe.load(write("top.yaml", "base: sub/mid.toml\nmomentum: 0.9\n"))
    said = recipe.canonical()
    assert (said["optimizer"], said["lr"], said["momentum"]) == ("sgd@1", 0.1, 0.9)


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("/etc/passwd.yaml", "without .. or a leading /"),
        ("../other.yaml", "without .. or a leading /"),
        ("sub/../../other.yaml", "without .. or a leading /"),
        ("'sub\\..\\x.yaml'", "without .. or a leading /"),
        ("passwd", "should end in .yaml, .yml, .toml, .json"),
        ("missing.yaml", "missing.yaml: no such file"),
        ("[a.yaml]", "should be the name of a file"),
        ("link.yaml", "leads out of the folder of the recipe"),
        ("away/other.yaml", "leads out of the folder of the recipe"),
        ("top.yaml", "leads back to itself"),
        ("folder.yaml", "is no regular file"),
        ("pipe.yaml", "is no regular file"),
        ("list.yaml", "and no recipe"),
    ],
)
def test_no_base_leads_anywhere_else(tmp_path: Path, base: str, told: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    os.chdir(work)
    (tmp_path / "other.yaml").write_text("optimizer: sgd")
    Path("link.yaml").symlink_to(tmp_path / "other.yaml")
    Path("away").symlink_to(tmp_path)
    Path("folder.yaml").mkdir()
    os.mkfifo("pipe.yaml")
    write("list.yaml", "[1]")
    message = refusal(f"base: {base}\n")
    assert message.startswith("top.yaml:1:7: base: ")
    assert told in message
    assert "\n" not in message


def test_cycles_and_depth_are_refused() -> None:
    write("a.yaml", "base: b.yaml")
    write("b.yaml", "base: a.yaml")
    assert "leads back to itself" in refusal("base: a.yaml")
    for index in range(DEEPEST_BASE + 1):
        write(f"n{index}.yaml", f"base: n{index + 1}.yaml")
    assert f"more than {DEEPEST_BASE} files" in refusal("base: n0.yaml")


def test_a_mapping_has_no_base() -> None:
    write("base.yaml", BASE)
    with pytest.raises(InputError, match="a base is for files"):
        Recipe.load({"base": "base.yaml"})


def test_overrides_reach_every_place() -> None:
    path = write("top.yaml", BASE + "policy:\n  - {match: {role: norm}, lr: 1}\n")
    options = ["lr.peak=3e-1", "policy.0.lr=0.5", "seed=4", "horizon.updates=9", "clip=null"]
    said = Recipe.load(path, read_overrides(options)).canonical()
    assert (said["lr"]["peak"], said["policy"][0]["lr"], said["seed"]) == (0.3, 0.5, 4)
    assert said["steps"] == 9
    assert "before" not in said
    for option, told in [
        ("policy.1.lr=2", "policy has items 0 to 0"),
        ("chain.0.momentum=2", "chain is not there, so it has no item 0"),
    ]:
        with pytest.raises(InputError, match=f"^--set {option.partition('=')[0]}: {told}$"):
            Recipe.load(path, read_overrides([option]))
    mapping = Recipe.load(
        {"optimizer": "sgd", "lr": 0.1}, {"lr": {"schedule": "constant", "peak": 1}}
    )
    assert mapping.canonical()["lr"]["schedule"] == "constant@1"
    assert Recipe.load(mapping, {"momentum": 0.5}).canonical()["momentum"] == 0.5


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("lr", "--set lr: should be KEY=VALUE, such as lr=1e-3"),
        ("=3", "--set =3: should be KEY=VALUE, such as lr=1e-3"),
        ("optimizer.x=3", '--set optimizer.x: optimizer is "adamw", no mapping'),
        ("policy.3.lr=1", "--set policy.3.lr: policy has items 0 to 0"),
        ("policy.lr=1", "--set policy.lr: policy has items 0 to 0"),
        ("lrr=1", "--set lrr: lrr: unknown key for adamw@1; did you mean 'lr'?"),
        ("lr=-1", "--set lr: lr: -1 should be greater than or equal to 0"),
        ("lr={", "--set lr={:1:2: is not valid YAML: …"),
    ],
)
def test_overrides_that_have_no_place(option: str, told: str) -> None:
    path = write("top.yaml", BASE + "policy:\n  - {match: {role: norm}, lr: 1}\n")
    with pytest.raises(InputError) as caught:
        Recipe.load(path, read_overrides([option]))
    begin, cut, _ = told.partition("…")
    assert str(caught.value).startswith(begin) if cut else str(caught.value) == told


TOML = """\
# a comment
optimizer = "sgd"
lr = {schedule = "cosine", peak = -1}
momentumm = 0.9

[clip]
globl_norm = 1.0

[[policy]]
match = {role = "norm"}
lr = 0.1

[[policy]]
match = {role = "bias"}

[policy.lr]
schedule = "cosin"
"""


def test_toml_knows_where_its_keys_stand() -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load(write("r.toml", TOML))
    assert str(caught.value).split("\n") == [
        "r.toml:3:35: lr.peak: -1 should be greater than or equal to 0",
        "r.toml:4:1: momentumm: unknown key for sgd@1; did you mean 'momentum'?",
        "r.toml:7:1: clip.globl_norm: unknown clip; did you mean 'global_norm'?",
        "r.toml:16:2: policy[1].lr: 'peak' is missing, which cosine@1 needs",
        "r.toml:17:12: policy[1].lr.schedule: no schedule is named 'cosin'; did you mean 'cosine'?",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a = ", "r.toml:1: is not valid TOML: Invalid value"),
        ("a = 1\na = 2", "r.toml:2: is not valid TOML: Cannot overwrite a value"),
        (
            "a = 2020-01-01",
            "r.toml:1:5: a: should be plain data, as a file would hold it, not a date",
        ),
        ("a = " + "9" * 5000, f"r.toml:1: {TOO_LONG}"),
        ("a = [1,\n 0x" + "f" * 5000 + "]", f"r.toml:2:2: a[1]: {TOO_LONG}"),
        ("a = " + "[" * 50_000, "r.toml: is nested deeper than 32 levels"),
        (".".join("a" * 50_000) + " = 1", "r.toml:1: is nested deeper than 32 levels"),
        ("x = {" + ".".join("a" * 50_000) + " = 1}", "r.toml:1: is nested deeper than 32 levels"),
    ],
)
def test_bad_toml_is_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.load(write("r.toml", text))
    assert str(caught.value) == told


def test_the_same_recipe_in_three_languages() -> None:
    hashes = {
        Recipe.load(write(name, text)).hash
        for name, text in [
            ("r.yaml", "optimizer: sgd\nlr: {schedule: constant, peak: 1e-1}\nsteps: 10"),
            ("r.toml", 'optimizer = "sgd"\nsteps = 10\n[lr]\nschedule = "constant"\npeak = 0.1'),
            (
                "r.json",
                '{"optimizer": "sgd", "steps": 10, "lr": {"schedule": "constant", "peak": 0.1}}',
            ),
        ]
    }
    assert len(hashes) == 1


PLACES = '''\
# a comment
optimizer = 'muon'  # another one
lr = { schedule = "cosine", peak = 0.02, "floor" = 1e-3 }
betas = [
  0.9,  # in a list ]
  { schedule = "a # no comment", peak = "}" },
]
clip.global_norm = 1
text = """a "quoted" ] text
of two lines"""

[[policy]]
match = { role = ["norm", 'bias'] }
[[policy]]
match.role = "head"
[policy.lr]
schedule = "constant"
peak = [[1, 2], [{ a = 3 }]]
'''


def test_toml_values_have_lines_and_columns() -> None:
    document = read_text(PLACES, "r.toml", ".toml")
    lines = PLACES.splitlines()

    def leaves(value: object, path: tuple[str | int, ...]) -> list[tuple[str | int, ...]]:
        if isinstance(value, dict):
            return [leaf for k, v in value.items() for leaf in leaves(v, (*path, k))]
        if isinstance(value, list):
            return [leaf for i, v in enumerate(value) for leaf in leaves(v, (*path, i))]
        return [path]

    paths = leaves(document.data, ())
    assert len(paths) == 16
    for path in paths:
        place = document.positions[path]
        value = document.get(path)
        there = lines[place.value[0] - 1][place.value[1] - 1 :]
        written = there.strip("\"'")
        assert written.startswith((str(value).splitlines()[0], "1e-3")), show(path)
        if isinstance(path[-1], str):
            key = lines[place.key[0] - 1][place.key[1] - 1 :]
            assert key.strip('"').startswith((path[-1], f"{path[-2:][0]}.")), show(path)
    assert document.where(("policy", 1, "match", "role")) == "r.toml:15:14"
    assert document.where(("policy", 1), key=True) == "r.toml:14:3"
    assert document.where(("lr",)) == "r.toml:3:6"
