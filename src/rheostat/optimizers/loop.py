"""The one step loop: a `torch.optim.Optimizer` that runs any Transform.

Hyperparameters live in `param_groups` as plain numbers, state in the declared buffers, keyed by
name, made when the optimizer is made. Whatever accepts a torch optimizer accepts this one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, Literal, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Buffer, Transform
from rheostat.optimizers import overrides, stages, straight
from rheostat.optimizers.accumulating import accumulate, check_average, complete, empty
from rheostat.optimizers.closing import take_rule
from rheostat.optimizers.closures import evaluator, first_loss
from rheostat.optimizers.curvature import observe
from rheostat.optimizers.growing import grow_state, grown, growth_in
from rheostat.optimizers.guard import LeftOut, Look, NonFinite, inspect_gradients, look_on_device
from rheostat.optimizers.items import Held, Options, make_items, squares_of, write_back
from rheostat.optimizers.kernels import Kernel, Mode, choose_mode, make_kernels
from rheostat.optimizers.packing import hooked, packed
from rheostat.optimizers.plan import Plan
from rheostat.optimizers.restarting import check_policy
from rheostat.optimizers.results import NO_GRADIENT, StepResult
from rheostat.optimizers.roster import Roster
from rheostat.optimizers.scheduled import START, at_start, check_owners, check_start
from rheostat.optimizers.state import LoadPlan, check_state_dict, keys_of, params_of, with_names
from rheostat.optimizers.torch_view import SchedulerView
from rheostat.optimizers.views import put_back, show

Closure = Callable[[], Any] | None


class Optimizer(torch.optim.Optimizer):
    """Runs a Transform over parameters: ``param ← param − update``.

    `rheostat.optimizer` makes one; this is what it takes once the names are resolved.

    Args:
        groups: param groups as torch.optim takes them, each with its Transform under "rule". A
            group may override any hyperparameter of its rule, and has three keys besides:
            `lr_factor` (multiplies the learning rate that the rule sees, whoever schedules it),
            `maximize`, and `seed` (of the noise that a rule draws).
        nonfinite: what a NaN or infinite gradient does. "skip" leaves everything as it was and
            says so in `last_step`; "raise" names the parameter; "propagate" does not look.
        accumulate: gradients of so many steps are averaged, in a buffer of ours, for one update.
        precision: how half-precision parameters are kept: "plain", as they are; "master", beside a
            float32 copy; "stochastic", rounded up or down at random so that small updates count.
        mode: how rules run: "eager", piece by piece; "fused", by torch's fused kernel; "compiled",
            by one kernel made for the rule; "auto" chooses by the rule and the sizes alone, so that
            a resumed run chooses the same. The choice is in `param_groups`, under "mode".
        maximize, seed: of the groups that do not say them, those that are added later too.

    Raises:
        InputError: an unknown hyperparameter in a group, a parameter in two, a name twice in one,
            `accumulate` with a rule that takes the gradient elsewhere (SAM, L-BFGS).
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        nonfinite: NonFinite = "skip",
        accumulate: int = 1,
        precision: Literal["plain", "master", "stochastic"] = "plain",
        mode: Mode = "auto",
        maximize: bool = False,
        seed: int = 0,
    ) -> None:
        self.last_step: StepResult | None = None
        self._rules: list[Transform] = []
        self._kernels: list[Sequence[Kernel]] = []
        self._mode: Mode = mode
        self._set_options(Options(nonfinite, accumulate, precision, maximize=maximize, seed=seed))
        listed = [dict(group, params=params_of(i, group)) for i, group in enumerate(groups)]
        if not any(group["params"] for group in listed):
            raise InputError("the optimizer got no parameters")
        super().__init__(listed, {})

    # -- groups and state -----------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, now or in mid-training; its state is made at once.

        Without a "rule" of its own it gets that of the last group; one without a step size is
        closed with one, as by `optimizer`.

        Raises:
            InputError: a key that is neither a hyperparameter of the rule nor a label, a value out
                of its range, a parameter of another group, a rule that is none, or cannot be
                averaged.
        """
        given = dict(param_group)
        rule = take_rule(given, self._rules)
        check_average(rule, self.options)
        known = keys_of(rule)
        index = len(self.param_groups)
        given = overrides.check_group(index, rule, {**self.options.shared, **given})
        self._learn()
        counts = self.param_groups[0] if self.param_groups else START
        given["params"] = with_names(params_of(index, given), self.param_groups)
        overrides.check_shapes(rule, given["params"])
        if not given["params"]:  # torch learns that a group has names from its first one
            given["param_names"] = []
        complete = {**known, **given, **{unit: counts[unit] for unit in START}}
        # All that may refuse it comes before there is a group of it.
        check_policy(index, rule, complete)
        owned, params = check_start(complete), [param for _, param in given["params"]]
        complete["mode"] = choose_mode(rule, params, self._mode, owned)
        complete["given"] = overrides.numbers_given(rule, complete)
        kernels = make_kernels(rule, complete["mode"])
        super().add_param_group(complete)
        group = self.param_groups[-1]
        for key in set(self.defaults) - set(known):
            del group[key]  # another rule's, which torch's method put there
        if not self._rules:
            # Here and not in the constructor, as torch's own makes the list of groups.
            self.plan = Plan(self.param_groups, self._rules, self._members, self._learn)
        self._rules.append(rule)
        self._kernels.append(kernels)
        self.plan.join(group)
        stages.share_scalars(self.param_groups, self._rules, rule)
        for param in filter(attrgetter("requires_grad"), params):
            self._state_of(param, index)
        # torch's own schedulers look here for what they may schedule.
        self.defaults = at_start(self._rules)

    def rule(self, group: int) -> Transform:
        """The rule of a param group."""
        return self._rules[group]

    def scheduled(self, group: int) -> Mapping[str, Any]:
        """The hyperparameters of a group that a schedule owns, and their schedules."""
        return self.plan.schedules[group]

    def buffers_of(
        self, param: Tensor, group: int, options: Options | None = None
    ) -> Mapping[str, Buffer]:
        """The buffers that a parameter of this group has: those of its rule, and the loop's own."""
        return {**self._rules[group].buffers, **(options or self.options).buffers(param)}

    def _members(self, group: int) -> list[tuple[Tensor, dict[str, Tensor]]]:
        """The parameters of a group that have state, with it, for a restart to act on."""
        self._roster.recount()
        params: list[Tensor] = self.param_groups[group]["params"]
        return [(param, self.state[param]) for param in params if param in self.state]

    def _state_of(self, param: Tensor, group: int) -> dict[str, Tensor]:
        """The parameter's state, made if it has none yet (it was frozen until now)."""
        state = cast("dict[str, Tensor]", self.state[param])
        if "step" not in state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
            for name, buffer in self.buffers_of(param, group).items():
                state[name] = buffer.make(param)
        return state

    # -- the step -------------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:  # type: ignore[override]
        """One update of every parameter that has a gradient; returns the closure's loss.

        What happened is in `last_step`.

        Raises:
            InputError: a scheduled hyperparameter was overwritten, a sparse or complex gradient
                that the rule cannot take, a rule that needs a closure and got none, evaluation
                mode.
            RheostatError: a non-finite gradient under ``nonfinite="raise"``.
        """
        loss = first_loss(closure)
        self._check_ready()
        held, gradients = self._roster.taking_part(self.param_groups, self.state)
        look = self._look(held, gradients)
        reason = look.reason if held else NO_GRADIENT
        if reason is None:
            reason = self._update(held, gradients, closure, loss, look)
        begun = self.plan.stepped(reason)
        resident = self._roster.resident
        if look.ok is None or resident is None:
            updates = int(self.param_groups[0]["updates"])
            self.last_step = StepResult(reason is None, updates, reason, look.norm, begun)
        else:  # only the device knows; until it has answered, the step counts as applied
            self.last_step = resident.outcome(look, held, self._learn)
            if (counted := resident.glance()) is not None:
                self.plan.recount(counted)
        return loss

    def _look(self, held: Sequence[Held], gradients: Sequence[Tensor]) -> Look:
        """Look at the gradients; on a device that counts, without waiting for what is seen."""
        policy, limit = self.options.nonfinite, self.param_groups[0]["limit"]
        resident = self._roster.resident
        if resident is not None and policy == "skip":
            # No restart may touch the state of an update that was skipped: with the update before
            # one the host waits. A step without gradients, or with sparse ones, is as rare.
            sparse = any(gradient.is_sparse for gradient in gradients)
            if self.plan.updates_to_restart() > 1 and held and not sparse:
                return look_on_device(gradients, resident.limit(limit))._replace(limit=limit)
            self._learn()
        return inspect_gradients(map(attrgetter("name"), held), gradients, policy, limit)

    def _update(
        self, held: list[Held], gradients: Sequence[Tensor], closure: Closure, loss: Any, look: Look
    ) -> str | None:
        """Apply an update, or say why it is not time for one yet."""
        groups, options = self.param_groups, self.options
        if options.averaged == 1:
            return self._apply(held, gradients, closure, loss, look)
        if waiting := accumulate(groups, self._rules, held, gradients, options):
            return waiting
        held, averages = complete(groups, self._roster.all(groups, self.state))
        try:
            return self._apply(held, averages, closure, loss, look)
        finally:
            empty(held)

    def _apply(
        self, held: list[Held], gradients: Sequence[Tensor], closure: Closure, loss: Any, look: Look
    ) -> str | None:
        """Apply an update, or say why it turned out to be none."""
        groups, rules, resident = self.param_groups, self._rules, self._roster.resident
        begin = resident and partial(resident.begin, groups, rules, self.plan, held, look.ok)
        count, options = self._roster.count, self.options
        columns = self._roster.columns
        if columns and straight.run(columns, groups, rules, gradients, look.squares, held, count):
            return None
        items = make_items(groups, rules, self._kernels, held, gradients, options, count, begin)
        evaluate = closure and evaluator(closure, groups, [one.param for one in held], items)
        try:
            stages.run(items, evaluate, loss, squares_of(look, held, gradients), options.nonfinite)
        except BaseException as fault:
            self._roster.take_back(held, items, look.ok)
            if isinstance(fault, LeftOut):
                return str(fault)
            raise
        write_back(items, held, options)
        stages.share_all(groups, rules, items)
        return None

    def grow(self, factor: float) -> None:
        """From the next update on, average `factor` times as many gradients as `accumulate` says.
        Raises InputError where that is no whole number, or they cannot be averaged now."""
        self._learn()
        self._set_options(grown(self.options, self._rules, self.param_groups, factor))
        grow_state(self.options, self.state)

    def _set_options(self, options: Options) -> None:
        self.options = options
        self._roster = Roster(self._rules, self._kernels, self.options, self._state_of)

    def _learn(self) -> None:
        """Ask the device, where one counts, how many updates were applied, and believe it."""
        self._roster.check(self.param_groups)
        if self._roster.resident is not None:
            self.plan.recount(self._roster.resident.count())

    @torch.no_grad()
    def refresh(self) -> None:
        """Between replays of a CUDA graph of a step: bring hyperparameters that were changed to the
        device, and what schedules say of the next 1,024 updates; and take from there what the
        replays did. Waits for the device. Elsewhere there is nothing to do.

        Raises:
            InputError: a number was changed that the graph of a fused kernel holds.
        """
        if self._roster.resident is not None:
            self._learn()
            self._roster.resident.refresh(self.param_groups, self._rules, self.plan)
            self.last_step = self.last_step and self.last_step.again()

    def _check_ready(self) -> None:
        self._roster.check_ready(self.param_groups)
        self.plan.check_ready()

    def consumed(self, **counts: float) -> None:
        """Say what the last step consumed: `consumed(tokens=4096)`; samples, tokens, epochs, or a
        fraction of the budget of wall-clock time. Schedules that count it move on.

        Raises:
            InputError: another unit; a count that is negative or not finite.
        """
        begun = self.plan.consumed(counts)
        if begun and self.last_step is not None:
            self.last_step = self.last_step.with_restarts(begun)

    def lr_scheduler(self) -> SchedulerView:
        """The learning rate's schedule as a torch LRScheduler, for frameworks that want one.

        Step it or not: the schedules move with the applied updates, and never twice.
        """
        return SchedulerView(self)

    @torch.no_grad()
    def observe(
        self,
        closure: Callable[[], Tensor],
        estimator: Literal["hutchinson", "gnb"] = "hutchinson",
        batch_size: int = 1,
    ) -> None:
        """Let second-order rules (Sophia) see a sample of the Hessian's diagonal; call it every k
        steps, as their cards say.

        "hutchinson": `closure` returns the loss, without a backward pass; the sample is z ∘ (H z),
        negated under `maximize`, with new random signs z. "gnb" (Gauss–Newton–Bartlett): it
        returns the mean loss over `batch_size` examples with labels drawn from the model's output;
        the sample is batch_size · g ∘ g. One that is not finite goes the way of `nonfinite`; no
        gradient, weight or step count changes. Liu et al. 2023 (arXiv:2305.14342), Algorithms 1, 2.

        Raises InputError for an unknown estimator, a closure that gives no loss with its graph, no
        rule that observes; RheostatError for a sample that is not finite under "raise".
        """
        every = self._roster.all(self.param_groups, self.state)
        observe(self.param_groups, self._rules, every, self.options, closure, estimator, batch_size)

    # -- views ----------------------------------------------------------------------------------

    @torch.no_grad()
    def eval(self) -> None:
        """Show the weights to evaluate with, where the rule has others than those it trains
        (averages, schedule-free). Idempotent; a rule without such a view leaves them alone."""
        self._learn()
        show(self.param_groups, self._rules, self.state)

    @torch.no_grad()
    def train(self, mode: bool = True) -> None:
        """Put back the weights that are trained, to the bit. Idempotent; train(False) is `eval`."""
        if mode:
            put_back(self.param_groups, self.state)
        else:
            self.eval()

    @contextmanager
    def averaged(self) -> Generator[None]:
        """``with opt.averaged():`` evaluates with the averaged weights, and then goes back."""
        shown = any(group["evaluating"] for group in self.param_groups)
        self.eval()
        try:
            yield
        finally:
            self.train(not shown)

    # -- saving ---------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """As torch's, of tensors and plain numbers; scalars on a device are read from there."""
        self._learn()
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        saved = packed(self.param_groups, self._rules, self.state)
        return hooked(self._optimizer_state_dict_post_hooks, self, saved)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # type: ignore[override]
        """Load a state dict of the same rules over the same parameters.

        Parameters are matched by name where both sides have names; buffers keep their own dtype.
        Nothing is changed unless everything fits. Numbers are those that were saved, but for whole
        ones that are built in (Lookahead's k); a RheostatWarning names what was made otherwise.

        Raises:
            InputError: names, shapes, buffers or hyperparameters that differ (all of them listed),
                or a scheduled hyperparameter that was saved under another schedule.
        """
        plan = self.check(hooked(self._optimizer_load_state_dict_pre_hooks, self, state_dict))
        followed: list[dict[str, Any]] = []
        for index, (_, saved) in enumerate(plan.groups):
            followed.append(self.plan.following(index, saved))
            check_owners(index, saved, followed[index], saved=True)
        overrides.warn_of_other_numbers(plan.groups)
        for group, saved in plan.groups:
            group.update({k: v for k, v in saved.items() if k not in ("params", "param_names")})
        for index, group in enumerate(self.param_groups):
            self.plan.follow(index, followed[index])
            self._kernels[index] = make_kernels(self._rules[index], group["mode"])
        self._set_options(replace(self.options, growth=self.param_groups[0]["growth"]))
        plan.put_state(self._state_of)
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def check(self, state_dict: Mapping[str, Any]) -> LoadPlan:
        """Refuse what `load_state_dict` would, but for other schedules. Raises InputError."""
        options = replace(self.options, growth=growth_in(state_dict))
        buffers = partial(self.buffers_of, options=options)
        plan = check_state_dict(state_dict, self.param_groups, buffers)
        overrides.check_saved(self._rules, [saved for _, saved in plan.groups])
        return plan

    def __getstate__(self) -> dict[str, Any]:
        """For `copy.deepcopy`: torch's three, and ours."""
        self._learn()
        ours = ("options", "last_step", "_rules", "plan", "_kernels", "_mode", "_roster")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in ours}}
