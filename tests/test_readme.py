"""The README's examples run as they stand, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import torch

import rheostat as rs

README = Path(__file__).parent.parent / "README.md"


def test_the_python_examples_run_in_order_and_do_what_they_say() -> None:
    torch.manual_seed(0)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    exec(blocks[0], names)
    model, x = names["model"], names["x"]
    assert isinstance(model, torch.nn.Linear)
    assert isinstance(x, torch.Tensor)
    error = (model(x) - x.sum(1, keepdim=True)).square().mean().item()
    assert error < 1e-2, "two hundred updates solve a linear problem"
    for block in blocks[1:]:
        exec(block, names)
    assert names["result"] == rs.StepResult(
        applied=True,
        step=1,
        grad_norm=names["result"].grad_norm,
    )
    assert (Path("runs") / "a" / "events.jsonl").exists()
    assert len(blocks[0].strip().splitlines()) <= 10
