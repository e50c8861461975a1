"""Cards: parsed from docstrings, complete among ours, and true where a machine can tell."""

from __future__ import annotations

import re

import pytest

from rheostat.core.card import LABELS, Card, evaluate
from rheostat.core.component import Component, add
from rheostat.core.errors import InputError
from rheostat.core.hyper import arguments_of
from rheostat.core.registry import components
from rheostat.optimizers.traits import Traits, state_bytes

DOC = """A rule that
goes on.

w ← w − lr · g.

More of it.

Variant: as published,
in two lines.
State: 8*m*n + 4 bytes for m × n, 4*min(n, 10) for n; and more.
Tags: matrix, second-order
lr: step size. Usual [1e-5, 1e-2] weight: more learns faster.
betas: rates. Usual [0.8, 0.95], [0.9, 1]: higher
 averages longer.
flag: a switch. Usual False: True is slow.
unknown: is no argument, and goes on with the line above.
"""
PARAMETERS = ("lr", "betas", "flag", "silent")


def test_a_docstring_is_taken_apart() -> None:
    card = Card.parse(DOC, PARAMETERS)
    assert card.summary == "A rule that goes on."
    assert card.computes == "w ← w − lr · g.\n\nMore of it."
    assert card.notes["Variant"] == "as published, in two lines."
    assert card.tags == ("matrix", "second-order")
    assert card.meaning("lr") == "step size."
    assert card.meaning("silent") is None
    assert card.usual("lr") == ((1e-5, 1e-2),)
    assert card.usual("betas") == ((0.8, 0.95), (0.9, 1.0))
    assert card.usual("flag") == card.usual("silent") == ()
    lr, flag = card.arguments["lr"], card.arguments["flag"]
    assert (lr.common, lr.unit, lr.trade) == ("[1e-5, 1e-2]", "weight", "more learns faster.")
    assert (flag.common, flag.unit) == ("False", "")
    assert "unknown: is no argument" in flag.trade


def test_the_state_of_a_shape() -> None:
    card = Card.parse(DOC, PARAMETERS)
    assert card.state_bytes(3, 5) == 124
    assert card.state_bytes(50) == 40
    for shape in ((), (2, 3, 4)):
        with pytest.raises(InputError, match="no line `State:`"):
            card.state_bytes(*shape)
    with pytest.raises(InputError, match="no line `State:`"):
        Card.parse("Nothing.", ()).state_bytes(3)


def test_formulas_are_arithmetic_and_nothing_else() -> None:
    assert evaluate("2*m + ceil(n/4) - min(m, n)//2", {"m": 3, "n": 5}) == 7
    for formula in (
        "__import__('os')",
        "m.real",
        "k",
        "2**9",
        "'a'",
        "[1]",
        "m if n else 1",
        "m +",
    ):
        with pytest.raises(InputError, match=r"no part of a formula|is no formula"):
            evaluate(formula, {"m": 1, "n": 1})


OURS = components()
OPTIMIZERS = [c for c in OURS if c.kind == "optimizer" and c.ours]


def test_what_a_card_lacks_is_named_one_by_one() -> None:
    whole = next(c for c in OPTIMIZERS if c.name == "adamw")
    assert whole.card.missing("optimizer", whole.parameters) == []
    for label in [label for label in LABELS if label not in ("Stability", "Worst", "Study")]:
        doc = re.sub(rf"(?m)^{label}: .*\n(?: .*\n)*", "", whole.doc)
        assert Card.parse(doc, whole.parameters).missing("optimizer", whole.parameters) == [
            f"a line `{label}:`"
        ]
    doc = re.sub(r"(?m)^lr: .*\n(?: .*\n)*", "", whole.doc)
    assert Card.parse(doc, whole.parameters).missing("optimizer", whole.parameters) == [
        "a line `lr:`"
    ]
    bare = Card.parse(whole.doc.replace("Usual [1e-5, 1e-2] weight:", ""), whole.parameters)
    assert bare.missing("optimizer", whole.parameters) == [
        "what is usual for lr, and what it trades"
    ]
    assert Card.parse("A schedule.", ("peak",)).missing("schedule", ("peak",)) == ["a line `peak:`"]
    assert Card.parse("A piece.", ("eps",)).missing("transform", ("eps",)) == ["a line `eps:`"]
    assert Card.parse("A piece.\n\neps: small.", ("eps",)).missing("transform", ("eps",)) == []
    watcher = Card.parse("A controller.\n\nlr × 2.\n\nWorst: none.\nz: limit.", ("z",))
    assert watcher.missing("controller", ("z",)) == [
        "a line `Stability:`",
        "a line `Source:`",
        "what is usual for z, and what it trades",
    ]


def test_an_incomplete_one_does_not_register_among_ours() -> None:
    bare = Component("optimizer", "test_bare_card", 1, "rheostat.optimizers.bare", "bare", "Bare.")
    with pytest.raises(InputError, match="the card of test_bare_card@1 lacks what it computes, a"):
        add(bare)


@pytest.mark.usefixtures("_table_as_it_was")
def test_a_strangers_card_may_be_bare() -> None:
    add(Component("optimizer", "test_bare_card", 1, "elsewhere.bare", "bare", "Bare."))


@pytest.mark.parametrize("component", OPTIMIZERS, ids=lambda c: c.ref)
def test_the_state_on_the_card_is_the_state_declared(component: Component) -> None:
    rule = component.factory()
    for shape in ((300, 200), (200, 300), (48, 32), (64,)):
        assert component.card.state_bytes(*shape) == state_bytes(rule, shape), shape


@pytest.mark.parametrize("component", OPTIMIZERS, ids=lambda c: c.ref)
def test_defaults_are_usual_and_every_number_has_a_range(component: Component) -> None:
    for name, argument in arguments_of(component.factory).items():
        usual = component.card.usual(name)
        if argument.number:
            assert usual, f"{name} has no usual range"
        parts = argument.default if isinstance(argument.default, tuple) else (argument.default,)
        numbers = [p for p in parts if isinstance(p, int | float) and not isinstance(p, bool)]
        if not usual or not numbers:
            continue
        assert len(usual) == len(parts), name
        for (low, high), part in zip(usual, parts, strict=True):
            assert low < high, name
            # 0 leaves a piece out, and None leaves the choice to the rule.
            assert part in (0, None) or low <= part <= high, name


def test_tags_are_of_one_vocabulary() -> None:
    known = {
        *(
            "adaptive",
            "averaging",
            "clipping",
            "factored",
            "full-batch",
            "large-batch",
            "layerwise",
        ),
        *("low-memory", "low-rank", "matrix", "momentum", "nesterov", "parameter-free"),
        *("schedule-free", "second-order", "sign", "spectral", "variance-reduction"),
    }
    assert {tag for c in OPTIMIZERS for tag in c.card.tags} == known


def test_traits_follow_from_the_rules() -> None:
    traits = {c.name: Traits.of(c) for c in OPTIMIZERS}
    assert traits["adamw"] == Traits(8, 7, True, False, True, True, False, False, False, False)
    assert traits["sgd"].sparse
    assert traits["sgd"].passes == 3
    assert {name for name, t in traits.items() if t.closure} == {"lbfgs"}
    assert {name for name, t in traits.items() if t.observes} == {"sophia"}
    whole = {"dadapt_adam": True, "prodigy": True, "lbfgs": False, "muon": False, "lamb": False}
    assert {name: traits[name].shards for name in whole} == whole
    assert {n for n, t in traits.items() if t.sparse} == {"sgd", "adagrad", "sparse_adam"}
    low = {c.name for c in OPTIMIZERS if "low-memory" in c.card.tags}
    assert all(traits[name].state_bytes <= 5 for name in low)
