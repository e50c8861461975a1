"""Files of torch, turned into checkpoints and back.

The one place that reads a pickle, and it does so with `weights_only=True`: tensors and plain
containers, no code. Tensors keep their bits, dtypes and ties; a `Parameter` becomes its tensor.
"""

from __future__ import annotations

import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from rheostat.checkpoint.damage import DamageError
from rheostat.checkpoint.load import Checkpoint
from rheostat.checkpoint.save import write
from rheostat.core.durable import JsonObject, disk_errors, sync_directory
from rheostat.core.errors import InputError

TENSORS, STRUCTURE = "tensors", "structure"
"""The tensor file and the document of a converted file."""


def from_torch(source: Path, directory: Path, step: int = 0) -> Path:
    """Save what `torch.save` wrote to `source` as a checkpoint in `directory`; return its folder.

    Raises:
        InputError: `source` is no such file, or holds more than tensors, numbers, strings, lists,
            tuples and dicts; says what and where.
        MachineError: it cannot be read, or the checkpoint not be written.
    """
    tensors: dict[str, Tensor] = {}
    structure = _described(read_plain(source), "", tensors)
    return write(directory, step, {TENSORS: tensors}, {STRUCTURE: {"root": structure}})


def read_plain(source: Path) -> object:
    """What `torch.save` wrote to `source`, on the CPU.

    Raises:
        InputError: `source` is no such file, or holds code.
        MachineError: it cannot be read.
    """
    with disk_errors("read", source):
        if not source.is_file():
            raise InputError(f"there is no file {source}")
        try:
            return torch.load(source, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # torch raises anything at a file of another kind
            reason = str(error).partition("\n")[0][:200]
            raise InputError(
                f"{source} cannot be read as plain data (weights_only=True): {reason}"
            ) from error


def to_torch(checkpoint: Checkpoint, target: Path) -> None:
    """Write a checkpoint as one file for `torch.load`; one that `from_torch` made gets the very
    structure it had, any other `{"step", "tensors", "documents"}`.

    Raises:
        InputError: `target` is there already.
        MachineError: it cannot be written.
    """
    if STRUCTURE in checkpoint.documents and TENSORS in checkpoint.tensors:
        content = _rebuilt(
            checkpoint.documents[STRUCTURE].get("root"),
            _own_memory(checkpoint.tensors[TENSORS]),
        )
    else:
        tensors = {file: _own_memory(named) for file, named in checkpoint.tensors.items()}
        documents = {name: dict(document) for name, document in checkpoint.documents.items()}
        content = {"step": checkpoint.step, "tensors": tensors, "documents": documents}
    write_plain(content, target)


def write_plain(content: object, target: Path) -> None:
    """Write `content` for `torch.load`: all of the file, or none.

    Raises:
        InputError: `target` is there already.
        MachineError: it cannot be written.
    """
    if target.exists():
        raise InputError(f"{target} is there already: choose another name")
    beside = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    with disk_errors("write", target):
        try:
            with beside.open("xb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(target)
        finally:
            beside.unlink(missing_ok=True)
        sync_directory(target.parent)


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that do not share the memory of their file, which `torch.save` would write for each;
    tied ones stay tied.
    """
    copies = {id(tensor): tensor.clone() for tensor in tensors.values()}
    return {name: copies[id(tensor)] for name, tensor in tensors.items()}


def _described(value: object, where: str, tensors: dict[str, Tensor]) -> object:
    """`value` as JSON that tells its containers apart; its tensors are moved to `tensors`."""
    if isinstance(value, Tensor):
        name = unique = where or "tensor"
        while unique in tensors:  # the keys "a.b" and "a" -> "b" meet in one name
            unique = f"{name}#{len(tensors)}"
        tensors[unique] = value
        return {"tensor": unique}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    if type(value) in (list, tuple):
        parts = cast("list[object]", value)
        listed = [_described(p, _below(where, i), tensors) for i, p in enumerate(parts)]
        return {type(value).__name__: listed}
    if type(value) in (dict, OrderedDict):
        items = cast("dict[object, object]", value).items()
        kind = "dict" if type(value) is dict else "ordered"
        for key, _ in items:
            if not isinstance(key, bool | int | float | str):
                raise InputError(f"{where or 'the file'} has the key {key!r}: no number or string")
        return {kind: [[k, _described(v, _below(where, k), tensors)] for k, v in items]}
    raise InputError(
        f"{where or 'the file'} is a {type(value).__name__}: a checkpoint holds tensors, numbers, "
        "strings, lists, tuples and dicts"
    )


def _below(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _rebuilt(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    match node:
        case {"tensor": str(name)} if name in tensors:
            return tensors[name]
        case {"value": value}:
            return value
        case {"list": [*parts]}:
            return [_rebuilt(part, tensors) for part in cast("list[JsonObject]", parts)]
        case {"tuple": [*parts]}:
            return tuple(_rebuilt(part, tensors) for part in cast("list[JsonObject]", parts))
        case {"dict": [*pairs]}:
            return _pairs(pairs, tensors)
        case {"ordered": [*pairs]}:
            return OrderedDict(_pairs(pairs, tensors))
        case _:
            raise DamageError("the structure of the converted file is not as it was written")


def _pairs(pairs: list[Any], tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {key: _rebuilt(part, tensors) for key, part in pairs}
