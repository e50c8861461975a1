"""What goes wrong, said in one line: what, where, and what would be right.

Two kinds of fault reach a user: theirs (`InputError`, exit code 2) and the machine's
(`MachineError`, exit code 3: disk, store, missing extra). Anything else is a bug of ours
and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RheostatError(Exception):
    """Base of every error that is meant for the user; its text is one finished sentence."""

    exit_code = 1


class InputError(RheostatError, ValueError):
    """What the user gave is wrong: a name, a value, a file. Nothing was run or written."""

    exit_code = 2


class MachineError(RheostatError, OSError):
    """The environment is at fault: a disk, a store, an extra that is not installed."""

    exit_code = 3


class RheostatWarning(UserWarning):
    """What was done as asked, and may not be what was meant; its text is one finished sentence."""


ALSO_CALLED = {
    "learning_rate": "lr",
    "learning-rate": "lr",
    "step_size": "lr",
    "eta": "lr",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "epsilon": "eps",
    "beta": "betas",
    "grad_clip": "clip",
    "clip_grad_norm": "clip",
    "scheduler": "schedule",
}
"""What other libraries call it, where letters alone do not tell."""


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that a misspelt name most likely means, or that is its name here; None where
    none is near."""
    known = sorted(set(candidates))
    if (ours := ALSO_CALLED.get(name)) in known:
        return ours
    folded = {one.lower(): one for one in known}
    close = difflib.get_close_matches(name.lower(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def nearest(name: str, candidates: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the nearest real one, or all of them."""
    known = sorted(set(candidates))
    if meant := closest(name, known):
        return f"did you mean {meant!r}?"
    if not known:
        return "there is none to choose from"
    shown = ", ".join(known[:12]) + (", …" if len(known) > 12 else "")
    return f"known are: {shown}"
