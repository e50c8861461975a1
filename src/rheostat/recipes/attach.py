"""`attach`: a recipe bound to a model, as a `Run` that a user's loop steps."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from rheostat.checkpoint.generations import FOLDER, Keep
from rheostat.checkpoint.load import Checkpoint
from rheostat.core.errors import InputError, nearest
from rheostat.core.naming import unwrapped
from rheostat.core.schedule import Schedule
from rheostat.optimizers.changes import Change
from rheostat.optimizers.followed import Followed
from rheostat.optimizers.loop import Optimizer
from rheostat.recipes.build import to_run
from rheostat.recipes.bundle import Bundle, Progress, Stateful
from rheostat.recipes.changed import changed_checkpoint
from rheostat.recipes.decisions import regime_of
from rheostat.recipes.environments import run_environment
from rheostat.recipes.given import check_attached
from rheostat.recipes.hands import LossOf
from rheostat.recipes.oversight import Oversight
from rheostat.recipes.recipe import Recipe
from rheostat.recipes.recording import trained, trained_names
from rheostat.recipes.run import Run
from rheostat.recipes.saving import Saver
from rheostat.record.environment import facts, git_state
from rheostat.record.run import LOG_NAME
from rheostat.record.writer import RunWriter
from rheostat.signals.fingerprint import fingerprint, mark, rng_mark, section_names
from rheostat.signals.observation import Per
from rheostat.signals.order import Signals

Resume = Literal["never", "auto", "must"]
RESUMES = ("never", "auto", "must")
_REGIME = "regime"
"""What signals and regime are called among the objects that are saved."""


def attach(
    recipe: Recipe | str | Path | Mapping[str, Any],
    model: nn.Module,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    directory: str | Path | None = None,
    about: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    resume: Resume = "never",
    save_every: int | None = None,
    save_minutes: float | None = None,
    keep: int | Keep = 2,
    sampler: Stateful | None = None,
    extra: Mapping[str, Stateful] | None = None,
    changes: Sequence[Change] = (),
    signals: Signals = (),
    per: Per = "all",
    loss_of: LossOf | None = None,
) -> Run:
    """Bind a recipe to a model: its optimizer, its schedules and, with a directory, its record and
    its checkpoints.

    Args:
        recipe: a file, a mapping, or a Recipe.
        model: the module to train; its parameters are known by their names.
        steps: the horizon, in updates, of schedules that do not state their own.
        seconds: the budget of wall-clock time, for schedules that count its fraction.
        directory: where to record every step; None records nothing.
        about: anything more for the record's header, such as the seed.
        overrides: dotted keys of the recipe and what takes their place; see `Recipe.load`.
        resume: "auto" goes on from the newest good checkpoint in the directory, or begins where
            there is none; "must" refuses to begin; "never" begins, and keeps checkpoints only where
            one of the next two is given.
        save_every: updates from one save to the next; 200 with "auto" or "must" where neither this
            nor `save_minutes` is given.
        save_minutes: save where the last save is so many minutes ago.
        keep: how many checkpoints stay, the newest ones, or a `Keep`.
        sampler: what orders the data, saved with the run. `ResumableSampler` is saved by
            `run.batches`.
        extra: whatever else is to be saved, by name: a GradScaler, a loader, an evaluator.
        changes: in what model and recipe differ from what was saved; see
            `rheostat.optimizers.changes`. Made once: a restart goes on from what they led to.
        signals: to measure and record beside those that the recipe's regime needs; as a mapping,
            under names of your own.
        per: measure what is made of inner products by param "group" or by "parameter", too: series
            "gradient_norm[0]", "gradient_norm[head.weight]".
        loss_of: a function from a batch's number to its loss with the present weights, a tensor
            that can be differentiated: with it the safeguard looks again at batches that stood
            out, and can tell bad data from bad luck.

    Warns:
        RecipeWarning: what the recipe says and might not mean; `silence` holds codes.
        ResumeWarning: a damaged checkpoint was passed over, or the environment is another one, so
            that the run does not go on to the same bits.

    Raises:
        InputError: whatever is wrong with the recipe, or does not fit the model; a schedule that
            needs a horizon and has none; a horizon in the recipe and another one in `steps`, or any
            in another unit; a checkpoint of another recipe or model (then nothing was changed), or
            none under "must".
        MachineError: another process holds the directory, five starts in a row ended before a
            save, or the disk failed.
    """
    last = None if isinstance(keep, Keep) else keep
    numbers = {"save_every": save_every, "save_minutes": save_minutes, "keep": last}
    check_attached(model, directory, extra, signals, loss_of, numbers)
    model = unwrapped(model)  # its weights are saved under the same names with and without
    loaded = Recipe.load(recipe, overrides)
    bound = loaded if steps is None else loaded.bind(steps)
    for problem in (*bound.warnings, *bound.check(model)):
        warnings.warn(problem.line, RecipeWarning, stacklevel=2)
    others = _others(sampler, extra)
    bundle = Bundle(bound, model, to_run(bound.parts, model), others)
    regime = regime_of(bound.parts)
    oversight = None
    if regime is not None or signals:
        oversight = others[_REGIME] = Oversight(bundle, regime, signals, loss_of, per)
    elif per != "all":
        raise InputError(f"attach: per={per!r}: there are no signals; name them in signals=")
    saver = _saver(directory, resume, save_every, save_minutes, keep)
    if changes and resume == "never":
        raise InputError("attach: changes are made to what a run resumes; resume='must'")
    with contextlib.ExitStack() as undo:
        saved = None
        if saver is not None:
            undo.callback(saver.close, well=False)
            saved = saver.open(resume)
            if changes:
                saved = _changed(saved, changes, bundle)
        progress, notes = (Progress(), []) if saved is None else _put(bundle, saved)
        if saver is not None:
            saver.begin()  # not before: a checkpoint that does not fit is no crash
        writer = None
        if directory is not None and resume != "never" and Path(directory, LOG_NAME).exists():
            fields = {**_resumption(saved, notes), "changed": progress.changed}
            # A record that began before the recipe was changed bears the hash of that time.
            first = progress.changed[0]["recipe_hash"] if progress.changed else bound.hash
            same = {"recipe_hash": first}
            writer = RunWriter.resume(directory, progress.batches, fields, same)
        elif directory is not None:
            header = _header(bound, model, bundle.optimizer)
            writer = RunWriter(directory, header, about)
        for note in [*(saved.passed_over if saved else ()), *notes]:
            warnings.warn(note, ResumeWarning, stacklevel=2)
        undo.pop_all()
    return Run(bundle, progress, writer, saver, seconds, oversight)


class RecipeWarning(UserWarning):
    """Something that a recipe says and might not mean; docs/guide/validation.md explains each."""


class ResumeWarning(UserWarning):
    """A run goes on, and not from the newest checkpoint, or not to the same bits."""


def _changed(saved: Checkpoint | None, changes: Sequence[Change], bundle: Bundle) -> Checkpoint:
    if saved is None:
        raise InputError("attach: changes: there is no checkpoint to change")
    return changed_checkpoint(saved, changes, bundle)


def _others(sampler: Stateful | None, extra: Mapping[str, Stateful] | None) -> dict[str, Stateful]:
    others = dict(extra or {})
    for name in ("sampler", _REGIME):
        if name in others:
            raise InputError(f"attach: extra: the name {name!r} is the run's own")
    if sampler is not None:
        others["sampler"] = sampler
    for name, other in others.items():
        if not (hasattr(other, "state_dict") and hasattr(other, "load_state_dict")):
            raise InputError(
                f"attach: {name!r} is a {type(other).__name__}, which has no state_dict and "
                "load_state_dict: it cannot be saved"
            )
    return others


def _saver(
    directory: str | Path | None,
    resume: Resume,
    every: int | None,
    minutes: float | None,
    keep: int | Keep,
) -> Saver | None:
    if resume not in RESUMES:
        raise InputError(f"attach: resume={resume!r}; {nearest(str(resume), RESUMES)}")
    if resume == "never" and every is None and minutes is None:
        return None
    if directory is None:
        raise InputError("attach: checkpoints need a directory: directory='runs/a'")
    if every is None and minutes is None:
        every = 200
    kept = keep if isinstance(keep, Keep) else Keep(last=keep)
    return Saver(Path(directory, FOLDER), every, minutes, kept)


def _put(bundle: Bundle, saved: Checkpoint) -> tuple[Progress, list[str]]:
    return bundle.put(saved.tensors, saved.documents, saved.path)


def _resumption(saved: Checkpoint | None, notes: list[str]) -> dict[str, Any]:
    """What the record says of a resumption, beside its step."""
    return {
        "updates": 0 if saved is None else saved.step,
        "checkpoint": None if saved is None else saved.path.name,
        "passed_over": [] if saved is None else list(saved.passed_over),
        "notes": notes,
        "facts": {**facts(), "started": time.time()},
    }


def _restarts(optimizer: Optimizer | Followed, steps: int | None) -> list[float]:
    """The planned restarts of the learning rate, in the unit of its schedule."""
    lr = optimizer.scheduled(0).get("lr")
    if not isinstance(lr, Schedule) or (lr.horizon is None and steps is None):
        return []
    end = steps if lr.unit == "updates" and steps is not None else lr.horizon
    return [restart.step for restart in lr.restart_events(before=end)]


def _header(recipe: Recipe, model: nn.Module, optimizer: Optimizer | Followed) -> dict[str, Any]:
    return {
        "recipe": recipe.canonical(),
        "recipe_hash": recipe.hash,
        "parameters": sum(param.numel() for param in model.parameters()),
        "weights": fingerprint(model.state_dict()),
        "tensors": {
            "names": section_names(trained_names(optimizer)),
            "mark": mark(trained(optimizer)),
        },
        "restarts": _restarts(optimizer, recipe.steps),
        "environment": run_environment(),
        "facts": {
            **facts(),
            "git": git_state(Path.cwd()),
            "started": time.time(),
            "seed": torch.initial_seed(),
            "rng": rng_mark(),
        },
    }
