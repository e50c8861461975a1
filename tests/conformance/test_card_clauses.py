"""The clauses about cards and scopes can fail: each finds its planted fault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from tests.references.table import strangers_gone
from torch import Tensor

import rheostat as rs
from rheostat.conformance import card, scope
from rheostat.conformance.check import examine
from rheostat.conformance.subject import Subject
from rheostat.core.component import Component, adopt
from rheostat.core.hyper import NonNegative
from rheostat.core.transform import Buffer, Hyper, State, Transform, Update
from rheostat.optimizers import cpp


def _found(clause: object, component: Component) -> str:
    finding = examine(Subject(component), clause)
    return finding.found if finding.outcome == "broken" else finding.outcome


def test_a_wrong_state_line_is_found() -> None:
    adamw = rs.component("adamw")
    assert _found(card.state_as_stated, adamw) == "holds"
    wrong = replace(adamw, doc=adamw.doc.replace("8*m*n bytes", "4*m*n bytes"))
    assert "the card says 6336 bytes of state, it is 12672" in _found(card.state_as_stated, wrong)


def _registered(name: str, rule: Transform) -> Component:
    def factory(lr: NonNegative = 0.1) -> Transform:
        return rule

    component = Component("optimizer", name, 1, __name__, name, "A fault.", ("lr",))
    adopt(component, factory)
    return component


@pytest.fixture(autouse=True)
def _table_as_it_was() -> Iterator[None]:
    with strangers_gone():
        yield


def test_a_sum_in_a_rule_that_claims_elements_is_found() -> None:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u * torch.get_num_threads()  # what a sum does in its last bits, only louder

    found = _registered("test_threaded", Transform(update, scope="element"))
    assert _found(card.threads, found) == "two threads gave other weights than one"
    honest = _registered("test_whole", Transform(update))
    assert _found(card.threads, honest) == "not applicable"


def test_a_rule_that_claims_sparse_gradients_and_fails_on_them_is_found() -> None:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return state["exp_avg"].lerp_(u, 0.1).clone()  # torch has no sparse lerp

    rule = Transform(update, buffers={"exp_avg": Buffer()}, scope="element", sparse=True)
    assert _found(card.takes_as_stated, _registered("test_sparse", rule)) not in ("holds", "")


def test_a_norm_in_a_rule_that_claims_elements_is_found() -> None:
    def update(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u / (u.norm() + 1e-8)

    lie = _registered("test_norm", Transform(update, scope="element"))
    assert "another element's gradient changes the update" in _found(scope.elements_apart, lie)
    assert "otherwise where there are others" in _found(scope.alone_or_not, lie)
    honest = _registered("test_honest", Transform(update))
    assert _found(scope.elements_apart, honest) == "not applicable"
    assert _found(scope.alone_or_not, honest) == "holds"


def test_a_rule_that_is_compiled_wrongly_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def miscompiled(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u / (u.abs().sqrt() + 0.125)  # programs are kept: nobody else has this one

    def sound(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
        return u / (u.square().sqrt() + 0.125)

    def outcome(name: str, update: Update) -> str:
        rule = Transform(update, scope="element")
        return _found(scope.compiled_as_eager, _registered(name, rule))

    monkeypatch.setattr(cpp, "HEAD", cpp.HEAD.replace("__builtin_sqrtf(x)", "x"))
    assert "off when it is compiled" in outcome("test_miscompiled", miscompiled)
    monkeypatch.undo()
    assert outcome("test_sound", sound) == "holds"
    monkeypatch.setattr(scope, "compiler_at_hand", lambda: False)
    assert outcome("test_uncompiled", sound) == "not applicable"
