"""The process that a fuzz runs in: mutated recipes, under an audit hook and a limit of memory.

    python fuzz_child.py SEED COUNT FOLDER

prints one line of JSON: how many were accepted and built, the slowest, and what went wrong.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import random
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from generated import good_recipe, spoilt
from torch import nn

import rheostat
from rheostat.core.errors import RheostatError
from rheostat.core.registry import components
from rheostat.recipes.formats import read_text
from rheostat.recipes.layers import open_recipe
from rheostat.recipes.recipe import Recipe, examine

TOKENS = [
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "-",
    "\n",
    " ",
    "  ",
    "'",
    '"',
    "&a ",
    "*a",
    "!!python/object",
    "#",
]
TOKENS += [
    "|",
    ">",
    "%YAML 1.1\n",
    "---\n",
    "\t",
    "\0",
    "é",
    "\ud83d".encode("utf-16", "surrogatepass").hex(),
]
TOKENS += [
    "1e999",
    ".nan",
    "-0",
    "0x" + "f" * 50,
    "9" * 400,
    "null",
    "true",
    "_target_: os.system",
    "torch",
]
TOKENS += [
    "[" * 40,
    "- " * 40,
    "a: " * 40,
    "\\UFFFFFFFF",
    "<<: ",
    "? ",
    "optimizer",
    "schedule",
    "steps: 1",
]
CODE = tuple(str(Path(file or "").parent) for file in (torch.__file__, rheostat.__file__, __file__))
"""torch reads the source of functions that it compiles."""
BOMBS = [
    "a: &a [x, x]\n"
    + "\n".join(f"{b}: &{b} [*{a}, *{a}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "[" * 100_000,
    "{a: " * 50_000,
    "- " * 100_000,
    "? " * 50_000,
    "a" * 250_000,
    "x: " + "9" * 200_000,
    "lr: [" + "1, " * 80_000 + "1]",
    "\n".join(f"k{i}: {i}" for i in range(30_000)),
    "optimizer: sgd\nlr: {schedule: cosine_restarts, peak: 1, period: 1, steps: 9000000000000}",
    "optimizer: sgd\nlr: {schedule: cosine, peak: 1, steps: 9000000000000000}",
    "optimizer: " + "a" * 200_000,
    "optimizer: sgd\n" + "lr" * 60_000 + ": 1",
    "optimizer: sgd\npolicy: [" + "{match: {}}, " * 3000 + "]",
    "chain: [" + "{transform: trace, named: a}, " * 2000 + "]",
    "optimizer: sgd\npolicy: [{match: {name: '" + "*a" * 500 + "'}}]",
    '"' + "\\u0041" * 40_000 + '"',
    "a: |\n" + "  x\n" * 60_000,
    "optimizer: ../../etc/passwd",
    "optimizer: torch.optim.SGD",
    "base: /etc/passwd",
]
TOML = ["[" * 5000, "a." * 50_000 + "a = 1", "x = " + "[" * 100_000, "[[a]]\n" * 20_000]


def mutated(rng: random.Random) -> tuple[str, str]:
    """The text of a recipe, spoilt as data, as bytes, or both, and the ending of its file."""
    recipe: Any = good_recipe(rng)
    for _ in range(rng.randrange(3)):
        recipe = spoilt(recipe, rng) if recipe else recipe
    suffix, text = rng.choice(
        [(".yaml", json.dumps), (".json", json.dumps), (".yaml", yaml), (".toml", toml)]
    )
    text = text(recipe)
    for _ in range(rng.choice([0, 0, 1, 2, 5])):
        at = rng.randrange(len(text) + 1)
        kind = rng.randrange(4)
        if kind == 0:
            text = text[:at] + rng.choice(TOKENS) + text[at:]
        elif kind == 1:
            text = text[:at] + text[at + rng.randrange(1, 9) :]
        elif kind == 2:
            text = (
                text[:at]
                + chr(rng.choice([rng.randrange(128), rng.randrange(0x800)]))
                + text[at + 1 :]
            )
        else:
            text = text[:at] + text[at : at + 20] * rng.randrange(2, 5) + text[at + 20 :]
    return text, suffix


def yaml(value: Any) -> str:
    """Plain data in block style."""
    return "".join(f"{key}: {json.dumps(part)}\n" for key, part in value.items())


def toml(value: Any) -> str:
    """The same in TOML, which has no null."""
    return "".join(f"{key} = {inline(part)}\n" for key, part in value.items())


def inline(value: Any) -> str:
    """A value of TOML on one line."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {inline(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return json.dumps(value)


def warmed_up(model: nn.Module, rng: random.Random) -> None:
    """Import and read what is imported and read once, on first use, whatever the recipe says."""
    # pydantic's when a default is first dumped, numpy's when it first looks for repeated numbers.
    for module in ("pydantic._internal._serializers", "numpy.ma"):
        importlib.import_module(module)
    for of in components():
        if of.kind != "workload":
            _ = of.factory
    Recipe.load({"optimizer": "sgd", "steps": 9, "mode": "eager"}).build(model)
    Recipe.load({"optimizer": "adamw", "policy": [{"match": {"role": "norm"}}]}).check(model)
    for text in ("a: [", "a: \0"):
        attempt(text, ".yaml", model)
    for _ in range(30):
        attempt(*mutated(rng), model)


def watched(folder: Path) -> list[str]:
    """What happens from here on that a recipe must not make happen."""
    offences: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and not str(arguments[0]).startswith((str(folder), *CODE)):
            offences.append(f"open {arguments[0]}")
        elif event == "import" and arguments[0] not in sys.modules:
            offences.append(f"import {arguments[0]}")
        elif event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "ctypes.")):
            offences.append(event)

    sys.addaudithook(watch)
    return offences


def main() -> None:
    """Run and report."""
    seed, count, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).resolve()
    warnings.simplefilter("ignore")
    rng = random.Random(seed)
    model = nn.Sequential(nn.Embedding(4, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    warmed_up(model, rng)
    gc.freeze()  # what has been imported need not be looked through again and again
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    offences = watched(folder)
    failures: list[str] = []
    slowest, accepted, built = 0.0, 0, 0
    special = [(text, ".yaml") for text in BOMBS] + [(text, ".toml") for text in TOML]
    for index in range(count + len(special)):
        text, suffix = special[index] if index < len(special) else mutated(rng)
        before = time.process_time()
        try:
            sound, made = attempt(text, suffix, model)
        except BaseException as error:  # noqa: BLE001  (whatever it is, it is the finding)
            failures.append(f"{type(error).__name__}: {error} in {text[:300]!r}")
            sound, made = False, False
        seconds = time.process_time() - before
        if seconds > 0.5:  # a collection of all that 10,000 recipes have left is nobody's fault
            before = time.process_time()
            with contextlib.suppress(BaseException):
                attempt(text, suffix, model)
            seconds = min(seconds, time.process_time() - before)
        slowest = max(slowest, seconds)
        if seconds > 1:
            failures.append(f"{seconds:.1f} s for {text[:200]!r}")
        accepted, built = accepted + sound, built + made
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start
    found = {"accepted": accepted, "built": built, "slowest": slowest, "megabytes": grown / 1024}
    print(json.dumps({**found, "failures": failures[:20], "offences": sorted(set(offences))[:20]}))


def attempt(text: str, suffix: str, model: nn.Module) -> tuple[bool, bool]:
    """Whether a text is a recipe, and whether it builds; anything but our own error is raised."""
    try:
        recipe = Recipe.load(open_recipe(read_text(text, "fuzz", suffix)))
    except RheostatError as error:
        if not str(error):
            raise ValueError("refused without a word") from None
        return False, False
    if Recipe.load(recipe.canonical()).hash != recipe.hash:
        raise ValueError("its canonical form is another recipe")
    try:
        bound = recipe if recipe.parts.horizon else recipe.bind(40)
        bound.check(model)
        examine(recipe.document, model=model)
        bound.build(model)
    except RheostatError as error:
        if not str(error):
            raise ValueError("not built without a word") from None
        return True, False
    return True, True


if __name__ == "__main__":
    main()
