"""The codes of what does not fit together; docs/guide/validation.md has a section for each.

`rheostat.recipes.fit` finds them. A code is never used again for something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple


class Code(NamedTuple):
    """A check: how bad it is, and its title in the guide. `model`: it needs one to look at."""

    severity: Literal["error", "warning"]
    title: str
    model: bool = False


CODES: Mapping[str, Code] = {
    "RH001": Code("error", "A rule for matrices serves something else", model=True),
    "RH002": Code("error", "Sparse gradients for a rule that cannot take them", model=True),
    "RH003": Code("warning", "A schedule-free rule under a falling learning rate"),
    "RH004": Code("warning", "A rule that finds its own step size, and an lr that is not 1"),
    "RH005": Code("warning", "A rule that finds its own step size, under restarts"),
    "RH006": Code("warning", "L2 decay under a sign rule"),
    "RH007": Code("warning", "A clip after the direction is normalised"),
    "RH008": Code("error", "Two owners of one hyperparameter"),
    "RH009": Code("error", "A warm-up that is longer than the run"),
    "RH010": Code("warning", "A restart in the last part of the run"),
    "RH011": Code("warning", "bfloat16 weights that small updates do not move", model=True),
    "RH012": Code("error", "Accumulation, and a rule that looks at the loss elsewhere"),
    "RH013": Code("warning", "Two weight decays in one chain"),
    "RH014": Code("warning", "An average that begins after the run"),
    "RH015": Code("warning", "A precision that has nothing to act on", model=True),
    "RH016": Code("error", "A policy that does not fit the model", model=True),
    "RH017": Code("warning", "Fused matrices made orthogonal as one", model=True),
    "RH018": Code("warning", "A decay that is told of another peak than the lr has"),
    "RH019": Code("warning", "A learning rate above what is usual"),
    "RH020": Code("warning", "A controller of something that no rule has"),
    "RH021": Code("warning", "A restart trigger, and nothing to restart"),
    "RH022": Code("warning", "A larger batch in another library's loop"),
    "RH023": Code("warning", "The same controller twice"),
    "RH024": Code("warning", "Bounds of what nobody changes"),
    "RH025": Code("error", "A controller that reads a signal which there is not"),
    "RH026": Code("warning", "A schedule and a controller that move the same share"),
    "RH027": Code("warning", "A noise scale, and one gradient an update"),
    "RH028": Code("warning", "A way back to the start, and nobody who keeps it"),
    "RH029": Code("warning", "A restart trigger, and schedules that end on time"),
    "RH030": Code("warning", "Nothing that could end on time"),
    "RH031": Code("warning", "A regime that wants the loss to fall, and a rule that climbs"),
}
