"""The registry: found without importing, unique, checked against the signature."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rheostat.core.errors import InputError
from rheostat.core.hyper import NonNegative
from rheostat.core.registry import component, components, register
from rheostat.core.transform import Transform
from rheostat.recipes.recipe import Recipe

pytestmark = pytest.mark.usefixtures("_table_as_it_was")


def test_listing_imports_neither_torch_nor_the_components() -> None:
    code = (
        "import sys; from rheostat.core.registry import components; found = components();"
        "assert {c.name for c in found} >= {'adamw', 'sgd', 'cosine', 'digits_mlp'};"
        "assert 'torch' not in sys.modules, 'listing imported torch';"
        "assert 'rheostat.optimizers.adamw' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_means_its_newest_version() -> None:
    @register("transform", "test_newest", version=1)
    def first() -> Transform:
        return Transform(lambda u, s, p, h: u)

    @register("transform", "test_newest", version=2)
    def second() -> Transform:
        return Transform(lambda u, s, p, h: -u)

    assert component("test_newest").version == 2
    assert component("test_newest@1").version == 1
    assert first() is not second()


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("optimizer", "adamw", "registered already"),
        ("schedule", "adamw", "registered already"),
        ("optimiser", "thing", "did you mean 'optimizer'"),
        ("optimizer", "Thing", "lower-case"),
    ],
)
def test_bad_registrations_are_refused(kind: str, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):

        @register(kind, name)
        def factory() -> Transform:  # pyright: ignore[reportUnusedFunction]
            return Transform(lambda u, s, p, h: u)


def test_names_are_unique_across_kinds() -> None:
    with pytest.raises(InputError, match="belongs to a component of kind optimizer"):

        @register("schedule", "adamw", version=7)
        def factory() -> Transform:  # pyright: ignore[reportUnusedFunction]
            return Transform(lambda u, s, p, h: u)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'adamw'"):
        component("adamww", "optimizer")
    with pytest.raises(InputError, match="there is adamw@1"):
        component("adamw@9")
    with pytest.raises(InputError, match="is of kind schedule, not optimizer"):
        component("cosine", "optimizer")
    with pytest.raises(InputError, match="unknown kind 'optimizr'; did you mean 'optimizer'"):
        components("optimizr")


def test_arguments_are_checked_before_the_body_runs() -> None:
    ran: list[float] = []

    @register("transform", "test_checked")
    def factory(rate: NonNegative = 1.0, nesterov: bool = False) -> Transform:
        ran.append(rate)
        return Transform(lambda u, s, p, h: u)

    for bad, message in [
        ({"rate": -1.0}, "greater than or equal to 0"),
        ({"rate": float("inf")}, "finite"),
        ({"rate": True}, "should be a number"),
        ({"rate": "0.1"}, "not text"),
        ({"raet": 1.0}, "did you mean 'rate'"),
        ({"nesterov": 3}, "boolean|bool"),
    ]:
        with pytest.raises(InputError, match=message):
            factory(**bad)
    assert ran == []
    made = factory(2)
    assert ran == [2.0]
    assert made.origin is not None
    assert made.origin.component == "test_checked@1"
    assert dict(made.hyperparameters) == {"rate": 2.0}


def test_a_parameter_without_annotation_is_refused() -> None:
    @register("transform", "test_bare")
    def factory(rate=1.0) -> Transform:
        return Transform(lambda u, s, p, h: u)

    with pytest.raises(InputError, match="'rate' has no annotation"):
        factory()


def test_a_name_belongs_to_the_package_that_registered_it() -> None:
    with pytest.raises(InputError, match="the name 'adamw' belongs to rheostat, and tests"):

        @register("optimizer", "adamw", version=2)
        def factory() -> Transform:  # pyright: ignore[reportUnusedFunction]
            return Transform(lambda u, s, p, h: u)

    assert component("adamw").ours


def test_a_deprecated_component_warns_with_its_replacement_and_its_term() -> None:
    @register("transform", "test_deprecated", deprecated="use trace; goes in 1.0")
    def factory() -> Transform:
        return Transform(lambda u, s, p, h: u)

    said = "test_deprecated@1 is deprecated: use trace; goes in 1.0"
    with pytest.warns(FutureWarning, match=said):
        factory()
    with pytest.warns(FutureWarning, match=said) as caught:
        Recipe.load({"chain": ["test_deprecated"]})
    # The line that it is about is the user's, however deep in the library it is made.
    assert {warning.filename for warning in caught} == {__file__}
    assert component("test_deprecated").deprecated == "use trace; goes in 1.0"
    for text in ("old", "use trace", "goes in 1.0", "use trace; goes in summer"):
        with pytest.raises(InputError, match="what to use and in which release it goes"):
            register("transform", "test_badly_deprecated", deprecated=text)(lambda: None)


def test_a_hyphen_in_a_pattern_matches_an_underscore() -> None:
    assert components("optimizer", "schedule-free-*") == components("optimizer", "schedule_free_*")
    assert len(components("optimizer", "schedule-free-*")) == 3
    ranged = [c.name for c in components("optimizer", "[a-b]dam*")]
    assert "adamw" in ranged


def test_a_room_offers_the_components_of_its_kind() -> None:
    from rheostat import schedules

    assert "cosine" in dir(schedules)
    assert schedules.cosine(0.1, steps=10)(0) == 0.1
    with pytest.raises(AttributeError, match="no schedule is named 'cosin'; did you mean 'cosine'"):
        _ = schedules.cosin
    with pytest.raises(AttributeError):
        _ = schedules.adamw


def test_code_without_a_module_may_register() -> None:
    code = """
from rheostat.core.registry import register
from rheostat.core.transform import Transform, identity

@register("optimizer", "test_from_exec")
def from_exec() -> Transform:
    return Transform(identity)
"""
    exec(code, {})
    assert component("test_from_exec").factory().name == "test_from_exec"
    assert not component("test_from_exec").ours
