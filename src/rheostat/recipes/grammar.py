"""The grammar of recipes: keys, short forms, and what each stands for.

`read_parts` turns a document into `Parts`, with every default and version filled in, and notes
what is wrong in its reader. A new key is read here, kept in `parts`, published by `schema` and
explained in the guide (docs/guide/recipes.md).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias, cast

import annotated_types as at

from rheostat.core.errors import closest, nearest
from rheostat.core.hyper import Argument, Count, NonNegative, Steps, arguments_of
from rheostat.core.registry import component
from rheostat.core.schedule import Unit
from rheostat.recipes.codes import CODES
from rheostat.recipes.document import KeyPath, quoted
from rheostat.recipes.parts import LR, Line, Parts, Piece, Rule
from rheostat.recipes.pieces import MOST, piece_of, pieces
from rheostat.recipes.reader import STEPS, Reader
from rheostat.recipes.regime_keys import WATCHING, read_regime, read_safeguards

NonFinite: TypeAlias = Literal["skip", "raise", "propagate"]
"""What a NaN or infinite gradient does; see `rheostat.optimizers.guard`."""
Precision: TypeAlias = Literal["plain", "master", "stochastic"]
"""How half-precision parameters are kept; see `rheostat.optimizers.loop`."""
Mode: TypeAlias = Literal["auto", "eager", "fused", "compiled"]
"""How rules run; see `rheostat.optimizers.kernels`."""

FORMAT = Argument("format", Annotated[int, at.Ge(1), at.Le(1)], 1)
"""The version of this grammar."""

SETTINGS: Mapping[str, Argument] = {
    each.name: each
    for each in (
        Argument("seed", Annotated[int, at.Ge(0), at.Le(2**63 - 1)], 0),
        Argument("nonfinite", NonFinite, "skip"),
        Argument("accumulate", Count, 1),
        Argument("precision", Precision, "plain"),
        Argument("mode", Mode, "auto"),
        Argument("maximize", bool, False),
    )
}
"""What a recipe says about the loop, whatever the rule."""

CLIPS: Mapping[str, str] = {
    "global_norm": "clip_by_global_norm",
    "norm": "clip_by_norm",
    "value": "clip_by_value",
    "agc": "adaptive_gradient_clip",
    "percentile": "clip_by_percentile",
}
"""What `clip` can hold -> the transform that it means; its first argument is the value."""

UNITS: tuple[Unit, ...] = ("updates", "samples", "tokens", "epochs")
HORIZONS: Mapping[Unit, Argument] = {unit: Argument(unit, Count) for unit in UNITS}
"""The units in which a horizon can be given; every schedule of the recipe then counts it."""

RULE_KEYS = ("optimizer", "chain", "before", "clip")
OWN_KEYS = (
    FORMAT.name,
    *RULE_KEYS,
    "policy",
    *SETTINGS,
    STEPS.name,
    "horizon",
    "silence",
    *WATCHING,
)
"""The keys of a recipe that are no hyperparameters."""

LR_FACTOR = Argument("lr_factor", NonNegative, 1.0)
LINE_KEYS = ("match", *RULE_KEYS, LR_FACTOR.name)
PATTERN = Argument("name", Annotated[str, at.MinLen(1)])
MIN_DIM = Argument("min_dim", Steps, 0)
OPTIONAL = Argument("optional", bool, False)
MATCH_KEYS = ("role", PATTERN.name, MIN_DIM.name, OPTIONAL.name)


def read_parts(reader: Reader) -> Parts | None:
    """The recipe in the reader's document; None where it is too wrong to say what it means."""
    given = reader.mapping((), "{optimizer: sgd, lr: 0.1}")
    if given is None:
        return None
    reader.value(FORMAT, (FORMAT.name,), given.get(FORMAT.name, 1))
    _horizon(reader, given)
    silence = _silence(reader, given)
    regime, safeguards = read_regime(reader, given), read_safeguards(reader, given)
    if is_key_of_a_library(given.get("optimizer")):
        rule = _library_rule(reader, given)
        told = (reader.steps, reader.unit, silence, regime, safeguards)
        return rule and Parts(rule, (), (), {}, *told)
    settings = {
        name: reader.value(argument, (name,), given.get(name, argument.default))
        for name, argument in SETTINGS.items()
    }
    before = _before(reader, given, ())
    rule = _rule(reader, given, (), OWN_KEYS)
    lines = _policy(reader, given)
    if rule is None:
        return None
    told = (reader.steps, reader.unit, silence, regime, safeguards)
    return Parts(rule, lines, before, settings, *told)


def _horizon(reader: Reader, given: Mapping[str, Any]) -> None:
    """Tell the reader of the horizon, written as `steps` or as a `horizon` with its unit."""
    if STEPS.name in given:
        reader.steps = reader.horizon(STEPS, (STEPS.name,), given[STEPS.name]) or reader.steps
    if "horizon" not in given:
        return
    if STEPS.name in given:
        reader.report(("horizon",), "says what steps says already; leave one of them out", key=True)
        return
    units = reader.mapping(("horizon",), "{updates: 10000}")
    if units is None:
        return
    for written in units:
        if written not in HORIZONS:
            reader.unknown(("horizon", written), HORIZONS, "unknown unit")
    known = [unit for unit in UNITS if unit in units]
    if len(units) != 1:
        reader.report(("horizon",), "should be one number with its unit, such as {updates: 10000}")
    if not known:
        return
    unit = cast("Unit", known[0])
    path = ("horizon", unit)
    if unit != "updates" and reader.steps is not None:
        told = f"and the run is told of {reader.steps} steps; leave one of the two out"
        reader.report(path, f"the horizon is in {unit}, {told}")
        return
    count = reader.horizon(HORIZONS[unit], path, units[unit])
    reader.steps, reader.unit = count or reader.steps, unit


def is_key_of_a_library(ref: Any) -> bool:
    """Whether a name is that of another library's component, such as torch/AdamW."""
    return isinstance(ref, str) and "/" in ref


def _library_rule(reader: Reader, given: Mapping[str, Any]) -> Rule | None:
    """Another library's optimizer: its arguments, and none of what our loop does."""
    path = ("optimizer",)
    named = reader.component(path, "optimizer")
    of = named or reader.meant(path, "optimizer")
    if of is None:
        return None
    known = arguments_of(of.factory)
    loop = [key for key in ("chain", "before", "clip", "policy", *SETTINGS) if key not in known]
    for key in loop:
        if key in given:
            what = f"belongs to our loop, and {of.ref} runs in its library's; leave it out"
            reader.report((key,), what, key=True)
    own = (FORMAT.name, "optimizer", STEPS.name, "horizon", "silence", *WATCHING, *loop)
    values = reader.arguments((), given, of, own, reader.scheduled)
    return None if named is None else Rule((Piece("optimizer", of.ref, values),))


def _silence(reader: Reader, given: Mapping[str, Any]) -> tuple[str, ...]:
    written = given.get("silence", [])
    if not isinstance(written, list):
        reader.report(("silence",), f"{quoted(written)} should be a list of codes, such as [RH003]")
        return ()
    codes = cast("list[Any]", written)
    for index, code in enumerate(codes):
        if not isinstance(code, str) or code not in CODES:
            hint = nearest(str(code), CODES)
            reader.report(("silence", index), f"no check has the code {quoted(code)}; {hint}")
    return tuple(sorted({str(code) for code in codes}))


def _policy(reader: Reader, given: Mapping[str, Any]) -> tuple[Line, ...]:
    written = given.get("policy", [])
    if not isinstance(written, list):
        reader.report(("policy",), f"{quoted(written)} should be a list of lines, each a mapping")
        return ()
    lines: list[Line] = []
    if len(cast("list[Any]", written)) > MOST:
        reader.report(("policy",), f"has more than {MOST} lines; should choose by patterns")
        return ()
    for index in range(len(cast("list[Any]", written))):
        here: KeyPath = ("policy", index)
        line = reader.mapping(here, "{match: {role: norm}, weight_decay: 0}")
        if line is None:
            continue
        match = _match(reader, line, here)
        above = [key for key in line if key in OWN_KEYS and key not in LINE_KEYS]
        for key in above:
            reader.report((*here, key), "is of the whole recipe; write it beside policy", key=True)
        named = any(closest(key, line) for key in ("optimizer", "chain"))
        # A line that names no rule has that of the recipe, with hyperparameters of its own.
        whole = reader.document.overlaid((), here, given if named else OWN_KEYS_OF_THE_WHOLE)
        over = reader.over(whole)
        factor: float | None = over.value(
            LR_FACTOR, ("lr_factor",), line.get("lr_factor", LR_FACTOR.default)
        )
        over_given = cast("dict[str, Any]", whole.data)
        before = _before(over, over_given, ())
        rule = _rule(over, over_given, (), (*LINE_KEYS, *above))
        reader.waiting = reader.waiting or over.waiting
        if rule is not None and match is not None and factor is not None:
            rule = replace(rule, before=before, path=here)
            lines.append(Line(match, rule, factor, here))
    return tuple(lines)


OWN_KEYS_OF_THE_WHOLE = tuple(key for key in OWN_KEYS if key not in ("optimizer", "chain"))


def _match(reader: Reader, line: Mapping[str, Any], here: KeyPath) -> dict[str, Any] | None:
    from rheostat.core.roles import ROLES

    if "match" not in line:
        reader.report(here, "'match' is missing: which parameters, such as {role: norm}")
        return None
    path = (*here, "match")
    given = reader.mapping(path, "{role: [norm, bias]}")
    if given is None:
        return None
    before = len(reader.problems)
    for key in given:
        if key not in MATCH_KEYS:
            reader.unknown((*path, key), MATCH_KEYS)
    names = {
        key: _texts(reader, (*path, key), given.get(key, [])) for key in ("role", PATTERN.name)
    }
    for index, role in enumerate(names["role"]):
        if role not in ROLES:
            place = (*path, "role", index) if isinstance(given["role"], list) else (*path, "role")
            reader.report(place, f"unknown role {quoted(role)}; {nearest(role, ROLES)}")
    others = {
        each.name: reader.value(each, (*path, each.name), given.get(each.name, each.default))
        for each in (MIN_DIM, OPTIONAL)
    }
    return {**names, **others} if len(reader.problems) == before else None


def _texts(reader: Reader, path: KeyPath, value: Any) -> list[str]:
    """One text, or a list of them."""
    if isinstance(value, list):
        items = enumerate(cast("list[Any]", value))
        found = [reader.value(PATTERN, (*path, index), item) for index, item in items]
        return [text for text in found if text is not None]
    text = reader.value(PATTERN, path, value)
    return [] if text is None else [text]


def _rule(
    reader: Reader, given: Mapping[str, Any], path: KeyPath, own: Collection[str]
) -> Rule | None:
    """The optimizer or chain that a mapping names, with its hyperparameters."""
    if "chain" in given:
        return _chain(reader, given, path, own)
    key = reader.key_of(path, given, "optimizer")
    if key is None and closest("chain", given):
        reader.any_arguments(path, given, "optimizer", own)  # which tells of the misspelt key
        return None
    key = key or "optimizer"
    own = (*own, key)
    of = reader.component((*path, key), "optimizer")
    if of is None:
        meant = reader.meant((*path, key), "optimizer")
        if meant is None:  # then an argument is wrong where it suits no optimizer
            reader.any_arguments(path, given, "optimizer", own)
        else:
            reader.arguments(path, given, meant, own, reader.scheduled)
        return None
    if is_key_of_a_library(of.ref):
        what = "runs in its library's own loop: it serves no line of a policy; use it alone"
        reader.report((*path, key), f"{of.ref} {what}")
        return None
    values = reader.arguments(path, given, of, own, reader.scheduled)
    return Rule((Piece("optimizer", of.ref, values, path=path),), path=path)


def _chain(
    reader: Reader, given: Mapping[str, Any], path: KeyPath, own: Collection[str]
) -> Rule | None:
    here = (*path, "chain")
    if "optimizer" in given:
        both = (*path, "optimizer")
        reader.report(both, "a recipe has an optimizer or a chain, not both", key=True)
    lr = None
    for name, value in given.items():
        if name == LR.name:
            lr = reader.scheduled(LR, (*path, name), value)
        elif name not in own:
            reader.unknown((*path, name), [*own, LR.name], "unknown key for a chain")
    written = given["chain"]
    if not isinstance(written, list) or not written:
        shown = quoted(cast("object", written))
        reader.report(here, f"{shown} should be a list of transforms, first to last")
        return None
    made = pieces(reader, cast("list[Any]", written), here)
    return Rule(made, lr=lr, path=path) if made else None


def _before(reader: Reader, given: Mapping[str, Any], path: KeyPath) -> tuple[Piece, ...]:
    """The pieces before a rule: those of `before`, and then the clip."""
    written = given.get("before", [])
    found: tuple[Piece, ...] = ()
    if isinstance(written, list):
        found = pieces(reader, cast("list[Any]", written), (*path, "before"))
    else:
        reader.report((*path, "before"), f"{quoted(written)} should be a list of transforms")
    clip = _clip(reader, (*path, "clip")) if "clip" in given else None
    return found if clip is None else (*found, clip)


def _clip(reader: Reader, path: KeyPath) -> Piece | None:
    given = reader.mapping(path, "{global_norm: 1.0}")
    if given is None:
        return None
    for key in given:
        if key not in CLIPS:
            reader.unknown((*path, key), CLIPS, "unknown clip")
    kinds = [key for key in given if key in CLIPS]
    if len(given) != 1:
        what = "one kind of clip has a short form" if given else "is empty"
        reader.report(path, f"{what}; write {{global_norm: 1.0}}, or transforms under before")
    if not kinds:
        return None
    here, value = (*path, kinds[0]), given[kinds[0]]
    of = component(CLIPS[kinds[0]], "transform")
    if isinstance(value, dict) and "schedule" not in value:
        return piece_of(reader, of, here, cast("dict[str, Any]", value), [])
    known = arguments_of(of.factory)
    first = next(iter(known.values()))
    values = {n: argument.default for n, argument in known.items() if not argument.required}
    values[first.name] = reader.scheduled(first, here, value)
    return Piece("transform", of.ref, {name: values[name] for name in known}, path=here)
