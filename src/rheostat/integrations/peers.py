"""Which optimizers of other libraries keep the state that rules of ours keep, and its names there.

The numbers of both agree to rounding (the tests continue runs from one in the other). To add one,
add a line to `PEERS`: the pieces of our rule, what its param group must say, and which buffers have
other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rheostat.core.errors import InputError, nearest
from rheostat.core.transform import Transform

Flags = Mapping[str, tuple[Any, ...]]
"""Entries of their param group, and the values that mean what our rule does; the first is written
where a state is exported."""

Arguments = Mapping[str, Mapping[str, Any]]
"""Pieces of our rule, and what each was made with."""

MUTE = ("foreach", "fused", "capturable", "differentiable", "initial_accumulator_value")
"""Entries that change no number, or none once there is state."""


@dataclass(frozen=True)
class Peer:
    """One optimizer of another library as one rule of ours.

    Attributes:
        pieces: the names of our rule's pieces, in order.
        flags: what its param group must say, as a function of what our pieces were made with; it
            raises InputError where the library has nothing like it.
        buffers: our names of buffers and theirs, where they differ.
        negated: buffers (ours) that they keep with the other sign.
        fixed: hyperparameters that they have not, and the value that ours must have.
        steps: where they count updates: in each parameter's state, in the group, or nowhere.
    """

    pieces: tuple[str, ...]
    flags: Callable[[Arguments], Flags]
    buffers: Mapping[str, str] = field(default_factory=dict[str, str])
    negated: tuple[str, ...] = ()
    fixed: Mapping[str, float] = field(default_factory=dict[str, float])
    steps: Literal["state", "group", "nowhere"] = "state"


def peer_of(key: str, rule: Transform) -> Peer:
    """How the optimizer with this key computes what the rule does.

    Raises:
        InputError: a key that no state is exchanged with, or a rule that it does not compute.
    """
    if key not in PEERS:
        raise InputError(f"no state is exchanged with {key!r}; {nearest(key, PEERS)}")
    names = tuple(piece.name for piece in rule.pieces)
    ours = all(piece.origin for piece in rule.pieces)
    plain = not any("." in name for name in (*rule.buffers, *rule.hyperparameters))  # of `named`
    for peer in PEERS[key]:
        if peer.pieces == names and ours and plain:
            return peer
    raise InputError(f"{key} does not compute {rule.name} ({', '.join(names)})")


def arguments_of(rule: Transform) -> Arguments:
    """What the pieces of a rule were made with."""
    return {piece.name: piece.origin.arguments for piece in rule.pieces if piece.origin}


_LR, _DECAY = "scale_by_learning_rate", "add_decayed_weights"


def _always(**flags: Any) -> Callable[[Arguments], Flags]:
    values = {name: (value,) for name, value in flags.items()}
    return lambda _: values


def _nesterov(arguments: Arguments) -> Flags:
    return {"nesterov": (arguments["trace"]["nesterov"],)}


def _rms(arguments: Arguments) -> Flags:
    if arguments["scale_by_rms"]["eps_inside_root"]:
        raise InputError("eps inside the root, which torch adds outside")
    momentum = {} if "trace" in arguments else {"momentum": (0,)}
    return {"centered": (arguments["scale_by_rms"]["centered"],), **momentum}


def _rms_trace(arguments: Arguments) -> Flags:
    if arguments["trace"]["nesterov"]:
        raise InputError("Nesterov's momentum, which torch's RMSprop has not")
    return _rms(arguments)


def _muon(arguments: Arguments) -> Flags:
    how = arguments["orthogonalize"]
    scales = {
        "original": (None, "original"),
        "match_rms": ("match_rms_adamw",),
        "moonlight": ("match_rms_adamw",),
    }
    for name, known in (
        ("coefficients", ("quintic",)),
        ("dtype", ("bfloat16",)),
        ("split", (None,)),
        ("scale", tuple(scales)),
    ):
        if how[name] not in known:
            raise InputError(f"{name}={how[name]!r}, which torch's Muon has not")
    return {
        "adjust_lr_fn": scales[how["scale"]],
        "nesterov": (arguments["trace_ema"]["nesterov"],),
        "ns_steps": (5 if how["ns_steps"] is None else how["ns_steps"],),
        "ns_coefficients": ((3.4445, -4.775, 2.0315),),
    }


def _ademamix(arguments: Arguments) -> Flags:
    how = arguments["scale_by_ademamix"]
    if how["alpha_warmup"] or how["beta3_warmup"]:
        raise InputError("warm-ups of alpha or beta3, which are not exchanged")
    return {"weight_decouple": (True,), "fixed_decay": (False,), "t_alpha_beta3": (None,)}


def _coupled(rule: str, **flags: Any) -> Peer:
    return Peer((_DECAY, rule, _LR), _always(**flags))


def _decoupled(rule: str, **flags: Any) -> Peer:
    return Peer((rule, _DECAY, _LR), _always(**flags))


_ADAM_L2 = (
    _coupled("scale_by_adam", amsgrad=False, decoupled_weight_decay=False),
    _coupled("scale_by_amsgrad", amsgrad=True, decoupled_weight_decay=False),
)
_ADAMW = (
    _decoupled("scale_by_adam", amsgrad=False, decoupled_weight_decay=True),
    _decoupled("scale_by_amsgrad", amsgrad=True, decoupled_weight_decay=True),
)


def _kozistr(*pieces: str, **flags: Any) -> Peer:
    return Peer(pieces, _always(**flags), steps="group")


PEERS: Mapping[str, tuple[Peer, ...]] = {
    "torch/Adam": (*_ADAM_L2, *_ADAMW),
    "torch/AdamW": _ADAMW,
    "torch/Adamax": (_coupled("scale_by_adamax"),),
    "torch/NAdam": (
        _coupled("scale_by_nadam", decoupled_weight_decay=False),
        _decoupled("scale_by_nadam", decoupled_weight_decay=True),
    ),
    "torch/RAdam": (
        _coupled("scale_by_radam", decoupled_weight_decay=False),
        _decoupled("scale_by_radam", decoupled_weight_decay=True),
    ),
    "torch/SGD": (
        Peer((_DECAY, _LR), _always(momentum=0, dampening=0, nesterov=False), steps="nowhere"),
        Peer((_DECAY, "trace", _LR), _nesterov, steps="nowhere"),
    ),
    "torch/Muon": (Peer(("trace_ema", "orthogonalize", _DECAY, _LR), _muon, steps="nowhere"),),
    "torch/Adagrad": (_coupled("scale_by_adagrad"),),
    "torch/Adadelta": (_coupled("scale_by_adadelta"),),
    "torch/RMSprop": (
        Peer((_DECAY, "scale_by_rms", _LR), _rms),
        Peer((_DECAY, "scale_by_rms", "trace", _LR), _rms_trace, fixed={"dampening": 0.0}),
    ),
    "torch/Rprop": (Peer(("rprop",), _always()),),
    "torch/Adafactor": (
        Peer(("adafactor",), lambda arguments: {"eps": (tuple(arguments["adafactor"]["eps"]),)}),
    ),
    "pytorch_optimizer/Lion": (
        _kozistr("scale_by_lion", _DECAY, _LR, weight_decouple=True, fixed_decay=False),
    ),
    "pytorch_optimizer/SignSGD": (_kozistr("scale_by_signum", _DECAY, _LR, weight_decouple=True),),
    "pytorch_optimizer/AdaBelief": (
        _kozistr(
            *("scale_by_belief", _DECAY, _LR),
            weight_decouple=True,
            fixed_decay=False,
            rectify=False,
            ams_bound=False,
        ),
    ),
    "pytorch_optimizer/Adan": (
        Peer(
            ("scale_by_adan", "add_proximal_decay"),
            _always(weight_decouple=False, max_grad_norm=0.0),
            negated=("previous_grad",),
            steps="group",
        ),
    ),
    "pytorch_optimizer/AdEMAMix": (
        Peer(("scale_by_ademamix", _DECAY, _LR), _ademamix, steps="group"),
    ),
    "pytorch_optimizer/NovoGrad": (
        Peer(
            ("scale_by_novograd", _LR),
            _always(weight_decouple=False, fixed_decay=False, grad_averaging=False),
            buffers={"exp_avg": "moments", "exp_avg_sq": "grads_ema"},
            steps="group",
        ),
    ),
}
"""Keys as the registry has them -> the rules of ours that they compute. Not here: what keeps other
numbers than ours does, such as the corrected means of pytorch_optimizer's StableAdamW."""
