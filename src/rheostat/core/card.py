"""Cards: what a component says of itself, read from its docstring.

The docstring is the one source: a summary, what is computed, then labelled lines (`LABELS`) and
one line an argument; a line that begins with a space goes on with the one before. An argument
says what it means, and then, for the components we ship, what is usual, in which unit, and what
it trades:

    lr: step size. Usual [1e-5, 1e-2] weight: more learns faster, too much diverges.

What follows from the code (bytes of state, sparse gradients, closures) is not written on a card:
`rheostat.optimizers.traits` works it out.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from rheostat.core.errors import InputError

LABELS: Mapping[str, str] = {
    "Variant": "Variant",
    "Equals": "Equals",
    "Assumes": "Assumes",
    "Theory": "Converges, in theory",
    "Practice": "Converges, in practice",
    "State": "State",
    "Flops": "Extra arithmetic",
    "Use": "Use it",
    "Avoid": "Leave it",
    "Recipe": "A recipe",
    "Tags": "Tags",
    "Stability": "Stable, because",
    "Worst": "At worst",
    "Study": "Shown by",
    "Source": "Source",
}
"""Label in the docstring -> heading where the card is shown."""

_WANTED: Mapping[str, tuple[str, ...]] = {
    "optimizer": tuple(label for label in LABELS if label not in ("Stability", "Worst", "Study")),
    "controller": ("Stability", "Worst", "Source"),
}
"""Kind -> the labels that one of ours must have."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Entry:
    """One argument on a card.

    `usual` has an interval for a number and one a part for a tuple of numbers; it is empty for
    what is no number. `common` is the usual value as it is written, whatever it is.
    """

    meaning: str
    common: str = ""
    usual: tuple[Interval, ...] = ()
    unit: str = ""
    trade: str = ""


@dataclass(frozen=True)
class Card:
    """A parsed docstring: `notes` holds the labelled lines, `arguments` an entry each, in order."""

    summary: str
    computes: str
    notes: Mapping[str, str] = field(default_factory=dict[str, str])
    arguments: Mapping[str, Entry] = field(default_factory=dict[str, Entry])

    @classmethod
    def parse(cls, doc: str, parameters: Iterable[str]) -> Card:
        """The card in a docstring of a factory with these parameters."""
        lines = doc.strip().splitlines()
        starts = {*LABELS, *parameters}
        body: list[str] = []
        blocks: dict[str, str] = {}
        last = ""
        for line in lines:
            found = re.match(r"(\w+):(?:\s+|$)", line)
            if found and found[1] in starts:
                last = found[1]
                blocks[last] = line[found.end() :].strip()
            elif not line.strip():
                last = ""
                body.append("")
            elif last:
                blocks[last] += f" {line.strip()}"
            else:
                body.append(line)
        summary, _, rest = "\n".join(body).strip().partition("\n\n")
        return cls(
            summary=" ".join(summary.split()),
            computes=re.sub(r"\n{3,}", "\n\n", rest.strip()),
            notes={label: blocks[label] for label in LABELS if label in blocks},
            arguments={name: _entry(blocks[name]) for name in parameters if name in blocks},
        )

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags, in the order in which they are written."""
        return tuple(filter(None, re.split(r"[,.\s]+", self.notes.get("Tags", ""))))

    def meaning(self, name: str) -> str | None:
        """What an argument means, in words; None where the card does not say."""
        return self.arguments[name].meaning if name in self.arguments else None

    def usual(self, name: str) -> tuple[Interval, ...]:
        """The usual range of an argument, one interval a number in it; empty where none is given.

        A schedule's peak above the last end, or a number outside, is worth a warning, no error.
        """
        return self.arguments[name].usual if name in self.arguments else ()

    def state_bytes(self, *shape: int) -> int:
        """What the `State:` line says that a float32 parameter of this shape, a matrix or a vector,
        costs; the step count, 4 bytes a parameter, is not in it.

        Raises InputError where there is no such line, or it says nothing of the shape.
        """
        found = re.match(r"(.+?) bytes for m × n, (.+?) for n\b", self.notes.get("State", ""))
        if not found or len(shape) not in (1, 2):
            raise InputError(f"the card has no line `State:` that speaks of the shape {shape}")
        letters = "mn" if len(shape) == 2 else "n"
        names = {letter: float(size) for letter, size in zip(letters, shape, strict=True)}
        return round(evaluate(found[1] if len(shape) == 2 else found[2], names))

    def missing(self, kind: str, parameters: Iterable[str]) -> list[str]:
        """What the card of one of ours lacks, in words; empty for a complete one.

        An optimizer's and a controller's say everything that concerns them; others have a summary,
        and a line an argument.
        """
        whole = kind in _WANTED
        lacks = [] if self.summary else ["a summary"]
        if whole and not self.computes:
            lacks.append("what it computes")
        lacks += [f"a line `{k}:`" for k in _WANTED.get(kind, ()) if not self.notes.get(k)]
        for name in parameters:
            entry = self.arguments.get(name)
            if entry is None or not entry.meaning:
                lacks.append(f"a line `{name}:`")
            elif whole and not (entry.common and entry.trade):
                lacks.append(f"what is usual for {name}, and what it trades")
        return lacks


def _entry(text: str) -> Entry:
    """`meaning. Usual VALUE UNIT: trade.` taken apart."""
    meaning, found, rest = text.partition(" Usual ")
    if not found:
        return Entry(text)
    said, _, trade = rest.partition(": ")
    intervals = re.findall(r"\[([^,\]]+), ([^\]]+)\]", said)
    if not intervals:
        return Entry(meaning, common=said, trade=trade)
    common = ", ".join(f"[{low}, {high}]" for low, high in intervals)
    usual = tuple((float(low), float(high)) for low, high in intervals)
    return Entry(meaning, common, usual, said.rpartition("]")[2].strip(), trade)


_OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {"min": min, "max": max, "ceil": math.ceil}


def evaluate(formula: str, names: Mapping[str, float]) -> float:
    """The value of an arithmetic expression (+ - * / // min max ceil) in `names`.

    Raises InputError for anything else.
    """

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value(left), value(right))
            case ast.Call(func=ast.Name(id=name), args=args) if name in _FUNCTIONS:
                return _FUNCTIONS[name](*map(value, args))
            case _:
                raise InputError(f"{formula!r}: {ast.unparse(node)!r} is no part of a formula")

    try:
        return value(ast.parse(formula.strip(), mode="eval").body)
    except SyntaxError:
        raise InputError(f"{formula!r} is no formula") from None
