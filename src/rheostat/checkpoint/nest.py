"""A nest of values as tensors and a document, and back: what `state_dict` methods return.

None, bool, int, float, str and lists stay as they are, and so do mappings whose keys are strings.
What JSON has no form for is a mapping with one tag: `{"tensor": NAME}` and `{"array": NAME}` (their
content is saved under the name), `{"tuple": [...]}`, and `{"dict": [[key, value], ...]}` for other
mappings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from rheostat.checkpoint.damage import DamageError

TENSOR, ARRAY, TUPLE, DICT = TAGS = ("tensor", "array", "tuple", "dict")


def take_apart(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What stays of `value` for a document; each tensor or array in it is put into `tensors`, under
    `name` and its place, and is not copied. What a document cannot hold is left to its writer to
    refuse.
    """
    if isinstance(value, Tensor):
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(cast("np.ndarray[Any, Any]", value).copy())
        return {ARRAY: name}
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        parts = [(key, take_apart(part, f"{name}.{key}", tensors)) for key, part in items]
        plain = all(isinstance(key, str) for key, _ in parts)
        if plain and not (len(parts) == 1 and parts[0][0] in TAGS):
            return dict(parts)
        return {DICT: [[take_apart(key, name, tensors), part] for key, part in parts]}
    if isinstance(value, list | tuple):
        listed = cast("list[Any]", value)
        parts = [take_apart(part, f"{name}.{i}", tensors) for i, part in enumerate(listed)]
        return {TUPLE: parts} if isinstance(value, tuple) else parts
    return value


def put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `take_apart` was given, over the very tensors in `tensors`.

    Raises:
        DamageError: it is not what `take_apart` returns.
    """
    if isinstance(value, list):
        return [put_together(part, tensors) for part in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    found = cast("dict[str, Any]", value)
    if len(found) != 1 or (tag := next(iter(found))) not in TAGS:
        return {key: put_together(part, tensors) for key, part in found.items()}
    try:
        return _TAGGED[tag](found[tag], tensors)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DamageError):
            raise
        raise DamageError(f"a saved value is not as it is written here: {error!r}") from error


_TAGGED: Mapping[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    TENSOR: lambda name, tensors: tensors[name],
    ARRAY: lambda name, tensors: tensors[name].numpy(),
    TUPLE: lambda parts, tensors: tuple(put_together(parts, tensors)),
    DICT: lambda pairs, tensors: {
        put_together(key, tensors): put_together(part, tensors) for key, part in pairs
    },
}
