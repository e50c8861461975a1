"""Numbers that live on a device compute as plain ones do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rheostat.optimizers.numbers import Number


def test_a_number_computes_as_a_plain_one(on_cpu: None) -> None:
    memo: dict[Any, Any] = {}
    three, half = (Number(torch.tensor(v, dtype=torch.float64), memo) for v in (3.0, 0.5))
    pairs: list[tuple[Any, float]] = [
        (1 - half**three, 1 - 0.5**3),
        (-three % 2, 1.0),
        (abs(half - three) // 2, 1.0),
        (0.0 ** (three - 3), 1.0),
        ((three > 1) * 2 + (three == 4), 2.0),
        (2 / three, 2 / 3),
    ]
    for number, plain in pairs:
        assert float(number) == pytest.approx(plain, rel=1e-15)
    assert (1 - half) is (1 - half)
    u = torch.tensor([1.0, 2.0])
    v = torch.tensor([5.0, 7.0])
    assert (u * half).dtype is torch.float32
    for act in (
        lambda h: u.lerp(v, h),
        lambda h: u.clone().addcmul_(v, v, value=h),
        lambda h: u.addcdiv(u, v, value=1 - h),
        lambda h: u.clone().add_(v, alpha=h),
        lambda h: u.sub(v, alpha=h),
        lambda h: u.clamp(-h, h),
        lambda h: h / u,
        lambda h: torch.where(u > 1, h, u),
        lambda h: u**h,
        lambda h: u.bfloat16().lerp(v.bfloat16(), h),
    ):
        torch.testing.assert_close(act(half), act(0.5), rtol=1e-6, atol=0)
    assert three
    with pytest.raises(TypeError, match="addr takes no number"):
        u.addr(u, v, alpha=half)
