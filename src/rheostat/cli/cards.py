"""A card as text, Markdown and data: what is written on it, and what follows from the code."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rheostat.core.card import LABELS, Entry
from rheostat.core.component import Component
from rheostat.core.errors import InputError

if TYPE_CHECKING:
    from rheostat.optimizers.traits import Traits

WIDTH = 100


def traits_of(component: Component) -> Traits | None:
    """What follows from the code of an optimizer; None of another kind, or of another library."""
    if component.kind != "optimizer":
        return None
    from rheostat.optimizers.traits import Traits

    try:
        return Traits.of(component)
    except InputError:
        return None


def cost_of(component: Component) -> str | None:
    """What a signal takes, beside arithmetic; None of another kind."""
    if component.kind != "signal":
        return None
    required = (p for p in component.signature.parameters.values() if p.default is p.empty)
    return None if any(required) else component.factory().cost


def as_data(component: Component) -> dict[str, Any]:
    """The card for programs."""
    card, traits = component.card, traits_of(component)
    parameters = component.signature.parameters.values()
    return {
        "kind": component.kind,
        "name": component.name,
        "version": component.version,
        "plugin": component.plugin,
        "deprecated": component.deprecated,
        "summary": card.summary,
        "computes": card.computes,
        "arguments": {p.name: None if p.default is p.empty else p.default for p in parameters},
        "hyperparameters": {name: asdict(entry) for name, entry in card.arguments.items()},
        "notes": dict(card.notes),
        "tags": list(card.tags),
        "cost": cost_of(component),
        "traits": None if traits is None else asdict(traits),
        "card": component.doc,
    }


def as_text(component: Component) -> str:
    """The card for a terminal."""
    card = component.card
    lines = [f"{component.ref}  ({component.kind})", "", *textwrap.wrap(card.summary, WIDTH)]
    if component.deprecated:
        lines += ["", f"Deprecated: {component.deprecated}."]
    if card.computes:
        lines += ["", card.computes]
    parameters = list(component.signature.parameters.values())
    if parameters:
        lines += ["", "Arguments"]
    for parameter in parameters:
        lines.append(f"  {parameter.name} = {_default(parameter)}")
        lines += [
            line
            for said in _said(card.arguments.get(parameter.name, Entry("")))
            for line in textwrap.wrap(
                said, WIDTH - 6, initial_indent=" " * 6, subsequent_indent=" " * 6
            )
        ]
    for heading, said in _notes(component):
        lines += [
            "",
            heading,
            *textwrap.wrap(said, WIDTH, initial_indent="  ", subsequent_indent="  "),
        ]
    return "\n".join(lines)


def as_markdown(component: Component) -> str:
    """The card as a page."""
    card = component.card
    parts = [f"# {component.ref}", card.summary]
    if component.deprecated:
        parts.append(f"**Deprecated:** {component.deprecated}.")
    if card.computes:
        parts.append("\n".join(f"> {line}".rstrip() for line in card.computes.splitlines()))
    parameters = list(component.signature.parameters.values())
    if parameters:
        rows = [
            "| argument | default | usual | unit | meaning |",
            "| --- | --- | --- | --- | --- |",
        ]
        for parameter in parameters:
            entry = card.arguments.get(parameter.name, Entry(""))
            said = f"{entry.meaning} {_sentence(entry.trade)}".strip()
            usual = entry.common and f"`{entry.common}`"
            cells = (f"`{parameter.name}`", f"`{_default(parameter)}`", usual, entry.unit, said)
            rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        parts.append("\n".join(rows))
    parts += [f"**{heading}:** {_plain(heading, said)}" for heading, said in _notes(component)]
    return "\n\n".join(parts) + "\n"


def _plain(heading: str, said: str) -> str:
    return f"`{said}`" if heading == LABELS["Recipe"] else said.replace("*", "\\*")


def _default(parameter: inspect.Parameter) -> str:
    return "(required)" if parameter.default is parameter.empty else repr(parameter.default)


def _said(entry: Entry) -> Iterator[str]:
    if entry.meaning:
        yield entry.meaning
    if entry.common:
        unit = f" ({entry.unit})" if entry.unit else ""
        yield f"usual: {entry.common}{unit}; {entry.trade}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _notes(component: Component) -> Iterator[tuple[str, str]]:
    """Headings and sentences: the labelled lines, and what follows from the code after `State`."""
    traits = traits_of(component)
    for label, heading in LABELS.items():
        if label in component.card.notes:
            yield heading, component.card.notes[label]
        if label == "State" and traits is not None:
            yield from _derived(traits)
    if cost := cost_of(component):
        yield "Cost", f"{cost[:1].upper()}{cost[1:]}."


def _derived(traits: Traits) -> Iterator[tuple[str, str]]:
    size = f"{traits.state_bytes:.3f}".rstrip("0").rstrip(".")
    cost = f"{size} bytes of state an element of a hidden float32 matrix of 1024 × 1024"
    if not traits.closure:
        moved = f"{traits.passes:.2f}".rstrip("0").rstrip(".")
        cost += f"; at least {moved} reads and writes of an element a step"
    yield "Cost", f"{cost}."
    threads = (
        "any number of threads (compiled kernels aside)"
        if traits.elementwise
        else "the same number of threads"
    )
    yield "Guarantees", f"The same run gives the same bits, on one machine with {threads}."
    needs = {
        "a closure": traits.closure,
        "`Optimizer.observe` for samples of the curvature": traits.observes,
        "`Optimizer.averaged()` to evaluate": traits.averages,
        "all parameters in one optimizer, whose sums it takes": traits.together,
    }
    if any(needs.values()):
        yield "Needs", f"{'; '.join(need for need, holds in needs.items() if holds)}."
    lacks = {
        "sparse gradients": traits.sparse,
        "complex parameters": traits.complex,
        "a GradScaler": not traits.closure,
        "shards of a parameter without the whole": traits.shards,
    }
    if not all(lacks.values()):
        yield "Does not take", f"{'; '.join(what for what, takes in lacks.items() if not takes)}."
