"""An optimizer's state dict as tensors and a document of a checkpoint, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rheostat.checkpoint.nest import put_together, take_apart


def document_of(state: Mapping[str, Any], tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The document; `tensors` gets the buffers, as PARAMETER/BUFFER."""
    names = {
        index: name
        for group in state["param_groups"]
        for index, name in zip(group["params"], group["param_names"], strict=True)
    }
    buffers: dict[str, list[str]] = {}
    for index, entry in state["state"].items():
        buffers[names[index]] = list(entry)
        tensors.update({f"{names[index]}/{key}": value for key, value in entry.items()})
    groups = [
        take_apart({k: v for k, v in group.items() if k != "params"}, f"group.{i}", tensors)
        for i, group in enumerate(state["param_groups"])
    ]
    return {"groups": groups, "buffers": buffers}


def state_of(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The state dict, over the very tensors."""
    groups: list[dict[str, Any]] = []
    index: dict[str, int] = {}
    for group in put_together(document["groups"], tensors):
        start = len(index)
        index |= {name: start + i for i, name in enumerate(group["param_names"])}
        groups.append({**group, "params": [index[name] for name in group["param_names"]]})
    state = {
        index[name]: {key: tensors[f"{name}/{key}"] for key in keys}
        for name, keys in document["buffers"].items()
    }
    return {"state": state, "param_groups": groups}
