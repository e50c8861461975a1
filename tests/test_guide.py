"""The guide's pages run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from rheostat.conformance.check import check

ACCELERATORS = Path(__file__).parent.parent / "docs" / "guide" / "accelerators.md"
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
