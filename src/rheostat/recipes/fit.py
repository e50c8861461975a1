"""What does not fit together, though each part of it is right: one check a function.

To add one: a code and a title in `codes`, a function here (in `fit_model`, if it needs a model; in
`fit_regime`, if it is about the regime) that tells of what it finds, a line in `CHECKS`, and a
section in docs/guide/validation.md; a test asks for a recipe that it speaks up for and one that it
lets be. A check gets a `Look` at one rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from rheostat.core.naming import bare, named_parameters
from rheostat.core.registry import component
from rheostat.core.roles import roles
from rheostat.core.schedule import Schedule
from rheostat.core.transform import Transform
from rheostat.recipes.build import Served
from rheostat.recipes.codes import CODES
from rheostat.recipes.document import Document, KeyPath, Problem
from rheostat.recipes.fit_model import MODEL_CHECKS
from rheostat.recipes.fit_regime import REGIME_CHECKS, RESTARTS, watch_of
from rheostat.recipes.grammar import CLIPS
from rheostat.recipes.look import Check, Found, Look
from rheostat.recipes.parts import Parts

SCHEDULE_FREE = {"schedule_free_step"}
DISTANCE = {"prodigy", "dadapt_adam"}
SIGN = {"scale_by_lion", "scale_by_signum", "sign", "resilient_steps"}
CLIPPING = set(CLIPS.values())
LAST = 0.95
"""The part of a run after which a restart has no time to pay."""


def problems_of(parts: Parts, lines: Iterable[Served], document: Document) -> list[Problem]:
    """What does not fit together in a recipe, whatever the model."""
    watch = watch_of(parts, list(lines))
    asked = [(code, check(look)) for code, check in CHECKS.items() for look in watch.looks]
    asked += [(code, check(watch)) for code, check in REGIME_CHECKS.items()]
    return _told(parts, document, asked)


def problems_on(
    parts: Parts, lines: Sequence[Served], document: Document, model: nn.Module
) -> list[Problem]:
    """What does not fit a model: the coverage of the policy, and what its parameters ask for."""
    sparse = _sparse(model)
    known = roles(model)
    served: list[list[tuple[str, Tensor, bool]]] = [[] for _ in lines]
    found: list[Problem] = []
    for name, param in named_parameters(model):
        claims = (i for i, one in enumerate(lines) if one.match.claims(name, param, known[name]))
        index = next(claims, None)
        if index is None:
            what = f"no line claims {name} (role {known[name]}, shape {tuple(param.shape)})"
            remedy = "end with a line for the rest"
            found.append(document.problem(("policy",), f"{what}; {remedy}", code="RH016"))
        else:
            served[index].append((name, param, name in sparse))
    for line, params in zip(lines, served, strict=True):
        if not params and not line.match.optional:
            found.append(_idle(line, document))
    if "RH016" in parts.silence:
        found = []
    looks = [
        Look(line.match, line.rule, line.places, parts, params)
        for line, params in zip(lines, served, strict=True)
        if params
    ]
    asked = [(code, check(look)) for code, check in MODEL_CHECKS.items() for look in looks]
    return found + _told(parts, document, asked)


def _idle(line: Served, document: Document) -> Problem:
    """What is wrong with a line that claims nothing."""
    if line.rule.path:
        what = "claims no parameter of the model; mend it, or mark it optional: true"
        return document.problem((*line.rule.path, "match"), what, code="RH016")
    what = f"{line.match.description} claims no parameter of the model; choose another rule"
    path = ("optimizer" if line.rule.optimizer else "chain",)
    return document.problem(path, what, code="RH016")


def _told(parts: Parts, document: Document, asked: Iterable[tuple[str, Found]]) -> list[Problem]:
    found: list[Problem] = []
    for code, told in asked:
        if code in parts.silence:
            continue
        for path, message in told:
            place = _written(document, path)
            severity = CODES[code].severity
            found.append(document.problem(place, message, code=code, severity=severity))
    return list(dict.fromkeys(found))


def _written(document: Document, path: KeyPath) -> KeyPath:
    """Where this stands, or for what a line of the policy takes over from the recipe, there."""
    if path[:1] == ("policy",) and document.get(path) is None:
        above = path[2:]
        return above if document.get(above) is not None else path
    return path


def _sparse(model: nn.Module) -> set[str]:
    """The names of the parameters whose gradients are sparse."""
    names = (
        f"{prefix}.weight" if prefix else "weight"
        for prefix, module in cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse
    )
    return {*bare(model, names)}


def _schedule_free_decays(look: Look) -> Found:
    lr = look.curve("lr")
    found = look.first(SCHEDULE_FREE)
    if found and len(lr) > 1 and lr[-1] < 0.99 * lr.max():
        yield (
            look.at("lr"),
            (
                f"falls to {lr[-1]:g} from {lr.max():g}, and {found[1]} averages in place of a "
                "decay; keep it constant after the warm-up"
            ),
        )


def _distance_scaled(look: Look) -> Found:
    lr = look.curve("lr")
    found = look.first(DISTANCE)
    if found and len(lr) and abs(lr.max() - 1) > 1e-6:
        yield (
            look.at("lr"),
            (
                f"peaks at {lr.max():g}, and {found[1]} finds the step size itself; its peak "
                "should be 1 (d_coef makes steps larger or smaller)"
            ),
        )


def _distance_restarted(look: Look) -> Found:
    found = look.first(DISTANCE)
    regime = look.parts.regime
    triggers = [p for p in (regime.controllers if regime else ()) if p.ref.startswith(RESTARTS)]
    if not found or look.parts.safeguards is not None or not (triggers or _restarts(look, 0)):
        return
    optimizer = look.rule.optimizer
    if optimizer is None or not optimizer.values.get("safeguard_warmup"):
        yield (
            look.at("lr") if not triggers else triggers[0].path,
            (
                f"restarts, which inflates the distance that {found[1]} estimates; prodigy with "
                "safeguard_warmup: true keeps the lr out of it, and safeguards: true takes the run "
                "back where it breaks"
            ),
        )


def _restarts(look: Look, part: float) -> list[str]:
    """The hyperparameters whose schedule restarts after this part of the run."""
    found: list[str] = []
    for name, schedule in look.schedules.items():
        end = look.parts.end(schedule.unit) or schedule.horizon
        last = np.inf if end is None else end
        if schedule.next_restart(part * last if part else 0) < last:
            found.append(name)
    return found


def _l2_under_a_sign(look: Look) -> Found:
    signs = [i for i, name in enumerate(look.names) if name in SIGN]
    for index, (place, piece) in enumerate(look.placed):
        if piece.name == "add_decayed_weights" and signs and index < signs[0] and _decays(piece):
            yield (
                place,
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
    for index, (place, piece) in enumerate(look.placed):
        if piece.name in CLIPPING and normal and index > normal[0]:
            yield (
                place,
                (
                    f"{piece.name} comes after {look.names[normal[0]]}, whose steps have one size "
                    "whatever the gradient; clip before it, or lower the lr"
                ),
            )


def _warmup_too_long(look: Look) -> Found:
    horizon, unit = look.parts.horizon, look.parts.unit
    if horizon is None:
        return
    for piece in (*look.parts.before, *look.rule.before, *look.rule.pieces):
        for path, value in [*_under(piece.path, piece.values), (look.at("lr"), look.rule.lr)]:
            for place, length in _warmups(path, value, unit):
                if length >= horizon:
                    told = "steps" if unit == "updates" else unit
                    yield (
                        place,
                        f"warms up for {length} of {horizon} {told}; a tenth of them is usual",
                    )


def _under(path: KeyPath, values: Mapping[str, Any]) -> list[tuple[KeyPath, Any]]:
    return [((*path, key), value) for key, value in values.items()]


def _warmups(path: KeyPath, value: Any, unit: str) -> Iterator[tuple[KeyPath, int]]:
    """The lengths of the warm-ups in an argument of a component that count this unit."""
    if isinstance(value, list):
        for index, part in enumerate(cast("list[Any]", value)):
            yield from _warmups((*path, index), part, unit)
    elif isinstance(value, dict):
        given = cast("dict[str, Any]", value)
        of = str(given.get("schedule", "")).partition("@")[0]
        if of == "in_unit":
            if given["unit"] == unit and given["per_update"] == 1:
                # A horizon in this unit has put it around what is written.
                yield from _warmups(path, given["of"], unit)
            return
        for key, part in given.items():
            yield from _warmups((*path, key), part, unit)
        if of == "warmup" and given["length"] > 0:
            yield (*path, "length"), given["length"]
    elif path[-1] in ("warmup", "warmup_steps") and isinstance(value, int) and value > 0:
        yield path, value


def _late_restart(look: Look) -> Found:
    if look.parts.horizon is not None:
        for name in _restarts(look, LAST):
            yield (
                look.at(name),
                (
                    f"restarts in the last {1 - LAST:.0%} of the run, which ends before it pays; "
                    "choose periods that fill the horizon"
                ),
            )


def _accumulated_probe(look: Look) -> Found:
    count = look.setting("accumulate") or 1
    for place, piece in look.placed:
        if count > 1 and (piece.probe or piece.search):
            yield (
                place,
                (
                    f"{piece.name} would take the gradient elsewhere for the last of {count} "
                    "batches alone; let the closure run over all of them, with accumulate: 1"
                ),
            )


def _two_decays(look: Look) -> Found:
    decaying = [(place, piece.name) for place, piece in look.placed if _decays(piece)]
    if len(decaying) > 1:
        (place, first), (_, second) = decaying[:2]
        yield place, f"{first} and {second} both decay the weights; keep one of them"


def _average_too_late(look: Look) -> Found:
    for piece in (*look.parts.before, *look.rule.before, *look.rule.pieces):
        start = piece.values.get("start")
        if (
            piece.ref.startswith("swa_weights@")
            and look.parts.steps is not None
            and int(start or 0) > look.parts.steps
        ):
            yield (
                (*piece.path, "start"),
                (
                    f"swa_weights begins at update {start} of a run of {look.parts.steps}; an "
                    "earlier start, such as three quarters of the run, gives it something to do"
                ),
            )


def _other_peak(look: Look) -> Found:
    lr, told = look.curve("lr"), look.curve("peak_lr")
    if len(told) and len(lr) and lr.max() > 0 and abs(told[0] / lr.max() - 1) > 0.01:
        place = next(p for p, piece in look.placed if "peak_lr" in piece.hyperparameters)
        yield (
            (*place, "peak_lr"),
            f"is {told[0]:g}, and the lr peaks at {lr.max():g}; they should be equal",
        )


def _unusual_lr(look: Look) -> Found:
    optimizer = look.rule.optimizer
    if optimizer is None or look.first(DISTANCE):  # RH004 has its say there
        return
    usual = component(optimizer.ref, "optimizer").card.usual("lr")
    lr = look.curve("lr") * look.factor
    if usual and len(lr) and lr.max() > usual[0][1]:
        low, high = usual[0]
        yield (
            look.at("lr"),
            (
                f"peaks at {lr.max():g}, above what is usual for {optimizer.ref}, "
                f"[{low:g}, {high:g}]; too much diverges"
            ),
        )


CHECKS: Mapping[str, Check] = {
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
    "RH019": _unusual_lr,
}
"""Code -> what finds it in a recipe. RH008 is found where chains are made (`build`), and RH009 also
where a schedule refuses its warm-up (`reader`)."""
