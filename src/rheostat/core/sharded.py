"""Parameters of which each process holds a part: DTensors, as FSDP2 and tensor parallelism make.

A rule that works element by element runs on the parts, as they are; what it sums is added up over
the processes (`summed`). A rule that needs the whole gets it gathered, and each process keeps its
part of the result. All of it is collective: every process must come to the same calls.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_PLAIN = frozenset((Tensor, nn.Parameter))


def any_sharded(tensors: Iterable[Tensor]) -> bool:
    """Whether one of them is a DTensor."""
    return not _PLAIN.issuperset(map(type, tensors)) and any(map(is_sharded, tensors))


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, also one that every process holds whole."""
    if type(tensor) in _PLAIN:
        return False
    # Imported by whoever made one; it takes a second, which nobody else should wait for.
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part, in the same memory; a plain tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        return _settled(tensor).to_local()


def gathered(tensor: Tensor) -> Tensor:
    """All of it, in memory of its own; a plain tensor as it is."""
    return tensor.full_tensor().detach() if is_sharded(tensor) else tensor


def part(whole: Tensor, of: Tensor) -> Tensor:
    """What this process keeps of `whole`, where it is laid out as `of` is."""
    if not is_sharded(of):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # Every process has the whole, so none needs to send.
    mesh, placements = of.device_mesh, of.placements
    return distribute_tensor(whole.detach(), mesh, placements, src_data_rank=None).to_local()


def laid_out(tensor: Tensor, of: Tensor) -> Tensor:
    """The tensor laid out as `of` is: gathered, cut into parts, or moved from one layout to
    another."""
    if not is_sharded(of):
        return gathered(tensor)
    if is_sharded(tensor) and tensor.placements == of.placements:
        return tensor
    from torch.distributed.tensor import DTensor

    mesh, placements = of.device_mesh, of.placements
    if is_sharded(tensor):
        return tensor.redistribute(placements=placements)
    shape, stride = tensor.shape, tensor.stride()
    cut = part(tensor.to(local(of).device), of)
    return DTensor.from_local(cut, mesh, placements, run_check=False, shape=shape, stride=stride)


def summed(sums: Tensor, over: Sequence[Tensor]) -> Tensor:
    """Sums over whole tensors from sums over this process's parts: a vector, one a tensor in
    `over`. What every process holds whole is counted once."""
    from torch.distributed.tensor import DTensor, Partial, Replicate

    kinds: dict[Any, list[int]] = {}
    for index, tensor in enumerate(over):
        if is_sharded(tensor):
            kinds.setdefault((tensor.device_mesh, _settled(tensor).placements), []).append(index)
    found = sums.clone()
    for (mesh, placements), places in kinds.items():
        terms = [Replicate() if p.is_replicate() else Partial() for p in placements]
        found[places] = DTensor.from_local(sums[places], mesh, terms, run_check=False).full_tensor()
    return found


def _settled(tensor: DTensor) -> DTensor:
    """With no sum still to be taken over the processes."""
    if not any(placement.is_partial() for placement in tensor.placements):
        return tensor
    from torch.distributed.tensor import Replicate

    whole = [Replicate() if p.is_partial() else p for p in tensor.placements]
    return tensor.redistribute(placements=whole)
