"""Names of parameters: the same whether a model is wrapped or not.

A state saved on one process belongs to the same parameters under DistributedDataParallel, and that
of a compiled model to those of the model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any, cast

from torch import nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel and what torch.compile made."""
    while (inner := _inner(model)) is not None:
        model = cast("nn.Module", getattr(model, inner))
    return model


def named_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Name and parameter, without what the wrappers put into names."""
    pairs = list(model.named_parameters())
    names = bare(model, [name for name, _ in pairs])
    return [(name, param) for name, (_, param) in zip(names, pairs, strict=True)]


def bare(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Names of parameters or modules in the model, without what the wrappers put into them."""
    modules = cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))
    wrappers = [
        (f"{path}." if path else "", inner)
        for path, module in modules
        if (inner := _inner(module)) is not None
    ]
    # The innermost first: taken out, it leaves the way to those around it as it is.
    wrappers.sort(key=lambda one: -len(one[0]))
    found: list[str] = []
    for name in names:
        for path, inner in wrappers:
            if name.startswith(f"{path}{inner}."):
                name = path + name.removeprefix(f"{path}{inner}.")  # noqa: PLW2901
        found.append(name)
    return found


def _inner(module: nn.Module) -> str | None:
    """Under which name a wrapper holds what it wraps; None of what is no wrapper."""
    if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "module"
    # Imported by whoever compiled one; it takes a second, which nobody else should wait for.
    compiler: Any = sys.modules.get("torch._dynamo.eval_frame")
    compiled = compiler is not None and isinstance(module, compiler.OptimizedModule)
    return "_orig_mod" if compiled else None
