"""Numbers out of range, however they come into a param group."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.core.errors import InputError
from rheostat.optimizers.loop import Optimizer

WRONG: list[tuple[str, Any, str]] = [
    ("lr", -1.0, "lr=-1.0: should be greater than or equal to 0"),
    ("lr", math.nan, "lr=nan: should be finite"),
    ("lr", torch.tensor(-1.0), "lr=-1.0: should be greater than or equal to 0"),
    ("lr", torch.ones(2), "lr: should be one number, not 2"),
    ("lr_factor", -1.0, "lr_factor=-1.0: should be greater than or equal to 0"),
    ("betas", (0.9, 2.0), r"betas\.1=2.0: should be less than 1"),
    ("seed", "a", "seed='a': should be a whole number"),
    ("maximize", "yes", "maximize='yes': should be a boolean"),
]


def _made(**options: Any) -> tuple[Optimizer, nn.Parameter]:
    param = nn.Parameter(torch.ones(2))
    param.grad = torch.ones(2)
    return rs.optimizer("adamw", [param], **options), param


@pytest.mark.parametrize(("key", "value", "said"), WRONG)
def test_out_of_range(key: str, value: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        rs.optimizer("adamw", [{"params": [nn.Parameter(torch.ones(2))], key: value}])
    if key != "lr_factor":
        with pytest.raises(InputError, match=said):
            _made(**{key: value})
    optimizer, param = _made()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["param_groups"][0][key] = value
    with pytest.raises(InputError, match=f"group 0 of the saved state: {said}"):
        optimizer.load_state_dict(saved)
    for _ in range(2):
        optimizer.param_groups[0][key] = value
        with pytest.raises(InputError, match=f"param group 0: {said}"):
            optimizer.step()
    assert param.tolist() == [1.0, 1.0]


def test_numbers_in_their_range_may_be_written() -> None:
    optimizer, _ = _made()
    new = {"lr": torch.tensor(0.5), "betas": [0.5, 0.5], "weight_decay": 0, "maximize": True}
    optimizer.param_groups[0].update(new)
    optimizer.step()
    assert optimizer.last_step is not None
    assert optimizer.last_step.applied


def test_a_schedule_that_is_written_is_refused() -> None:
    optimizer, _ = _made()
    optimizer.param_groups[0]["betas"] = (rs.schedules.constant(0.5), 0.9)
    with pytest.raises(InputError, match="schedules are given when the optimizer is made"):
        optimizer.step()
