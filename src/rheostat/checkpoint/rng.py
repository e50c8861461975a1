"""The states of random number generators as tensors and one document, without a pickle."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from rheostat.checkpoint.nest import put_together, take_apart
from rheostat.core.durable import JsonObject
from rheostat.core.errors import InputError

Source: TypeAlias = torch.Generator | np.random.Generator | np.random.RandomState | random.Random

PYTHON, NUMPY, TORCH, CUDA = "python", "numpy", "torch", "cuda"
"""Names of the global generators; CUDA's end in the device's number: `cuda.0`."""


def rng_state(extra: Mapping[str, Source] | None = None) -> tuple[dict[str, Tensor], JsonObject]:
    """The state of every generator: Python's, numpy's and torch's global ones (CUDA's where it is
    in use) and `extra`, the user's own by name.

    Returns tensors by name and a document, to be saved together.

    Raises:
        InputError: a name in `extra` is that of a global generator.
    """
    tensors: dict[str, Tensor] = {}
    document: JsonObject = {
        name: take_apart(_get(source), name, tensors) for name, source in _all(extra).items()
    }
    return tensors, document


def set_rng_state(
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    extra: Mapping[str, Source] | None = None,
) -> list[str]:
    """Put every generator back into the state that `rng_state` returned.

    Returns what could not be restored because it is not here or was not saved (a GPU, mostly), a
    sentence each.

    Raises:
        InputError: a state that is not one of its generator's kind; all are as they were.
    """
    sources = _all(extra)
    left = [
        f"the random state of {n} was saved, but {n} is not here"
        for n in document
        if n not in sources
    ]
    left += [f"no random state of {n} was saved" for n in sources if n not in document]
    before = {name: _get(source) for name, source in sources.items() if name in document}
    name = ""
    try:
        for name in before:
            _put(sources[name], put_together(document[name], tensors))
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        for done, state in before.items():
            _put(sources[done], state)
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"the random state saved for {name!r} does not fit the generator here: {reason}"
        ) from error
    return left


def _all(extra: Mapping[str, Source] | None) -> dict[str, Source | None]:
    """Every generator by name; None stands for numpy's global functions."""
    found: dict[str, Source | None] = {
        PYTHON: cast("Any", random.random).__self__,  # the instance behind the module's functions
        NUMPY: None,
        TORCH: torch.default_generator,
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {f"{CUDA}.{i}": g for i, g in enumerate(torch.cuda.default_generators)}
    if extra and (twice := sorted(found.keys() & extra.keys())):
        raise InputError(f"the generator {twice[0]!r} is saved anyway: give yours another name")
    return found | dict(extra or {})


def _get(source: Source | None) -> dict[str, Any]:
    """A generator's state: numbers, strings and arrays in dicts."""
    if isinstance(source, torch.Generator):
        return {"state": source.get_state().numpy()}
    if isinstance(source, random.Random):
        version, words, gauss = source.getstate()
        return {"version": version, "words": np.array(words, np.uint32), "gauss": gauss}
    if isinstance(source, np.random.Generator):
        return dict(source.bit_generator.state)
    legacy = np.random.get_state if source is None else source.get_state
    return legacy(legacy=False)


def _put(source: Source | None, state: dict[str, Any]) -> None:
    if isinstance(source, torch.Generator):
        source.set_state(torch.from_numpy(state["state"]))
    elif isinstance(source, random.Random):
        source.setstate((state["version"], tuple(state["words"].tolist()), state["gauss"]))
    elif isinstance(source, np.random.Generator):
        source.bit_generator.state = state
    else:
        legacy = np.random.set_state if source is None else source.set_state
        legacy(state)
