"""run.replay: recorded steps repeated from a checkpoint, and the first difference named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import rheostat as rs
from rheostat.checkpoint.generations import FOLDER, Keep, generations
from rheostat.checkpoint.rng import rng_state
from rheostat.checkpoint.sampler import ResumableSampler
from rheostat.conformance.subject import bits, state_bits
from rheostat.core.errors import InputError
from rheostat.recipes.replaying import ReplayError
from rheostat.record.run import LOG_NAME

pytestmark = pytest.mark.filterwarnings("ignore:.*RH019")  # a large lr, on purpose

RECIPE: dict[str, Any] = {
    "optimizer": "sgd",
    "momentum": 0.9,
    "lr": {"schedule": "cosine_restarts", "peak": 0.1, "period": 5, "state": "reset"},
}
DATA = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))


class Loop:
    """A user's loop: dropout, a batch that is skipped, a change of plan, its own hooks."""

    def __init__(self, directory: Path, **given: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.sampler = ResumableSampler(40, 8, seed=1)
        options = {"save_every": 4, "keep": Keep(last=9), "sampler": self.sampler, **given}
        recipe = options.pop("recipe", RECIPE)
        self.run: Any = rs.attach(
            recipe, self.model, steps=40, directory=directory, resume="auto", **options
        )
        self.body: Callable[[Any], None] = self.step

    def step(self, indices: Any, scale: float = 1.0) -> None:
        """What the loop does with a batch."""
        run = self.run
        run.optimizer.zero_grad()
        poison = float("nan") if run.batches == 6 else 1.0
        loss = poison * scale * self.model(DATA[indices]).square().mean()
        loss.backward()
        run.step(loss, batch=DATA[indices])
        if run.batches == 14:
            run.save()

    def train(self, until: int) -> None:
        while self.run.batches < until:
            for indices in self.sampler:
                self.body(indices)
                if self.run.batches == until:
                    break

    def state(self) -> tuple[Any, ...]:
        """Everything that a replay must leave as it was."""
        run = self.run
        run._saver.wait()
        run._writer.flush()
        grads = [param.grad for param in self.model.parameters()]
        return (
            bits(list(self.model.parameters())),
            state_bits(run.optimizer),
            bits([grad for grad in grads if grad is not None]),
            bits(list(rng_state()[0].values())),
            self.sampler.state_dict(),
            run.batches,
            run.optimizer.last_step,
            run.optimizer.param_groups[0]["lr"],
            (run._writer.directory / LOG_NAME).read_bytes(),
            [found.path.name for found in generations(run._saver.directory)],
        )


def repeat(loop: Loop, steps: int, *given: Any, **options: Any) -> None:
    """A replay in which the loop does what it always does, or `body` in its place."""
    body = options.pop("body", loop.body)
    for indices in loop.run.replay(steps, *given, **options):
        body(indices)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    made = Loop(tmp_path / "run")
    with made.run:
        made.train(18)
        yield made


def test_steps_are_repeated_and_everything_is_left_as_it_was(loop: Loop) -> None:
    before = loop.state()
    for steps, first in ((1, 17), (2, 14), (4, 14), (9, 9), (14, 4)):
        seen: list[int] = []
        for indices in loop.run.replay(steps):
            seen.append(loop.run.batches)
            loop.step(indices)
        assert seen == list(range(first, first + steps))
        assert loop.state() == before
    with pytest.raises(InputError, match=r"at batch 18, .* are at 17, 14, 13, 9, 4: repeat"):
        repeat(loop, 18)
    loop.train(20)
    other = Loop(loop.run._writer.directory.parent / "other")
    with other.run:
        other.train(20)
        assert other.state()[:8] == loop.state()[:8]


def test_from_a_checkpoint_of_ones_choice_and_from_a_loader(loop: Loop) -> None:
    before = loop.state()
    second = generations(loop.run._saver.directory)[1].path
    seen: list[int] = []
    for indices in loop.run.replay(4, [[0]], checkpoint=second):
        seen.append(loop.run.batches)
        with pytest.raises(ReplayError, match=r"step 9 differs .*: batch \w+, recorded \w+; loss"):
            loop.step(indices)
        break
    assert seen == [9]
    assert loop.state() == before
    loader = torch.utils.data.DataLoader(
        range(40), batch_sampler=loop.sampler, generator=torch.Generator()
    )
    repeat(loop, 9, loader)
    assert loop.state() == before
    with pytest.raises(InputError, match="9 batches follow the checkpoint"):
        next(loop.run.replay(10, checkpoint=second))


def test_a_sampler_that_is_ahead_stays_ahead(loop: Loop) -> None:
    next(iter(loop.sampler))  # as a loader with workers does
    before = loop.state()
    assert loop.sampler.state_dict()["batches"] == loop.run.batches + 1
    repeat(loop, 4)
    assert loop.state() == before


def test_the_first_difference_is_named(loop: Loop) -> None:
    before = loop.state()

    def said(body: Callable[[Any], None]) -> str:
        with pytest.raises(ReplayError) as caught:
            repeat(loop, 4, body=body)
        assert loop.state() == before
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def at(number: int, act: Callable[[], object]) -> Callable[[Any], None]:
        def body(indices: Any) -> None:
            if loop.run.batches == number:
                act()
            loop.step(indices)

        return body

    def nudge() -> None:
        with torch.no_grad():
            loop.model[2].weight[0, 1] *= 1 + 2**-20

    louder = said(lambda indices: loop.step(indices, 1.5 if loop.run.batches == 15 else 1.0))
    assert "step 15 differs from the record: loss" in louder
    assert "random" not in louder
    drawn = said(at(16, lambda: torch.rand(1)))
    assert "step 16 differs from the record: loss" in drawn
    assert "other random numbers were drawn" in drawn
    assert "step 17" in said(at(17, nudge))
    replanned = said(at(15, loop.run.optimizer.plan.restart))
    assert "step 15 differs from the record, which has no such event: restart" in replanned


def test_an_update_that_goes_elsewhere_is_named_with_its_tensor(loop: Loop) -> None:
    before = loop.state()

    def moved(*_: Any) -> None:
        with torch.no_grad():
            loop.model[2].bias += 1e-3

    handle = loop.run.optimizer.register_step_post_hook(moved)
    with pytest.raises(ReplayError, match=r"step 14 .*record: the weights after it, first 2\.bias"):
        repeat(loop, 2)
    handle.remove()
    assert loop.state() == before


def test_what_the_run_became_is_compared_to_the_bit(loop: Loop) -> None:
    with torch.no_grad():
        loop.model[0].bias[3] += 1e-3  # by nobody's step
    before = loop.state()
    with pytest.raises(
        ReplayError, match=r"step 17 does not lead to where.* model/0\.bias: 1 of 4"
    ):
        repeat(loop, 4)
    assert loop.state() == before
    repeat(loop, 2)  # ends elsewhere: there is nothing to compare with
    assert loop.state() == before


def test_a_loop_that_leaves_or_does_not_step(loop: Loop) -> None:
    before = loop.state()
    for indices in loop.run.replay(4):
        loop.step(indices)
        loop.run.save()  # saves nothing
        break
    assert loop.state() == before
    with pytest.raises(InputError, match=r"batch 14 took 0 calls of run\.step"):
        repeat(loop, 4, body=lambda _: None)
    assert loop.state() == before
    with pytest.raises(ZeroDivisionError):
        repeat(loop, 4, body=lambda _: 1 // 0)
    assert loop.state() == before
    for _ in loop.run.replay(1):
        with pytest.raises(InputError, match="a replay already"):
            next(loop.run.replay(1))
        break
    for given, said in (
        (iter([1]), "what the iterator was made from"),
        (3, "no iterable"),
        ([], "none"),
    ):
        with pytest.raises(InputError, match=said):
            next(loop.run.replay(1, given))
    with pytest.raises(InputError, match="should be 1 or more"):
        next(loop.run.replay(0))


def test_plans_changed_in_mid_run_go_back_and_forth(tmp_path: Path) -> None:
    recipe = {"optimizer": "adamw", "lr": {"schedule": "cosine", "peak": 0.1}}
    loop = Loop(tmp_path / "run", recipe=recipe)

    def body(indices: Any) -> None:
        if loop.run.batches == 6:
            loop.run.optimizer.plan.extend(60)  # noted like run.extend
        if loop.run.batches == 10:
            loop.run.change_peak(0.05)
        loop.step(indices)

    loop.body = body
    with loop.run:
        loop.train(13)
        before = loop.state()
        plan = loop.run.optimizer.param_groups[0]["plan"]
        repeat(loop, 9)
        assert loop.state() == before
        assert loop.run.optimizer.param_groups[0]["plan"] == plan
        with pytest.raises(InputError, match=r"use run\.extend"):
            loop.run.optimizer.plan.change(lambda old, at: old)
        loop.run.save(wait=True)
    again = Loop(tmp_path / "run", recipe=recipe)
    with again.run:
        assert again.run.optimizer.param_groups[0]["plan"] == plan
        assert again.run.optimizer.param_groups[0]["lr"] == loop.run.optimizer.param_groups[0]["lr"]


def test_what_cannot_replay_says_why(tmp_path: Path) -> None:
    plain = rs.attach(RECIPE, nn.Linear(3, 1), steps=5, directory=tmp_path / "plain")
    with pytest.raises(InputError, match="keeps no checkpoints"):
        next(plain.replay(1))
    plain.close()
    with pytest.raises(InputError, match=r"run\.replay: the run is closed"):
        next(plain.replay(1))
    timed = Loop(tmp_path / "timed", seconds=60.0)
    with timed.run, pytest.raises(InputError, match="follows the clock"):
        next(timed.run.replay(1))


def test_a_closed_run_steps_no_more(tmp_path: Path) -> None:
    for directory in (None, tmp_path / "run"):
        model = nn.Linear(3, 1)
        run = rs.attach(RECIPE, model, steps=5, directory=directory)
        model(torch.ones(2, 3)).sum().backward()
        run.step(1.0)
        run.close()
        before = bits(list(model.parameters()))
        with pytest.raises(InputError, match=r"run\.step: the run is closed"):
            run.step(1.0)
        assert bits(list(model.parameters())) == before
        run.optimizer.step()  # the optimizer is the user's


def test_updates_that_the_run_did_not_make_are_told(tmp_path: Path) -> None:
    from rheostat.record.run import RunRecord

    model = nn.Linear(3, 1)
    with rs.attach(RECIPE, model, steps=9, directory=tmp_path / "run") as run:
        model(torch.ones(2, 3)).sum().backward()
        run.step(1.0)
        run.optimizer.step()
        run.optimizer.step()
        assert run.batches == 1
        with pytest.warns(UserWarning, match="2 updates were made by optimizer.step itself"):
            run.step(1.0)
        run.step(1.0)
        assert run.batches == 3
    (event,) = [e for e in RunRecord.read(tmp_path / "run").events if e.kind == "unrecorded"]
    assert event.fields == {"step": 1, "updates": 2}
    assert (tmp_path / "run" / FOLDER).exists() is False
