"""Products in bfloat16 on a processor that has none: as torch computes them, and rounded once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rheostat as rs
from rheostat.transforms import products
from rheostat.transforms.orthogonal import iteration, near_polar


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor without bfloat16."""
    monkeypatch.setattr(products, "processor_lacks_bfloat16", lambda: True)
    return monkeypatch


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()


def _alike(found: Tensor, exact: Tensor) -> bool:
    """Whether all but a few are the exact value, rounded: sums in another order end elsewhere where
    they fall between two numbers of bfloat16."""
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(found.double(), exact, rtol=2**-7, atol=2**-12)
    return int((found != exact.bfloat16()).sum()) <= found.numel() // 100


@pytest.mark.usefixtures("lacking")
def test_a_product_is_rounded_once() -> None:
    a, b = _drawn(40, 30), _drawn(30, 50)
    found = products.multiply(a, b)
    assert _alike(found, a.double() @ b.double())
    into = torch.empty_like(found)
    assert products.multiply(a, b, into) is into
    assert torch.equal(into, found)


@pytest.mark.usefixtures("lacking")
def test_what_is_added_is_rounded_with_it() -> None:
    a, b, c = _drawn(40, 30), _drawn(30, 50), _drawn(40, 50)
    exact = 0.5 * c.double() - 3.0 * (a.double() @ b.double())
    found = products.multiply_and_add(c, a, b, torch.empty_like(c), beta=0.5, alpha=-3.0)
    assert _alike(found, exact)
    # And where it is read itself.
    assert products.multiply_and_add(c, a, b, c, beta=0.5, alpha=-3.0) is c
    assert torch.equal(c, found)


@pytest.mark.parametrize("shape", [(64, 64), (200, 40), (40, 200), (256, 128)])
def test_either_way_is_as_near_to_the_polar_factor(
    shape: tuple[int, int], lacking: pytest.MonkeyPatch
) -> None:
    x = _drawn(*shape).float()
    exact = near_polar(x.double(), iteration("polar_express", 14), torch.float64, 1e-7)

    def distance() -> float:
        found = near_polar(x, iteration("quintic"), torch.bfloat16, 1e-7)
        return float(torch.dist(found.double(), exact)) / min(shape) ** 0.5

    widened = distance()
    lacking.setattr(products, "processor_lacks_bfloat16", lambda: False)
    assert widened == pytest.approx(distance(), rel=0.02)


class _Asked(TorchDispatchMode):
    """The types that products are asked for in."""

    def __init__(self) -> None:
        super().__init__()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.__name__.partition(".")[0] in ("mm", "addmm", "bmm"):
            self.types |= {one.dtype for one in args if isinstance(one, Tensor)}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ref", ["muon", "normuon", "scion"])
@pytest.mark.parametrize("has", [True, False])
def test_a_rule_asks_for_what_the_processor_has(
    ref: str, has: bool, lacking: pytest.MonkeyPatch
) -> None:
    lacking.setattr(products, "processor_lacks_bfloat16", lambda: not has)
    param = torch.nn.Parameter(_drawn(24, 16).float())
    opt = rs.optimizer(ref, [("hidden.weight", param)], mode="eager")
    param.grad = torch.ones_like(param)
    with _Asked() as asked:
        opt.step()
    assert asked.types == {torch.bfloat16 if has else torch.float32}
