"""Models that a person names on the command line; no file can name one."""

from __future__ import annotations

import importlib
import sys

from torch import nn

from rheostat.core.errors import InputError


def model_of(name: str) -> nn.Module:
    """The module that a function makes, by its name, `net:build`.

    Raises:
        InputError: no such function, or it raises, or gives something else.
    """
    module, colon, factory = name.partition(":")
    if not colon or not factory:
        raise InputError(f"--model {name}: should be MODULE:FACTORY, such as net:build")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as python -m does: modules beside the person are theirs
    try:
        made = getattr(importlib.import_module(module), factory)()
    except Exception as error:  # noqa: BLE001  (their code may raise anything; one line says what)
        raise InputError(f"--model {name}: {type(error).__name__}: {error}") from None
    if not isinstance(made, nn.Module):
        raise InputError(
            f"--model {name}: gave an object of type {type(made).__name__}, and no nn.Module"
        )
    return made
