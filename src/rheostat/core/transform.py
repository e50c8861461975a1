"""The Transform shape: one piece of an update rule, and `chain`.

A piece declares its buffers by name and gives one function,
`update(update, state, param, hyper) -> update`, which writes nothing but its own buffers.
The loop feeds it the gradient (or the update of the piece before it) and finally sets
``param ← param − update``. Steps count from 1 in here: `hyper.step` is the number of updates
that this parameter has received, the present one included.

Four more verbs say what `update` cannot; most pieces need none of them:

- `measure`, for what takes more than one parameter (a global norm): its results are summed over
  all parameters in the order of their names, and `update` finds the sums in `hyper.measured`;
- `after`, for what acts on the parameter once it has moved (projections, averages);
- `view`, for what is evaluated with other weights than it is trained with (averages);
- `probe` and `search`, for what needs the gradient elsewhere (SAM; L-BFGS): both take a closure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rheostat.core.clashes import check_mixture, claim, only_one
from rheostat.core.errors import InputError
from rheostat.core.reserved import refuse_reserved
from rheostat.core.schedule import Origin
from rheostat.core.sealed import Sealed


class UndeclaredError(InputError, AttributeError):
    """A piece reads a hyperparameter that its chain has not."""


class Hyper(SimpleNamespace):
    """What one piece knows beside its tensors, for one parameter in one step.

    The hyperparameters and scalars of the chain, by name (`hyper.lr`, `hyper.betas`), and:
    """

    step: float
    """Updates this parameter has received, the present one included."""
    gradient: Tensor
    """The gradient as it entered the chain."""
    measured: Mapping[str, Tensor]
    """The sums of what the piece's `measure` returned."""
    noise: Callable[[Tensor], Tensor]
    """A standard normal sample shaped like a tensor, drawn by counter from (seed, step, name)."""

    def __getattr__(self, name: str) -> Any:  # for the type checker: names come from signatures
        raise UndeclaredError(
            f"a piece reads the hyperparameter {name!r}, which no piece of its chain declares"
        )


State = Mapping[str, Tensor]
Update = Callable[[Tensor, State, Tensor, Hyper], Tensor]
Measure = Callable[[Tensor, State, Tensor, Hyper], Mapping[str, Tensor]]
Settle = Callable[[Mapping[str, Any], Hyper], Mapping[str, Any]]
"""The sums, as numbers -> new scalars; on an accelerator both stay there."""
OfParam = Callable[[Tensor, State, Hyper], Tensor]
Observe = Callable[[Tensor, State, Tensor, Hyper], None]
Evaluate = Callable[[Sequence[Tensor]], tuple[float, list[Tensor]]]
"""Displacements, one a parameter -> the closure's loss there, and the gradients."""
Search = Callable[
    [list[Tensor], list[State], list[Tensor], Hyper, Evaluate, float],
    tuple[list[Tensor], Mapping[str, float]],
]
Shape = Callable[[Tensor], tuple[int, ...]]
Scope = Literal["element", "whole", "matrix", "tensor"]


def _same_shape(param: Tensor) -> tuple[int, ...]:
    return tuple(param.shape)


def one_number(param: Tensor) -> tuple[int, ...]:
    """The shape of a buffer that is one number a parameter."""
    return ()


@dataclass(frozen=True)
class Buffer:
    """A declared state buffer, filled with `fill` at construction ("param": a copy of it).

    dtype None means the parameter's own, and float32 where that is a half precision.
    `shape` gives the shape for a parameter; a buffer shaped like the parameter (the default) is
    also sharded like it. One that `lasts` is left as it is by a restart that resets the state: a
    copy of the weights that somebody keeps (an average, a reference), and not what the rule
    remembers of gradients, or where it began.
    """

    fill: float | Literal["param"] = 0.0
    dtype: torch.dtype | None = None
    shape: Shape = _same_shape
    lasts: bool = False

    @property
    def like_parameter(self) -> bool:
        """Whether it is shaped like the parameter."""
        return self.shape is _same_shape

    def dtype_for(self, param: Tensor) -> torch.dtype:
        """What a new buffer for `param` has."""
        half = param.dtype in (torch.float16, torch.bfloat16)
        return self.dtype or (torch.float32 if half else param.dtype)

    def make(self, param: Tensor) -> Tensor:
        """A new buffer for `param`, on its device."""
        dtype = self.dtype_for(param)
        if self.fill == "param":
            return param.detach().to(dtype, copy=True)
        if param.is_complex() and self.dtype is None:
            # Rules see pairs of reals, each of which starts at the same value.
            return torch.full_like(param, complex(self.fill, self.fill), requires_grad=False)
        if self.like_parameter:
            return torch.full_like(param, self.fill, dtype=dtype, requires_grad=False)
        return torch.full(self.shape(param), self.fill, dtype=dtype, device=param.device)


@dataclass(frozen=True)
class Transform:
    """One piece of an update rule, or a chain of them.

    Attributes:
        update: the piece's function; see the module.
        buffers: its state, by name.
        hyperparameters: names and values; those of a registered factory come from its signature.
        scope: "element" promises that each element of the update depends on that element alone
            (and on scalars), so that the loop may flatten, bucket, shard and compile it; "whole"
            that it depends on sums over the whole parameter besides, so that the loop may flatten
            and compile it; "matrix" on sums along the rows and columns of a matrix besides, so
            that it may be compiled for matrices and vectors; "tensor" needs the parameter in its
            shape.
        scaled: the update contains the step size; the loop closes a chain in which no piece does
            with `scale_by_learning_rate`.
        sparse: it takes a sparse gradient (coalesced) and gives a sparse update, or a dense one.
        measure: scalars of this parameter, summed over all; runs before any `update`.
        scalars: numbers of the whole optimizer that the rule keeps (Prodigy's d), with their
            starting values; they live in `param_groups`.
        settle: new values of `scalars` from the sums that `measure` gave; runs before `update`.
        after: the new parameter, once it has moved; may write the piece's buffers.
        view: the weights to evaluate with, where they are not the weights to train.
        probe: the displacement at which the gradient is taken again before `update` runs.
        search: all at once: updates, states, parameters, hyper, `evaluate`, and the loss where the
            parameters are -> updates and scalars; in a chain only the first piece may have it.
        observe: takes a sample of the Hessian's diagonal into the buffers.
        host_step: it branches on `hyper.step`, or draws noise by it, and so needs a plain number:
            on an accelerator, where steps may be skipped, such a step waits for the device. Without
            it a branch is right too, but waits at every parameter.
        mixes: the weights are a mixture of points (schedule-free), which its buffers can tell
            apart only while nothing but its updates moves them: no `after` of another piece may,
            and no piece behind it may change them.
        name, origin: the component that made it.
        parts: the primitive pieces of a chain.
    """

    update: Update
    buffers: Mapping[str, Buffer] = field(default_factory=dict[str, Buffer])
    hyperparameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    scope: Scope = "tensor"
    scaled: bool = False
    sparse: bool = False
    measure: Measure | None = None
    scalars: Mapping[str, float] = field(default_factory=dict[str, float])
    settle: Settle | None = None
    after: OfParam | None = None
    view: OfParam | None = None
    probe: Update | None = None
    search: Search | None = None
    observe: Observe | None = None
    host_step: bool = False
    mixes: bool = False
    name: str = "transform"
    origin: Origin | None = field(default=None, compare=False)
    parts: tuple[Transform, ...] = ()

    def __post_init__(self) -> None:
        refuse_reserved(self.name, self.buffers, (*self.hyperparameters, *self.scalars))

    @property
    def pieces(self) -> tuple[Transform, ...]:
        """The primitive pieces in order; a piece is its own only one."""
        return self.parts or (self,)

    @cached_property
    def measuring(self) -> Transform | None:
        """The first piece that measures."""
        return next((piece for piece in self.pieces if piece.measure), None)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        """An argument of this type takes a Transform as it is, and says what would be one."""
        del source, handler
        from pydantic_core import PydanticCustomError, core_schema

        def look(value: object) -> object:
            if isinstance(value, Transform):
                return value
            raise PydanticCustomError("transform_type", "{said}", {"said": _no_transform(value)})

        schema = core_schema.is_instance_schema(cls)
        return core_schema.no_info_before_validator_function(look, schema)

    @property
    def synchronises(self) -> bool:
        """Whether a step of it must wait for an accelerator, as far as the rule itself says."""
        return any(piece.host_step or piece.search or piece.probe for piece in self.pieces)

    def __deepcopy__(self, memo: dict[int, Any]) -> Transform:
        """Itself: nothing writes to a transform."""
        return self

    def __reduce__(self) -> Any:
        raise InputError(
            f"{self.name} is code and cannot be pickled; save the optimizer's state_dict(), and "
            "make the optimizer anew"
        )

    def stamped(self, component: str, arguments: Mapping[str, Any], numbers: set[str]) -> Transform:
        """This transform, marked with its component.

        Where it declares no hyperparameters itself, the numbers of the component's signature are
        its hyperparameters. An `lr` in the signature of a chain without a step size is the step
        size that the loop will put at its end.
        """
        declared = {name: arguments[name] for name in arguments if name in numbers}
        own = dict(self.hyperparameters)
        if own and not self.scaled and "lr" in declared:
            own.setdefault("lr", declared["lr"])
        return replace(
            self,
            name=component.partition("@")[0],
            origin=Origin(component, arguments),
            hyperparameters=own or declared,
        )


def square(update: Tensor, state: State, param: Tensor, hyper: Hyper) -> Mapping[str, Tensor]:
    """The update's sum of squares (0-dim, float64), to `measure` a global norm.

    The loop does not call it where it has just summed the squares of the gradients itself.
    """
    values = update.values() if update.is_sparse else update
    half = values.dtype in (torch.float16, torch.bfloat16)
    norm = cast("Tensor", (values.float() if half else values).norm())  # pyright: ignore[reportUnknownMemberType]
    return {"square": norm.double().square()}


def identity(update: Tensor, state: State, param: Tensor, hyper: Hyper) -> Tensor:
    """The update as it is: for pieces that act only through another verb."""
    return update


def transform_in(value: object, where: str) -> Transform:
    """What is given as a transform, if it is one.

    Raises InputError with what would be one; `where` begins the message.
    """
    if isinstance(value, Transform):
        return value
    raise InputError(f"{where}: {_no_transform(value)}")


def _no_transform(value: object) -> str:
    """What would be a transform in the place of what is none."""
    match value:
        case str():
            said = f"text; component({value!r}, 'optimizer').factory() makes one of a name"
        case None:
            said = "None; a factory must return what it makes"
        case list() | tuple():
            said = "a list; chain(*transforms) makes one of it"
        case type():
            said = (
                f"the class {value.__name__}; rules are made by calls, such as transforms.trace()"
            )
        case object(no_transform=str(what)):
            said = what
        case _ if callable(value):
            said = f"a function; call it: {getattr(value, '__name__', 'it')}(…)"
        case _:
            said = f"an object of type {type(value).__name__}"
    return f"should be a transform, not {said}"


_SCOPES: tuple[Scope, ...] = ("element", "whole", "matrix", "tensor")
"""How much of a parameter a piece must see, from the least on."""


def chain(*transforms: Transform) -> Transform:
    """The transforms one after the other, as one: each gets the update of the one before.

    Raises:
        InputError: nothing to chain; two pieces that declare a buffer, a hyperparameter or a
            scalar of the same name (the keys of a checkpoint are these names); two that give a
            `view`, or need the gradient elsewhere; a `search` that is not first; an `after` beside
            a piece that `mixes`, or another update behind it.
    """
    pieces = tuple(p for given in transforms for p in transform_in(given, "chain").pieces)
    if not pieces:
        raise InputError("chain() needs at least one transform")
    buffers: dict[str, Buffer] = {}
    numbers: dict[str, Any] = {}
    for piece in pieces:
        claim(piece, "buffer", piece.buffers, buffers)
        claim(piece, "hyperparameter", {**piece.hyperparameters, **piece.scalars}, numbers)
    only_one(pieces, "gives the weights to evaluate with", lambda p: p.view is not None)
    only_one(pieces, "evaluates elsewhere", lambda p: bool(p.probe or p.search))
    check_mixture(pieces, lambda piece: piece.update is not identity)
    if any(piece.search is not None for piece in pieces[1:]):
        raise InputError("chain: a piece that searches (L-BFGS) must be the first")
    return Transform(
        update=identity,
        buffers=buffers,
        hyperparameters={k: v for p in pieces for k, v in p.hyperparameters.items()},
        scalars={k: v for p in pieces for k, v in p.scalars.items()},
        scope=_SCOPES[max(_SCOPES.index(piece.scope) for piece in pieces)],
        scaled=any(piece.scaled for piece in pieces),
        sparse=all(piece.sparse for piece in pieces),
        name="chain",
        origin=Origin("chain", {"transforms": transforms}),
        parts=pieces,
    )


def named(prefix: str, transform: Transform) -> Transform:
    """The transform with `prefix.` before every name it declares, so that two of a kind fit into
    one chain. Raises InputError for a prefix that is no text, or empty."""
    if not isinstance(prefix, str) or not prefix:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"named: prefix={prefix!r}: should be text, such as 'inner'")
    renamed = chain(
        *(_prefixed(prefix, piece) for piece in transform_in(transform, "named").pieces)
    )
    return replace(renamed, origin=Origin("named", {"prefix": prefix, "transform": transform}))


def _prefixed(prefix: str, piece: Transform) -> Transform:
    def own(state: State) -> State:
        found = {name: state[f"{prefix}.{name}"] for name in piece.buffers}
        return Sealed(found, f"{prefix}.{piece.name}")

    def inner(hyper: Hyper) -> Hyper:
        values = {
            name: getattr(hyper, f"{prefix}.{name}")
            for name in (*piece.hyperparameters, *piece.scalars)
        }
        return Hyper(**{**vars(hyper), **values})

    def tensor(verb: Any) -> Any:
        def renamed(u: Tensor, state: State, param: Tensor, hyper: Hyper) -> Any:
            return verb(u, own(state), param, inner(hyper))

        return verb and renamed

    def of_param(verb: Any) -> Any:
        def renamed(param: Tensor, state: State, hyper: Hyper) -> Any:
            return verb(param, own(state), inner(hyper))

        return verb and renamed

    def settle(sums: Mapping[str, Tensor], hyper: Hyper) -> Mapping[str, float]:
        assert piece.settle is not None
        return {f"{prefix}.{k}": v for k, v in piece.settle(sums, inner(hyper)).items()}

    if piece.search is not None:
        raise InputError(f"named: {piece.name} searches by itself and cannot be renamed")
    return replace(
        piece,
        buffers={f"{prefix}.{name}": buffer for name, buffer in piece.buffers.items()},
        hyperparameters={f"{prefix}.{k}": v for k, v in piece.hyperparameters.items()},
        scalars={f"{prefix}.{name}": value for name, value in piece.scalars.items()},
        # `chain` tells by it what leaves an update alone.
        update=identity if piece.update is identity else tensor(piece.update),
        measure=tensor(piece.measure),
        probe=tensor(piece.probe),
        observe=tensor(piece.observe),
        after=of_param(piece.after),
        view=of_param(piece.view),
        settle=piece.settle and settle,
    )
