"""Two runs, compared: what `rheostat diff RUN RUN` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from rheostat.cli.app import print_json

if TYPE_CHECKING:
    from rheostat.recipes.apart import Apart
    from rheostat.record.run import RunRecord

SHOWN = 6
"""Differing tensors, and differing facts, that a person is shown; --json has all."""


def diff_runs(left: str, right: str, store: str | None, as_json: bool) -> bool:
    """Print where two runs part; returns whether they do. Errors as `run_directory`."""
    from rheostat.recipes.apart import compare
    from rheostat.record.find import run_directory

    found = compare(run_directory(left, store), run_directory(right, store))
    if as_json:
        print_json(_data(found))
    else:
        typer.echo("\n".join(_lines(found)))
    return found.parting is not None


def _data(found: Apart) -> dict[str, Any]:
    parting = found.parting and asdict(found.parting)
    return {
        "first": str(found.one.directory),
        "second": str(found.other.directory),
        "same": parting is None,
        "parting": parting,
        "checkpoints": {"batches": found.batches, "differences": found.checkpoints},
        "given": found.given,
    }


def _lines(found: Apart) -> list[str]:
    from rheostat.recipes.causes import CAUSES

    said = [
        f"{side}: {_about(run)}" for side, run in (("first", found.one), ("second", found.other))
    ]
    parting = found.parting
    if parting is None:
        said.append("the same to the bit, as far as it was recorded")
    else:
        where = "before the first step" if parting.step is None else f"at step {parting.step}"
        values = f"{parting.first} in the first, {parting.second} in the second"
        said.append(f"they part {where}: {parting.what}: {values}")
        if parting.tensor is not None:
            said.append(f"first tensor: {parting.tensor}")
        said.append(f"cause: {CAUSES[parting.cause]}: {parting.why}")
    if found.batches is not None:
        kept = f"the checkpoints after {found.batches} batches"
        differ = found.checkpoints
        said.append(f"{kept} differ in {len(differ)} places" if differ else f"{kept} are the same")
        said += _shortened(differ)
    if found.given:
        said.append("what else they were given:" if parting else "though they were given:")
        said += _shortened(found.given)
    return said


def _about(run: RunRecord) -> str:
    return f"{run.directory}: {run.steps.size} steps, {run.ending}"


def _shortened(lines: list[str]) -> list[str]:
    more = [f"  … and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [*(f"  {line}" for line in lines[:SHOWN]), *more]
