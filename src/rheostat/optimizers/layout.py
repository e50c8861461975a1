"""How tensors lie, asked of all of them at once.

Kernels take addresses, and believe what was seen when they were chosen. A user or a framework may
put another tensor into a state, or other memory behind a tensor, between any two steps.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from torch import Tensor
from torch._C._dynamo.guards import TensorGuards

from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer

if TYPE_CHECKING:
    from rheostat.optimizers.items import Held

_ANEW = "make the optimizer anew, or give the new parameter to add_param_group"


class Alike:
    """Whether tensors are of the types, dtypes, devices, sizes and strides of these.

    torch's compiler asks the same before it runs what it has made for tensors: one call is several
    times faster than a question to each. False too where one has no strides, or is there twice.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._guards = None
        try:
            sizes: list[Any] = [list(one.shape) for one in tensors]
            strides: list[Any] = [list(one.stride()) for one in tensors]
        except RuntimeError:  # sparse by rows or columns
            return
        self._guards = TensorGuards(
            *tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides
        )

    def __call__(self, tensors: Sequence[Tensor]) -> bool:
        """As many tensors, in the same order."""
        return self._guards is not None and self._guards.check(*tensors)

    def __reduce__(self) -> tuple[type[Alike], tuple[list[Tensor]]]:
        """A copy knows of no tensor."""
        return Alike, ([],)


class Layout:
    """How parameters and their buffers lie.

    Args:
        held: the parameters; only those with a state are looked at.
        buffers: of each, by name.
    """

    def __init__(self, held: Sequence[Held], buffers: Sequence[Mapping[str, Buffer]]) -> None:
        own = [
            (one, name, buffer)
            for one, named in zip(held, buffers, strict=True)
            if one.state
            for name, buffer in named.items()
        ]
        self._own = own
        self._states = [one.state for one, _, _ in own]
        self._names = [name for _, name, _ in own]
        self._buffers = [one.state[name] for one, name, _ in own]
        self._dtypes = [buffer.dtype for buffer in self._buffers]
        self._tensors = [*(one.param for one in held), *self._buffers]
        self._alike = Alike(self._tensors)

    def holds(self) -> bool:
        """Whether these very tensors lie as they did."""
        # By what is built in: a loop over the buffers takes several times as long.
        same = all(map(operator.is_, self._found(), self._buffers))
        return same and self._alike(self._tensors)

    def check(self) -> None:
        """Refuse a buffer whose dtype is neither what it was nor what it was declared with. Raises
        InputError."""
        looked_at = zip(self._own, self._found(), self._dtypes, strict=True)
        for (one, name, buffer), found, then in looked_at:
            if not isinstance(found, Tensor):  # `check_buffers` has the words
                continue
            if found.dtype in (then, buffer.dtype_for(one.param)):
                continue
            now, was = (str(dtype).removeprefix("torch.") for dtype in (found.dtype, then))
            raise InputError(
                f"{one.name}: its state {name!r} was {was} and is {now}; put it back as {was}, or "
                "make the optimizer anew"
            )

    def _found(self) -> list[Tensor | None]:
        return [*map(cast("Any", dict.get), self._states, self._names)]


def is_dense(tensor: Tensor) -> bool:
    """Whether its memory holds its numbers, each once, and nothing else: without holes or overlap,
    in whatever order, and with no sign that is still to be changed."""
    if tensor.is_neg() or tensor.is_conj():
        return False
    reach = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and stride != reach:
            return tensor.numel() == 0
        reach *= size
    return True


def is_lazy(tensor: Tensor) -> bool:
    """Whether `resolved` may give another tensor."""
    return tensor.is_sparse or tensor.is_neg() or tensor.is_conj()


def resolved(tensor: Tensor) -> Tensor:
    """The tensor with its numbers in its memory: torch negates and conjugates views in name only,
    until somebody looks, and a sparse one may hold a place several times, whose sum it is."""
    if tensor.is_sparse:
        return tensor.coalesce()
    return tensor.resolve_conj().resolve_neg()


def check_buffers(
    name: str, param: Tensor, state: Mapping[str, Tensor], buffers: Mapping[str, Buffer]
) -> None:
    """Refuse a state that was made for a parameter of another shape or on another device, or is
    not whole. Raises InputError."""
    if param.is_complex():  # refused by name where a rule needs its shape; else pairs of reals
        return
    for key, buffer in buffers.items():
        if key not in state:
            raise InputError(
                f"{name}: its state {key!r} was taken away; put it back, or make the optimizer anew"
            )
        if not isinstance(cast("object", state[key]), Tensor):
            raise InputError(
                f"{name}: its state {key!r} is {state[key]!r}; put a tensor of shape "
                f"{buffer.shape(param)} there, or make the optimizer anew"
            )
        found, wanted = tuple(state[key].shape), buffer.shape(param)
        if found != wanted:
            raise InputError(
                f"{name} has shape {tuple(param.shape)}, and its state {key!r} {found}, which "
                f"should be {wanted}; {_ANEW}"
            )
        if state[key].device != param.device:
            raise InputError(
                f"{name} is on {param.device}, and its state {key!r} on {state[key].device}; move "
                "the model, and then make the optimizer"
            )


def check_gradients(held: Sequence[Held], gradients: Sequence[Tensor]) -> None:
    """Refuse a gradient that was made for another number of elements than its parameter has now.
    Raises InputError."""
    for one, gradient in zip(held, gradients, strict=True):
        if gradient.numel() != one.param.numel():
            raise InputError(
                f"{one.name} has shape {tuple(one.param.shape)}, and its gradient "
                f"{tuple(gradient.shape)}; let backward() make it for the parameter as it is"
            )
