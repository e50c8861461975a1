"""Products of matrices in bfloat16, on processors that have none as well.

Where a processor cannot multiply bfloat16, torch does so by itself, some thirty times slower than
in float32. There the numbers are multiplied as float32 and the result is rounded: what torch's way
computes too, but for the order in which it adds.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor


@functools.cache
def processor_lacks_bfloat16() -> bool:
    """Whether the CPU cannot multiply bfloat16, as far as torch knows."""
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return known is None or not known()


def multiply(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a b, rounded to their dtype, into `out` where it is given."""
    if not _widened(a):
        return torch.matmul(a, b, out=out)
    product = a.float() @ b.float()
    return product.to(a.dtype) if out is None else out.copy_(product)


def multiply_and_add(
    c: Tensor, a: Tensor, b: Tensor, out: Tensor, beta: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """beta · c + alpha · a b into `out`, rounded to its dtype."""
    if not _widened(a):
        return torch.addmm(c, a, b, beta=beta, alpha=alpha, out=out)
    return out.copy_(torch.addmm(c.float(), a.float(), b.float(), beta=beta, alpha=alpha))


def _widened(a: Tensor) -> bool:
    on_cpu = a.dtype is torch.bfloat16 and a.device.type == "cpu"
    return on_cpu and processor_lacks_bfloat16()
