"""The guide's pages run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from rheostat.conformance.check import check

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
