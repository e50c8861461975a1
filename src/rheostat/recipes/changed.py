"""Structural changes of a run's checkpoint: what was saved, made to fit what is here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor

from rheostat.checkpoint.compare import values_that_differ
from rheostat.checkpoint.load import Checkpoint
from rheostat.checkpoint.nest import put_together, take_apart
from rheostat.core.errors import InputError
from rheostat.core.naming import bare
from rheostat.optimizers.changes import (
    Change,
    changed_state,
    check_used,
    relabelled,
    relabelled_state,
    saved_names,
)
from rheostat.optimizers.followed import Followed
from rheostat.recipes.bundle import Bundle
from rheostat.recipes.optimizer_files import document_of, state_of

NAMES_ONLY = ("rename", "drop")
"""What can be done to a checkpoint without its model."""


def changed_checkpoint(
    saved: Checkpoint, changes: Sequence[Change], bundle: Bundle | None = None
) -> Checkpoint:
    """A checkpoint with these changes made, as `bundle` takes it; the saved one stays as it is.

    What was changed is noted in its documents. Where the last changes noted are these very ones,
    they were made before (the program was started again), and it is returned as it is. Without a
    bundle only names are changed.

    Raises:
        InputError: it is no run's; a difference that no change explains; a change that finds
            nothing to do, or needs the model and there is none.
    """
    documents = {name: dict(document) for name, document in saved.documents.items()}
    if missing := [n for n in ("run", "recipe", "model", "optimizer") if n not in documents]:
        raise InputError(f"{saved.path} is no checkpoint of a run: it has no {missing[0]}.json")
    progress = documents["run"]["progress"]
    operations = [change.data() for change in changes]
    if progress["changed"] and progress["changed"][-1]["operations"] == operations:
        return saved
    if needy := [change for change in changes if bundle is None and change.kind not in NAMES_ONLY]:
        raise InputError(f"{needy[0]} needs the model, which a checkpoint has not")
    tensors = {file: dict(named) for file, named in saved.tensors.items()}
    rest = put_together(documents["model"]["rest"], tensors["others"])
    weights: dict[str, Any] = {**tensors["model"], **rest}
    live = None if bundle is None else bundle.optimizer
    if isinstance(live, Followed):
        raise InputError(f"{live.called} keeps its state itself: no change is made to it here")
    state = state_of(documents["optimizer"], tensors["optimizer"])
    check_used(changes, [*dict.fromkeys([*weights, *saved_names(state)])], live)
    weights = relabelled(weights, changes)
    noted: dict[str, Any] = {
        "operations": operations,
        "checkpoint": saved.path.name,
        "recipe_hash": documents["recipe"]["hash"],
    }
    if bundle is None or live is None:
        state = relabelled_state(state, changes)
    else:
        progress = {**progress, "changes": _plans(progress["changes"], changes)}
        weights |= _added(bundle, weights, changes)
        bundle.check_model(weights)
        names = bare(bundle.model, weights)
        pairs = zip(names, weights.values(), strict=True)
        plain = {name: value for name, value in pairs if isinstance(value, Tensor)}
        state = changed_state(live, state, changes, plain)
        here = {"hash": bundle.recipe.hash, "canonical": bundle.recipe.canonical()}
        before, documents["recipe"] = documents["recipe"]["canonical"], here
        noted["recipe"] = list(values_that_differ(before, here["canonical"]))
    tensors["model"] = {n: value for n, value in weights.items() if isinstance(value, Tensor)}
    left = {n: value for n, value in weights.items() if not isinstance(value, Tensor)}
    modules = dict.fromkeys(documents["model"]["evaluating"], True)
    documents["model"] = {
        "evaluating": list(relabelled(modules, changes, modules=True)),
        "rest": take_apart(left, "rest", tensors["others"]),
    }
    tensors["optimizer"] = {}
    documents["optimizer"] = document_of(state, tensors["optimizer"])
    progress = {**progress, "changed": [*progress["changed"], noted]}
    documents["run"] = {**documents["run"], "progress": progress}
    return replace(saved, tensors=tensors, documents=documents)


def _added(bundle: Bundle, weights: dict[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """The model's own values of what is new."""
    patterns = [name for change in changes if change.kind == "add" for name in change.names]
    return {
        name: value
        for name, value in bundle.model.state_dict().items()
        if name not in weights and any(fnmatchcase(name, pattern) for pattern in patterns)
    }


def _plans(plans: list[dict[str, Any]], changes: Sequence[Change]) -> list[dict[str, Any]]:
    """The changes of plan that go on: none, for one made to a schedule that is another now, or to
    groups that are others, could not be made again."""
    here = [name for change in changes if change.kind == "take_here" for name in change.names]
    for plan in plans:
        name = plan["arguments"]["hyperparameter"]
        if not any(fnmatchcase(name, pattern) for pattern in here):
            raise InputError(
                f"the schedule of {name} was changed in mid-run ({plan['operation']}); "
                f"take_here({name!r}) goes on with the one given here"
            )
    return []
