"""Names that belong to the step loop, which no transform may declare."""

from __future__ import annotations

from collections.abc import Iterable

from rheostat.core.errors import InputError

BUFFERS = frozenset({"step", "accumulated", "master", "parked"})
"""Of a parameter's state."""

NUMBERS = frozenset(
    {
        "params",
        "param_names",
        "name",
        "rule",
        "algorithm",
        "plan",
        "mode",
        "given",
        "evaluating",
        "initial_lr",
        "max_lr",
        "min_lr",
        "max_momentum",
        "base_momentum",
        "swa_lr",
        "lr_factor",
        "factors",
        "updates",
        "samples",
        "tokens",
        "epochs",
        "fraction",
        "uncounted",
        "growth",
        "phase",
        "received",
        "renewed",
        "skipped",
        "observed",
        "limit",
        "maximize",
        "seed",
        "step",
        "gradient",
        "measured",
        "noise",
    }
)
"""Of a param group, or of a Hyper."""


def refuse_reserved(who: str, buffers: Iterable[str], numbers: Iterable[str]) -> None:
    """Raise InputError where a transform declares a buffer or a number of such a name."""
    for kind, reserved, names in (("buffer", BUFFERS, buffers), ("number", NUMBERS, numbers)):
        if found := sorted(reserved.intersection(names)):
            raise InputError(
                f"{who} declares a {kind} {found[0]!r}, a name that belongs to the loop; give it "
                "another"
            )
