"""Rheostat: optimizers, learning-rate schedules and training regimes as composable parts.

The front door. Everything here is loaded when it is first used:

- `optimizer("adamw", model, lr=3e-4)` makes a torch optimizer; `chain` composes `transforms`;
  any hyperparameter takes one of the `schedules`.
- `attach("recipe.yaml", model, steps=…, directory=…)` binds a whole recipe to a model.
- Whatever is wrong raises `InputError`, yours to mend, or `MachineError`, the environment's.
- `components("optimizer")` and `component("adamw@1")` say what there is; `register` adds yours.

The rooms, from the ground up: `core`, then `transforms`, `schedules` and `signals`, then
`optimizers` and `record`, then `recipes`, `lab`, `report`, and `cli` on top.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheostat import schedules as schedules
    from rheostat import transforms as transforms
    from rheostat.core.errors import InputError as InputError
    from rheostat.core.errors import MachineError as MachineError
    from rheostat.core.registry import component as component
    from rheostat.core.registry import components as components
    from rheostat.core.registry import register as register
    from rheostat.core.schedule import Schedule as Schedule
    from rheostat.core.transform import Buffer as Buffer
    from rheostat.core.transform import Hyper as Hyper
    from rheostat.core.transform import Transform as Transform
    from rheostat.core.transform import chain as chain
    from rheostat.core.transform import named as named
    from rheostat.optimizers.build import optimizer as optimizer
    from rheostat.optimizers.layerwise import layerwise_groups as layerwise_groups
    from rheostat.optimizers.policy import match as match
    from rheostat.optimizers.policy import policy as policy
    from rheostat.optimizers.results import StepResult as StepResult
    from rheostat.recipes.attach import attach as attach
    from rheostat.recipes.recipe import Recipe as Recipe

_DOORS = {
    "Buffer": "rheostat.core.transform",
    "Hyper": "rheostat.core.transform",
    "InputError": "rheostat.core.errors",
    "MachineError": "rheostat.core.errors",
    "Recipe": "rheostat.recipes.recipe",
    "Schedule": "rheostat.core.schedule",
    "StepResult": "rheostat.optimizers.results",
    "Transform": "rheostat.core.transform",
    "attach": "rheostat.recipes.attach",
    "chain": "rheostat.core.transform",
    "component": "rheostat.core.registry",
    "components": "rheostat.core.registry",
    "layerwise_groups": "rheostat.optimizers.layerwise",
    "match": "rheostat.optimizers.policy",
    "named": "rheostat.core.transform",
    "optimizer": "rheostat.optimizers.build",
    "policy": "rheostat.optimizers.policy",
    "register": "rheostat.core.registry",
    "schedules": "rheostat.schedules",
    "transforms": "rheostat.transforms",
}

__all__ = [*_DOORS]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]
__version__ = "0.1.0.dev0"


def __getattr__(name: str) -> Any:
    if name not in _DOORS:
        raise AttributeError(f"module 'rheostat' has no attribute {name!r}")
    module = importlib.import_module(_DOORS[name])
    return module if module.__name__ == f"rheostat.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted([*_DOORS, "__version__"])
