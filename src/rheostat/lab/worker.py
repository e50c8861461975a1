"""One worker process: it receives runs of a study, trains and records them."""

from __future__ import annotations

import math
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from rheostat.core.durable import sync_directory
from rheostat.core.errors import MachineError, RheostatError
from rheostat.lab.plan import Plan, RunSpec
from rheostat.record.run import compact_run


@dataclass(frozen=True)
class Outcome:
    """What a worker reports of a run; `fault` is a finished sentence, `trace` a bug's traceback."""

    spec: RunSpec
    fault: str | None = None
    trace: str | None = None
    machine: bool = False


def work(
    connection: Connection,
    plan: Mapping[str, Any],
    study: str,
    runs: Path,
    plugins: Sequence[str] = (),
) -> None:
    """The process's main: run each RunSpec that arrives until None does, or the parent dies.

    `plugins` are the modules that the person named, whose components the plan may be made of.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, who then tells us
    threading.Thread(target=_die_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    from rheostat.core.plugins import import_plugin
    from rheostat.core.registry import component

    bound = Plan.of(plan)
    arguments = dict(plan["workload"])
    name = arguments.pop("workload")
    task = None
    while (spec := _next(connection)) is not None:
        try:
            # Within the net: what cannot be loaded is reported like a run that cannot run.
            for module in plugins if task is None else ():
                import_plugin(module)
            task = task or component(name, "workload").factory(**arguments).load()
            run_one(bound, spec, task, study, runs / spec.run_id)
            outcome = Outcome(spec)
        except MachineError as error:
            outcome = Outcome(spec, str(error), machine=True)
        except RheostatError as error:
            outcome = Outcome(spec, str(error))
        except Exception as error:  # noqa: BLE001  (a bug in a workload must not end the study)
            outcome = Outcome(spec, f"{type(error).__name__}: {error}", traceback.format_exc())
        connection.send(outcome)


def run_one(plan: Plan, spec: RunSpec, task: Any, study: str, final: Path) -> None:
    """Train one run; `final` appears, complete, when it is done, and not before.

    A run whose training loss is no longer finite has diverged: it ends there, and its metrics
    are NaN; so has one that ends with a weight or a metric that is not finite. That is a result,
    not an error.
    """
    from rheostat.recipes.attach import attach

    if final.exists():
        return  # a worker was killed after it had finished and before it could say so
    part = final.with_name(final.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model = task.model(spec.seed)
    about = {"study": study, "arm": spec.arm, "seed": spec.seed, "data": task.data}
    run = attach(plan.recipe(spec.arm), model, directory=part, about=about)
    diverged = False
    with run:
        batches = task.batches(spec.seed)
        for _ in range(plan.steps):
            batch = next(batches)
            run.optimizer.zero_grad()
            loss = task.loss(model, batch)
            loss.backward()
            value = loss.item()
            run.step(value, batch=batch)
            if not math.isfinite(value):
                diverged = True
                break
        # The last update may have been the one that broke it: no loss has seen its weights.
        whole = not diverged and all(bool(p.isfinite().all()) for p in model.parameters())
        metrics = task.evaluate(model) if whole else dict.fromkeys(plan.metrics, math.nan)
        good = all(math.isfinite(value) for value in metrics.values())
        run.finish(metrics, "done" if whole and good else "diverged")
    compact_run(part)
    part.rename(final)
    sync_directory(final.parent)


def _next(connection: Connection) -> RunSpec | None:
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        return None


def _die_with_parent() -> None:
    """Leave when the parent is gone, also by SIGKILL: nobody would collect the results."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
