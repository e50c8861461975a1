"""The guide's pages run as they stand."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import torch

import rheostat as rs
from rheostat.conformance.check import check

ACCELERATORS = Path(__file__).parent.parent / "docs" / "guide" / "accelerators.md"
EDGES = Path(__file__).parent.parent / "docs" / "guide" / "edge-cases.md"
PAGE = Path(__file__).parent.parent / "docs" / "guide" / "your-own-optimizer.md"


def test_your_own_optimizer_goes_from_formula_to_conformance() -> None:
    torch.manual_seed(0)
    text = PAGE.read_text(encoding="utf-8")
    rule, use, examine = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {"__name__": "your_own_optimizer"}
    exec(rule, names)
    exec(use, names)
    model, x = names["model"], names["x"]
    assert isinstance(model, torch.nn.Linear)
    assert isinstance(x, torch.Tensor)
    assert (model(x) - x.sum(1, keepdim=True)).square().mean().item() < 1e-2
    findings = check("absolute_mean")
    assert [f for f in findings if f.outcome != "holds"] == []
    exec(examine, names)
    code = [line for line in rule.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 25, "the page promises one short file"


def test_the_page_on_accelerators_runs_anywhere() -> None:
    (code,) = re.findall(
        r"```python\n(.*?)```", ACCELERATORS.read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict[str, object] = {"__name__": "accelerators"}
    exec(code, names)
    assert names["opt"].last_step.step == 10  # type: ignore[attr-defined]  # made by the page


def test_what_the_page_on_edge_cases_writes_into_the_copies_stays() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", EDGES.read_text(encoding="utf-8"), re.DOTALL)
    model = torch.nn.Linear(2, 2).bfloat16()
    opt = rs.optimizer("sgd", model, lr=0.5, precision="master")
    model.weight.grad = torch.zeros_like(model.weight)
    opt.step()
    with torch.no_grad():
        model.weight.fill_(3.0)
    exec(code, {"torch": torch, "opt": opt})
    opt.step()
    assert torch.equal(model.weight, torch.full_like(model.weight, 3.0))
    assert opt.state[model.weight]["master"].grad_fn is None
    copy.deepcopy(opt)
