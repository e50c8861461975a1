"""Files of other libraries' training loops, turned into a run's checkpoint and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from rheostat.checkpoint.foreign import read_plain, write_plain
from rheostat.checkpoint.load import Checkpoint
from rheostat.checkpoint.save import write
from rheostat.checkpoint.tensors import assemble
from rheostat.core.durable import disk_errors
from rheostat.core.errors import InputError
from rheostat.integrations.states import export_state, import_state
from rheostat.recipes.bundle import Bundle, Progress
from rheostat.recipes.optimizer_files import state_of
from rheostat.recipes.recipe import Recipe


def run_from_state(
    source: Path,
    directory: Path,
    key: str,
    recipe: Recipe,
    model: nn.Module,
    *,
    names: nn.Module | Iterable[str] | None = None,
    step: int | None = None,
) -> Path:
    """Save a checkpoint from which a run of this recipe goes on; return its folder.

    Args:
        source: a file of an optimizer's state dict, such as Trainer's `optimizer.pt`.
        directory: the folder of the generations.
        key: that optimizer as the registry names it.
        recipe: of the run, with its horizon.
        model: with the weights that go with the state.
        names, step: as `states.import_state` takes them.

    Raises:
        InputError: the file holds more than plain data, or what does not map.
        MachineError: the disk failed.
    """
    content = read_plain(source)
    if not isinstance(content, Mapping) or not {"state", "param_groups"} <= set(
        cast("Mapping[str, Any]", content)
    ):
        raise InputError(f"{source} holds no optimizer's state dict (state and param_groups)")
    optimizer = recipe.build(model)
    state = cast("Mapping[str, Any]", content)
    import_state(optimizer, state, key, names=names, step=step)
    updates = int(optimizer.param_groups[0]["updates"])
    bundle = Bundle(recipe, model, optimizer, {})
    tensors, documents = bundle.take(Progress(batches=updates))
    return write(directory, updates, tensors, documents)


def state_to_file(saved: Checkpoint, target: Path, key: str, model: nn.Module) -> None:
    """Write the optimizer of a run's checkpoint as another library's state dict, for `torch.load`.

    `model` says what the parameters are; its weights do not matter.

    Raises:
        InputError: it is no run's checkpoint, what does not map, or `target` is there already.
        MachineError: it cannot be written.
    """
    if not {"recipe", "optimizer", "run"} <= set(saved.documents):
        raise InputError(f"{saved.path} is no checkpoint of a run")
    if saved.documents["run"]["progress"]["changes"]:
        raise InputError(
            f"{saved.path}: the schedule was changed in mid-run; resume it in Python and call "
            "export_state(run.optimizer, …)"
        )
    optimizer = Recipe.load(saved.documents["recipe"]["canonical"]).build(model)
    optimizer.load_state_dict(state_of(saved.documents["optimizer"], saved.tensors["optimizer"]))
    write_plain(export_state(optimizer, key), target)


def read_weights(source: Path) -> Mapping[str, Tensor]:
    """A model's state dict from a safetensors file, or from one of `torch.save`.

    Raises:
        InputError: it is neither.
        MachineError: it cannot be read.
    """
    if source.suffix == ".safetensors":
        with disk_errors("read", source):
            content = np.fromfile(source, np.uint8)
        return assemble({"model.safetensors": content})["model"]
    found = read_plain(source)
    if not isinstance(found, Mapping):
        raise InputError(f"{source} holds no state dict")
    return cast("Mapping[str, Tensor]", found)
