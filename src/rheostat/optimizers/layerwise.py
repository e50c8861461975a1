"""Layer-wise learning rates: param groups whose factor falls with the distance from the output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any, SupportsFloat, cast

from torch import nn

from rheostat.core.errors import InputError
from rheostat.core.naming import bare, named_parameters


def layerwise_groups(
    model: nn.Module, decay: float, *, layers: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Param groups, one a depth, with ``lr_factor = decay ** (layers above it)``.

    Give them to `rheostat.optimizer` in place of the model. The loop multiplies the learning rate
    by a group's factor when the rule runs, so the group's `lr` stays that of all, and whoever
    schedules it, a schedule of ours or a scheduler of torch, is respected. Clark et al. 2020
    (arXiv:2003.10555); Bao et al. 2022 (arXiv:2106.08254).

    Args:
        model: every parameter of it lands in one group.
        decay: factor from one layer to the one below, in (0, 1].
        layers: shell patterns over parameter names, from the input to the output; a parameter has
            the depth of the first that it matches. By default the layers are the children of the
            longest ModuleList or Sequential: parameters that come before it in the model
            (embeddings) lie one below its first, those after it (a head) one above its last.

    Returns:
        Groups with "params" (name and parameter), "lr_factor" (1 for the last) and a "name".

    Raises:
        InputError: what is no module, a decay out of range, a parameter that no pattern matches or
            a pattern that matches none, no list of layers to go by.
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(model).__name__
        raise InputError(f"layerwise_groups: should be for a module, not an object of type {kind}")
    if not (isinstance(decay, SupportsFloat) and 0 < decay <= 1):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InputError(f"layerwise_groups: decay={decay!r}: should be above 0 and at most 1")
    depths = _by_pattern(model, layers) if layers else _by_stack(model)
    top = max(depths.values(), default=0)
    return [
        {
            "params": [(n, p) for n, p in named_parameters(model) if depths[n] == depth],
            "lr_factor": decay ** (top - depth),
            "name": f"layer {depth} of {top}",
        }
        for depth in sorted(set(depths.values()))
    ]


def _by_pattern(model: nn.Module, layers: Sequence[str]) -> dict[str, int]:
    depths: dict[str, int] = {}
    for name, _ in named_parameters(model):
        found = [depth for depth, pattern in enumerate(layers) if fnmatchcase(name, pattern)]
        if not found:
            raise InputError(
                f"layerwise_groups: no pattern of layers matches {name}; patterns go from the "
                "input to the output, and '*' at the end takes the rest"
            )
        depths[name] = found[0]
    for depth in set(range(len(layers))) - set(depths.values()):
        raise InputError(f"layerwise_groups: no parameter is left for the layer {layers[depth]!r}")
    return depths


def _by_stack(model: nn.Module) -> dict[str, int]:
    modules = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    stacks = [
        [f"{name}.{child}." if name else f"{child}." for child in _with_parameters(module)]
        for name, module in modules.items()
        if isinstance(module, nn.ModuleList | nn.Sequential)
    ]
    stack = bare(model, max(stacks, key=len)) if stacks else []
    if not stack:
        raise InputError(
            "layerwise_groups: the model has no ModuleList or Sequential to take for its layers; "
            "name them: layers=['embed.*', 'block1.*', …]"
        )
    depths: dict[str, int] = {}
    for name, _ in named_parameters(model):
        inside = [depth for depth, layer in enumerate(stack, 1) if name.startswith(layer)]
        # Parameters come in the order of the modules: the stack's lie together.
        after = len(stack) + 1 if any(depth > 0 for depth in depths.values()) else 0
        depths[name] = inside[0] if inside else after
    return depths


def _with_parameters(module: nn.Module) -> list[str]:
    """The names of its children that hold parameters."""
    children = dict(module.named_children())
    return [name for name, child in children.items() if list(child.parameters())]
