"""What does not fit together, though each part of it is right: one check a function.

To add one: a code and a title in `codes`, a function here that tells of what it finds, a line in
`CHECKS`, and a section in docs/guide/validation.md; a test asks for a recipe that it speaks up
for and one that it lets be. A check gets a `Look` at one rule and yields the key that is at fault
and what is wrong, in a sentence that ends with what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rheostat.core.errors import InputError
from rheostat.core.roles import roles
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Transform
from rheostat.optimizers.policy import Match, Policy
from rheostat.recipes.codes import CODES
from rheostat.recipes.document import Document, Problem
from rheostat.recipes.grammar import CLIPS
from rheostat.recipes.parts import Parts, Rule

MATRIX = {"orthogonalize", "normalize_neurons", "scale_by_shampoo", "scale_by_galore"}
SCHEDULE_FREE = {"schedule_free_step"}
DISTANCE = {"prodigy", "dadapt_adam"}
SIGN = {"scale_by_lion", "scale_by_signum", "sign", "resilient_steps"}
CLIPPING = set(CLIPS.values())
FUSED = ("qkv", "in_proj_weight", "c_attn", "query_key_value")
"""What the names of several matrices in one have in them."""
LAST = 0.95
"""The part of a run after which a restart has no time to pay."""
COARSE = 1e-3
"""Half the distance of bfloat16 numbers at 0.5: a smaller change of such a weight is lost."""
SAMPLES = 1000

Found: TypeAlias = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Look:
    """One rule of a recipe, and with a model the parameters that it serves: name, parameter, and
    whether its gradient is sparse."""

    match: Match
    rule: Rule
    parts: Parts
    params: Sequence[tuple[str, Tensor, bool]] = field(default=())

    @property
    def pieces(self) -> tuple[Transform, ...]:
        """The primitive pieces of the rule, in order."""
        return self.match.rule.pieces

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [piece.name for piece in self.pieces]

    def has(self, some: set[str]) -> bool:
        """Whether one of them is among these."""
        return bool(some & set(self.names))

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The hyperparameters that follow a schedule, those in tuples too."""
        found: dict[str, Schedule] = {}
        for name, value in self.match.rule.hyperparameters.items():
            parts = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)
            found.update((name, part) for part in parts if isinstance(part, Schedule))
        return found

    def curve(self, name: str) -> NDArray[np.float64]:
        """A hyperparameter over the run: one value where it is a number, none if it is absent."""
        value = self.match.rule.hyperparameters.get(name)
        if isinstance(value, Schedule):
            last = self.parts.steps or value.horizon or SAMPLES
            return value.values(np.unique(np.linspace(0, last, SAMPLES).round()))
        return np.array([] if value is None else [float(value)])


def problems_of(
    parts: Parts, lines: Iterable[tuple[Match, Rule]], document: Document
) -> list[Problem]:
    """What does not fit together in a recipe, whatever the model."""
    looks = [Look(match, rule, parts) for match, rule in lines]
    return _told(parts, document, [(code, look) for code in CHECKS for look in looks])


def problems_on(
    parts: Parts, lines: Sequence[tuple[Match, Rule]], document: Document, model: nn.Module
) -> list[Problem]:
    """What does not fit a model: the coverage of the policy, and what its parameters ask for."""
    policy = Policy(tuple(match for match, _ in lines))
    try:
        policy.assign(model)
    except InputError as error:
        if "RH016" in parts.silence:
            return []
        path = ("policy",) if parts.lines else ()
        return [document.problem(path, f"{error}", code="RH016")]
    sparse = _sparse(model)
    known = roles(model)
    served: list[list[tuple[str, Tensor, bool]]] = [[] for _ in lines]
    for name, param in model.named_parameters():
        index = next(i for i, (m, _) in enumerate(lines) if m.claims(name, param, known[name]))
        served[index].append((name, param, name in sparse))
    looks = [
        Look(match, rule, parts, params)
        for (match, rule), params in zip(lines, served, strict=True)
        if params
    ]
    return _told(parts, document, [(code, look) for code in MODEL_CHECKS for look in looks])


def _told(parts: Parts, document: Document, asked: Iterable[tuple[str, Look]]) -> list[Problem]:
    found: list[Problem] = []
    for code, look in asked:
        if code in parts.silence:
            continue
        check = {**CHECKS, **MODEL_CHECKS}[code]
        for key, message in check(look):
            path = (*look.rule.path, key) if key else look.rule.path
            found.append(document.problem(path, message, code=code, severity=CODES[code].severity))
    return list(dict.fromkeys(found))


def _sparse(model: nn.Module) -> set[str]:
    """The names of the parameters whose gradients are sparse."""
    return {
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    }


def _several(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _schedule_free_decays(look: Look) -> Found:
    lr = look.curve("lr")
    if look.has(SCHEDULE_FREE) and len(lr) > 1 and lr[-1] < 0.99 * lr.max():
        yield (
            "lr",
            (
                f"falls to {lr[-1]:g} from {lr.max():g}, and {look.match.rule.name} averages in "
                "place of a decay; keep it constant after the warm-up"
            ),
        )


def _distance_scaled(look: Look) -> Found:
    lr = look.curve("lr")
    if look.has(DISTANCE) and len(lr) and abs(lr.max() - 1) > 1e-6:
        yield (
            "lr",
            (
                f"peaks at {lr.max():g}, and {look.match.rule.name} finds the step size itself; "
                "its peak should be 1 (d_coef makes steps larger or smaller)"
            ),
        )


def _distance_restarted(look: Look) -> Found:
    if not look.has(DISTANCE) or not _restarts(look, 0):
        return
    optimizer = look.rule.optimizer
    if optimizer is None or not optimizer.values.get("safeguard_warmup"):
        yield (
            "lr",
            (
                f"restarts, which inflates the distance that {look.match.rule.name} estimates; "
                "prodigy with safeguard_warmup: true keeps the lr out of it"
            ),
        )


def _restarts(look: Look, after: float) -> list[str]:
    """The hyperparameters whose schedule restarts between a step and the end."""
    last = look.parts.steps
    return [
        name
        for name, schedule in look.schedules.items()
        if schedule.next_restart(after) < (schedule.horizon or np.inf if last is None else last)
    ]


def _l2_under_a_sign(look: Look) -> Found:
    signs = [i for i, name in enumerate(look.names) if name in SIGN]
    for index, piece in enumerate(look.pieces):
        if piece.name == "add_decayed_weights" and signs and index < signs[0] and _decays(piece):
            yield (
                "",
                (
                    f"the weight decay comes before {look.names[signs[0]]}, which keeps the sign "
                    "of it alone; put add_decayed_weights after it"
                ),
            )


def _decays(piece: Transform) -> bool:
    """Whether a piece has a weight decay that is not 0."""
    return any(
        name.rpartition(".")[2] == "weight_decay" and (isinstance(value, Schedule) or value != 0)
        for name, value in piece.hyperparameters.items()
    )


def _clip_too_late(look: Look) -> Found:
    normal = [i for i, name in enumerate(look.names) if name in SIGN | {"orthogonalize"}]
    for index, name in enumerate(look.names):
        if name in CLIPPING and normal and index > normal[0]:
            yield (
                "",
                (
                    f"{name} comes after {look.names[normal[0]]}, whose steps have one size "
                    "whatever the gradient; clip before it, or lower the lr"
                ),
            )


def _warmup_too_long(look: Look) -> Found:
    steps = look.parts.steps
    if steps is None:
        return
    for piece in (*look.parts.before, *look.rule.before, *look.rule.pieces):
        for key, value in [*piece.values.items(), ("lr", look.rule.lr)]:
            for length in _warmups({key: value}):
                if length >= steps:
                    yield key, f"warms up for {length} of {steps} steps; a tenth of them is usual"


def _warmups(value: Any) -> Iterator[int]:
    """The lengths of the warm-ups in the arguments of a component."""
    if isinstance(value, list):
        for part in cast("list[Any]", value):
            yield from _warmups(part)
    if not isinstance(value, dict):
        return
    given = cast("dict[str, Any]", value)
    combined = str(given.get("schedule", "")).startswith("warmup@")
    for key, part in given.items():
        if key in ("warmup", "warmup_steps") or (combined and key == "length"):
            if isinstance(part, int) and part > 0:
                yield part
        else:
            yield from _warmups(part)


def _late_restart(look: Look) -> Found:
    if look.parts.steps is not None:
        for name in _restarts(look, LAST * look.parts.steps):
            yield (
                name,
                (
                    f"restarts in the last {1 - LAST:.0%} of the run, which ends before it pays; "
                    "choose periods that fill the horizon"
                ),
            )


def _accumulated_probe(look: Look) -> Found:
    count = look.parts.settings["accumulate"]
    for piece in look.pieces:
        if count > 1 and (piece.probe or piece.search):
            yield (
                "",
                (
                    f"{piece.name} takes the gradient elsewhere for the last of {count} batches "
                    "alone; let the closure run over all of them, with accumulate: 1"
                ),
            )


def _two_decays(look: Look) -> Found:
    decaying = [piece.name for piece in look.pieces if _decays(piece)]
    if len(decaying) > 1:
        yield "", f"{decaying[0]} and {decaying[1]} both decay the weights; keep one of them"


def _average_too_late(look: Look) -> Found:
    for piece in (*look.rule.before, *look.rule.pieces):
        start = piece.values.get("start")
        if (
            piece.ref.startswith("swa_weights@")
            and look.parts.steps is not None
            and int(start or 0) > look.parts.steps
        ):
            yield (
                "",
                (
                    f"swa_weights begins at update {start} of a run of {look.parts.steps}; an "
                    "earlier start, such as three quarters of the run, gives it something to do"
                ),
            )


def _other_peak(look: Look) -> Found:
    lr, told = look.curve("lr"), look.curve("peak_lr")
    if len(told) and len(lr) and lr.max() > 0 and abs(told[0] / lr.max() - 1) > 0.01:
        yield "", f"peak_lr is {told[0]:g}, and the lr peaks at {lr.max():g}; they should be equal"


def _vectors_for_matrices(look: Look) -> Found:
    flat = [name for name, param, _ in look.params if param.ndim < 2]
    pieces = [name for name in look.names if name in MATRIX]
    if flat and pieces:
        yield (
            "",
            (
                f"{pieces[0]} is for matrices, and {_several(flat)} is none; give it a policy: "
                "match: {role: [matrix, convolution]}, and another rule for the rest"
            ),
        )


def _sparse_for_dense(look: Look) -> Found:
    sparse = [name for name, _, is_sparse in look.params if is_sparse]
    if sparse and (not look.match.rule.sparse or look.parts.settings["accumulate"] > 1):
        yield (
            "",
            (
                f"{_several(sparse)} has sparse gradients, which {look.match.rule.name} cannot "
                "take; sgd, adagrad and sparse_adam can, without accumulation"
            ),
        )


def _lost_in_bfloat16(look: Look) -> Found:
    half = [name for name, param, _ in look.params if param.dtype == torch.bfloat16]
    lr = look.curve("lr") * float(look.match.overrides.get("lr_factor", 1.0))
    if half and look.parts.settings["precision"] == "plain" and len(lr) and 0 < lr.max() < COARSE:
        yield (
            "lr",
            (
                f"is at most {lr.max():g}, and {_several(half)} is bfloat16: a change of a weight "
                "of 0.5 by less than 0.001 is lost; set precision: master or stochastic"
            ),
        )


def _idle_precision(look: Look) -> Found:
    wanted = look.parts.settings["precision"]
    if wanted != "plain" and all(p.dtype.itemsize > 2 for _, p, _ in look.params):
        yield (
            "",
            (
                f"precision is {wanted}, and no parameter of this rule is half precision; "
                "leave it out"
            ),
        )


def _fused_matrices(look: Look) -> Found:
    for piece in look.pieces:
        if piece.name != "orthogonalize" or not piece.origin or piece.origin.arguments["split"]:
            continue
        fused = [n for n, p, _ in look.params if p.ndim >= 2 and any(f in n.lower() for f in FUSED)]
        if fused:
            yield (
                "",
                (
                    f"{_several(fused)} looks like several matrices, made orthogonal as one; "
                    'say what is in it: split: {"*.qkv.weight": [1, 1, 1]}'
                ),
            )


CHECKS: Mapping[str, Callable[[Look], Found]] = {
    "RH003": _schedule_free_decays,
    "RH004": _distance_scaled,
    "RH005": _distance_restarted,
    "RH006": _l2_under_a_sign,
    "RH007": _clip_too_late,
    "RH009": _warmup_too_long,
    "RH010": _late_restart,
    "RH012": _accumulated_probe,
    "RH013": _two_decays,
    "RH014": _average_too_late,
    "RH018": _other_peak,
}
"""Code -> what finds it in a recipe. RH008 is found where chains are made (`build`)."""

MODEL_CHECKS: Mapping[str, Callable[[Look], Found]] = {
    "RH001": _vectors_for_matrices,
    "RH002": _sparse_for_dense,
    "RH011": _lost_in_bfloat16,
    "RH015": _idle_precision,
    "RH017": _fused_matrices,
}
"""Code -> what finds it on a model. RH016 is found by the policy itself."""
