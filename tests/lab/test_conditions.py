"""Studies with faults, sweeps and contestants: read, named, run, killed and resumed, judged."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.lab.conftest import record, silent, task_of

from rheostat.core.errors import InputError
from rheostat.lab.contestants import CONTESTANTS, Watched
from rheostat.lab.courses import course
from rheostat.lab.execute import execute
from rheostat.lab.faults import FAULTS
from rheostat.lab.plan import Plan
from rheostat.lab.results import load_results
from rheostat.record.run import RunRecord
from rheostat.record.store import Store
from rheostat.report.conditions import tables

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

ROOT = Path(__file__).resolve().parents[2]

STUDY = """\
study: Faults
question: Who?
hypothesis: Some.
why: To test it.
workload: {workload: digits_mlp, hidden: 8}
recipe: {optimizer: adamw, lr: {schedule: cosine, peak: 0.01}}
arms:
  ours: {}
  torch: {contestant: torch_adamw, lr: 0.01}
baseline: ours
seeds: 2
steps: 60
metric: {name: test_accuracy, margin: 0.05}
"""
FAULTY = "evaluate_every: 20\njudge: recovery\nfaults: {broken: {fault: nan_gradients, steps: 1}}\n"
SWEPT = "judge: width\nsweep: {key: lr.peak, values: [0.001, 0.01, 1.0e+30]}\n"
RECIPES = STUDY.replace("torch: {contestant: torch_adamw, lr: 0.01}", "slow: {weight_decay: 0.1}")


def load(text: str) -> Plan:
    Path("study.yaml").write_text(text)
    return Plan.load("study.yaml")


def test_the_plan_writes_out_what_is_varied() -> None:
    plan = load(STUDY + FAULTY)
    assert plan.conditions == ("undisturbed", "broken")
    assert plan.frozen()["faults"] == {"broken": {"fault": "nan_gradients", "at": 0.4, "steps": 1}}
    assert plan.frozen()["arms"]["torch"] == {
        "contestant": "torch_adamw",
        "lr": 0.01,
        "weight_decay": 0.01,
        "clip": 1.0,
        "warmup": 0,
    }
    assert Plan.of(plan.canonical()) == plan
    assert len({spec.run_id for spec in plan.runs()}) == len(plan.runs()) == 8
    assert load(STUDY).hash != plan.hash
    assert plan.fault("undisturbed") is None
    assert plan.fault("broken").steps == 1
    with pytest.raises(InputError, match="is a contestant"):
        plan.recipe("torch")


def test_a_sweep_changes_one_number_of_every_recipe() -> None:
    plan = load(RECIPES + SWEPT)
    assert plan.conditions == ("lr.peak=0.001", "lr.peak=0.01", "lr.peak=1e+30")
    for arm, decay in (("ours", 0.01), ("slow", 0.1)):
        recipe = plan.recipe(arm, "lr.peak=0.001").canonical()
        assert (recipe["lr"]["peak"], recipe["weight_decay"]) == (0.001, decay)
    with pytest.raises(InputError, match="no condition"):
        plan.recipe("ours", "lr.peak=7")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STUDY + "faults: {x: {fault: lr_spik}}", "faults.x.fault: .*did you mean 'lr_spike'"),
        (STUDY + "faults: {x: {fault: lr_spike, at: 1.5}}", "faults.x.at"),
        (STUDY + "faults: {x: {fault: lr_spike, height: 3}}", "faults.x.height: unknown key"),
        (STUDY + "faults: {undisturbed: {fault: lr_spike}}", "not 'undisturbed'"),
        (STUDY + "judge: recovery", "cannot be judged without 'faults'"),
        (STUDY + "faults: {}\nevaluate_every: 9\njudge: recovery", "without 'faults'"),
        (STUDY + "judge: bravery", "judge"),
        (STUDY.replace("torch_adamw", "torch_adam"), "did you mean 'torch_adamw'"),
        (STUDY.replace("torch_adamw, lr: 0.01", "torch_adamw"), "arms.torch: 'lr' is missing"),
        (STUDY + SWEPT, "a sweep is over recipes"),
        (RECIPES + SWEPT.replace("lr.peak", "lr.pea"), "sweep.key: arm ours: .*pea"),
        (RECIPES + SWEPT.replace("0.001, ", "0.01, "), "holds a value twice"),
        (RECIPES + SWEPT + FAULTY.replace("judge: recovery\n", ""), "faults or a number, not both"),
    ],
)
def test_what_is_wrong_is_said_in_its_place(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load(text)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "study.yaml").write_text(STUDY + FAULTY)
    plan = Plan.load(folder / "study.yaml")
    with Store.open(folder / "store") as store:
        record(plan, store, plan.runs())
        assert execute(plan, store, 1, silent) == []
        return load_results(store, plan.id)


def test_a_study_of_faults_is_judged(faulty: Any) -> None:
    assert faulty.verdict is not None
    assert faulty.parting is None
    assert faulty.missing == faulty.problems == ()
    found = {arm.name: [s.value for s in arm.scores] for arm in faulty.verdict.arms}
    assert found == {"ours": [1.0, 1.0], "torch": [0.0, 0.0]}, "one skips, the other diverges"
    ordeals = {row.arm: row for row in faulty.resilience.ordeals}
    assert (ordeals["ours"].noticed, ordeals["ours"].delay, ordeals["ours"].recovered) == (2, 0, 2)
    assert (ordeals["torch"].noticed, ordeals["torch"].recovered) == (0, 0)
    assert [row.alarms for row in faulty.resilience.alarms] == [0, 0]
    assert {run.condition for run in faulty.runs} == {"undisturbed"}


def test_both_arms_are_the_same_rule_where_all_is_well(faulty: Any) -> None:
    """Ours without a clip that ever binds, and torch's, on the same batches."""
    ours, theirs = (faulty.of_arm(arm)[0].record for arm in ("ours", "torch"))
    assert ours.batches == theirs.batches
    assert ours.series["lr"].tolist() == pytest.approx(theirs.series["lr"].tolist(), rel=1e-12)
    shown = [course(record, "test_accuracy").evaluations for record in (ours, theirs)]
    assert [*shown[0]] == [*shown[1]] == [20, 40, 60]


def test_its_tables_hold_every_arm_and_fault(faulty: Any) -> None:
    under, alarms = tables(faulty)
    assert [row[:5] for row in under.rows] == [
        ["broken", "ours", "2 of 2", "0", "2 of 2"],
        ["broken", "torch", "0 of 2", "", "0 of 2"],
    ]
    assert [row[:3] for row in alarms.rows] == [["ours", "0", "120"], ["torch", "0", "120"]]


def test_a_sweep_is_judged_by_its_width(tmp_path: Path) -> None:
    plan = load(RECIPES + SWEPT)
    with Store.open(tmp_path / "store") as store:
        record(plan, store, plan.runs())
        assert execute(plan, store, 1, silent) == []
        results = load_results(store, plan.id)
    assert results.verdict is not None
    assert results.verdict.unit == "decades"
    assert results.sweep is not None
    assert results.sweep.failures[2] == (2, 2)
    assert results.sweep.means[2] == (0.0, 0.0)
    assert {run.condition for run in results.runs} == {"lr.peak=0.01"}
    (table,) = tables(results)
    assert table.rows[2] == ["1e+30", "0.0000 (2 failed)", "0.0000 (2 failed)"]


KILLED = STUDY.replace("torch: {contestant: torch_adamw", "plateau: {contestant: torch_plateau")
KILLED += "evaluate_every: 10\nfaults: {killed: {fault: interruption, at: 0.43}}\n"


class _Killed(BaseException):
    """In the place of a signal, so that the process of the tests goes on."""


def test_a_stopped_run_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = load(KILLED)

    def kill(*_: object) -> None:
        raise _Killed

    monkeypatch.setattr(os, "kill", kill)
    with Store.open(tmp_path / "store") as store:
        for spec in (s for s in plan.runs() if s.seed == 1):
            if spec.condition == "killed":
                with pytest.raises(_Killed):
                    record(plan, store, [spec])
            record(plan, store, [spec])
        runs = {
            (spec.arm, spec.condition): RunRecord.read(store.run_directory(plan.id, spec.run_id))
            for spec in plan.runs()
            if spec.seed == 1
        }
    for arm in ("ours", "plateau"):
        whole, stopped = runs[arm, "undisturbed"], runs[arm, "killed"]
        assert whole.fingerprint == stopped.fingerprint
        assert whole.batches == stopped.batches
        assert whole.series["loss"].tolist() == stopped.series["loss"].tolist()
        one, other = (course(found, "test_accuracy") for found in (whole, stopped))
        assert one.evaluations == other.evaluations
        assert (one.resumed, other.resumed) == ((), (24,))


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bits(tmp_path: Path) -> None:
    """A real SIGKILL between two checkpoints, of a recipe and of a contestant."""
    plan = load(KILLED)
    told: list[str] = []
    with Store.open(tmp_path / "store") as store:
        specs = [s for s in plan.runs() if s.seed == 1 or s.condition == "undisturbed"]
        record(plan, store, [s for s in specs if s.condition == "undisturbed"])
        assert execute(plan, store, 2, lambda now: told.append(now.news)) == []
        results = load_results(store, plan.id)
    assert sum("killed, as planned" in line for line in told) == 4
    assert results.resilience is not None
    for row in results.resilience.ordeals:
        assert row.recovered == 2
        # Killed at step 25 and saved at 24, or at 20 where the last save was still under way.
        assert row.lost in (1, 3, 5)
    by_place: dict[Any, set[str]] = {}
    with Store.open(tmp_path / "store") as store:
        for run in store.runs(plan.id):
            by_place.setdefault((run.arm, run.seed), set()).add(run.fingerprints["final"])
    assert all(len(prints) == 1 for prints in by_place.values())


def _trained(name: str, spoil: int | None = None) -> tuple[Watched, list[Any]]:
    task = task_of(load(STUDY))
    model = task.model(0)
    watched = CONTESTANTS[name](lr=0.01)(model, 40)
    decided: list[Any] = []
    batches = task.batches(0)
    for step in range(40):
        watched.optimizer.zero_grad()
        loss = task.loss(model, next(batches))
        loss.backward()
        if step == spoil:
            model[0].weight.grad[0, 0] = math.nan
        decided += watched.step(loss.item())
    return watched, decided


def test_the_clip_of_a_contestant_is_torchs() -> None:
    watched, decided = _trained("torch_adamw")
    assert decided == []
    norms = [p.grad.norm() for group in watched.optimizer.param_groups for p in group["params"]]
    assert torch.stack(norms).norm() <= 1 + 1e-5


def test_a_plateau_lowers_the_rate_and_says_so() -> None:
    watched, _ = _trained("torch_plateau")
    decided = [one for _ in range(13) for one in watched.evaluated(1.0)]
    assert decided == [
        {"kind": "scale", "hyperparameter": "lr", "factor": pytest.approx(0.1)},
    ]
    assert watched.evaluated(math.nan) == []
    again, _ = _trained("torch_plateau")
    again.load_state_dict(watched.state_dict())
    assert again.optimizer.param_groups[0]["lr"] == pytest.approx(0.001)


def test_greedy_lr_is_that_of_transformers() -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    watched, _ = _trained("greedy_lr")
    decided = [one for value in range(30, 0, -1) for one in watched.evaluated(float(value))]
    assert {one["kind"] for one in decided} == {"scale"}
    assert all(one["factor"] > 1 for one in decided), "it raises the rate where all goes well"
    assert watched.state_dict()["scheduler"]


def test_stability_guard_skips_what_is_not_finite() -> None:
    pytest.importorskip("stabilityguard", reason="stabilityguard is not installed")
    watched, decided = _trained("stability_guard", spoil=20)
    watched.close()
    assert {"kind": "skip"} in decided


def test_trainscope_only_reports() -> None:
    pytest.importorskip("trainscope", reason="trainscope is not installed")
    watched, _ = _trained("trainscope")
    watched.close()


@pytest.mark.parametrize("path", sorted((ROOT / "studies").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_study_that_ships_is_valid(path: Path) -> None:
    plan = Plan.load(path)
    assert len(plan.runs()) == len(plan.arms) * len(plan.seeds) * len(plan.conditions)


def test_the_study_of_faults_has_them_all() -> None:
    plan = Plan.load(ROOT / "studies" / "regimes" / "faults.yaml")
    assert {fault["fault"] for fault in plan.varied["faults"].values()} == set(FAULTS)
