"""What stays on the accelerator between steps, so that no step waits for it.

Where all parameters live on one CUDA device, the device keeps the count of applied updates, each
parameter's own count, the hyperparameters, and what schedules say of the next updates. A step whose
gradients are not finite changes nothing there; the host learns of it when somebody asks. Until then
it takes every step for applied: what a group shows of a schedule may be ahead by what was skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from rheostat.core.errors import InputError
from rheostat.core.transform import Transform
from rheostat.optimizers import fused, windows
from rheostat.optimizers.factors import under_factors
from rheostat.optimizers.guard import Look, reason_for, told_apart
from rheostat.optimizers.numbers import Number
from rheostat.optimizers.results import Outcome, StepResult
from rheostat.optimizers.windows import Window

if TYPE_CHECKING:
    from rheostat.optimizers.items import Held, Options
    from rheostat.optimizers.plan import Plan

DEVICE_TYPES = {"cuda"}
"""Where numbers stay on the device; on others a step reads them, and is right all the same."""

GLANCE = 64
"""Steps from one look at the device's count to the next; none of them waits for the answer."""

Groups = Sequence[dict[str, Any]]


def device_of(groups: Groups, rules: Sequence[Transform], options: Options) -> torch.device | None:
    """The device that can keep the numbers of these groups; None where the host must know them.

    The host counts where a rule branches on its count, draws by it or evaluates elsewhere, where
    gradients of several steps are averaged or weights rounded at random, where parameters are on
    several devices or are no plain tensors (DTensor).
    """
    params = [param for group in groups for param in group["params"]]
    devices = {param.device for param in params}
    if len(devices) != 1 or options.averaged > 1 or options.precision == "stochastic":
        return None
    device = devices.pop()
    if device.type not in DEVICE_TYPES or any(rule.synchronises for rule in rules):
        return None
    return device if all(type(param) in fused.PLAIN for param in params) else None


def check_count(name: str, group: int, step: object) -> None:
    """Refuse what was written over the step count of a parameter. Raises InputError."""
    if not (isinstance(step, Tensor) and step.shape == ()):
        raise InputError(
            f"the state of {name} in group {group} has step={step!r}; write a count into its "
            "tensor: state[p]['step'].fill_(1000)"
        )


@dataclass(slots=True)
class Frame:
    """What rules see of the numbers in one step.

    `ok` is a bool on the device, whether the step happens; None where it surely does. `numbers` are
    those of each group, `counts` the step counts of the lines. `memo` keeps what was computed, and
    `plain` the hyperparameters that a kernel takes as plain numbers: group, name, value.
    """

    ok: Tensor | None
    memo: dict[Any, Any] = field(default_factory=dict[Any, Any])
    numbers: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    counts: dict[int, Number] = field(default_factory=dict[int, Number])
    plain: list[tuple[dict[str, Any], str, Any]] = field(
        default_factory=list[tuple[dict[str, Any], str, Any]]
    )

    def number(self, value: Tensor, known: float | None = None) -> Number:
        """A 0-dim tensor as a number of this step."""
        return Number(value.double(), self.memo, known)


class Resident:
    """The numbers of one optimizer on their device.

    Args:
        like: any tensor there; new ones are made from it.
        updates: applied updates so far.
    """

    def __init__(self, like: Tensor, updates: int) -> None:
        self.device = like.device
        self._like = like.detach()
        self._applied = self._number(updates)
        self._one = self._like.new_ones((), dtype=torch.float32)
        self._known = updates
        """Updates that were applied for certain."""
        self._glance: _Glance | None = None
        self._since = 0
        self._cells: dict[tuple[Any, ...], tuple[float, Tensor]] = {}
        self._window: Window | None = None
        self._captured: Frame | None = None
        self._lines = 0

    def _number(self, value: float) -> Tensor:
        # A fill, not a copy: the value travels with the launch.
        return self._like.new_full((), value, dtype=torch.float64, requires_grad=False)

    # -- a step ---------------------------------------------------------------------------------

    def begin(
        self,
        groups: Groups,
        rules: Sequence[Transform],
        plan: Plan,
        held: Sequence[Held],
        ok: Tensor | None,
    ) -> Frame:
        """Count the step, if `ok`, for these parameters, and give what their rules see.

        Raises InputError in a CUDA graph that could not be replayed.
        """
        if plan.updates_to_restart() < math.inf:
            self._refuse_capture("no replay would notice that a schedule begins again")
        up = self._one if ok is None else ok.to(torch.float32)
        # As a list: the overload for one tensor asks the host for it.
        steps = [one.state["step"] for one in held]
        try:
            torch._foreach_add_(steps, [up] * len(held))  # pyright: ignore
        except TypeError:
            for one in held:
                check_count(one.name, one.group, one.state["step"])
            raise
        frame = Frame(ok)
        frame.numbers += self._numbers(groups, rules, plan, frame)
        for one in held:
            if one.line not in frame.counts:
                frame.counts[one.line] = frame.number(one.state["step"])
        self._applied.add_(1.0 if ok is None else ok)
        self._known += ok is None
        if _capturing(self.device):
            self._captured = frame
        return frame

    def take_back(self, held: Sequence[Held], ok: Tensor | None) -> None:
        """Take back the count of a step that was refused, for those that were not moved."""
        up = self._one if ok is None else ok.to(torch.float32)
        if held:
            torch._foreach_sub_([one.state["step"] for one in held], [up] * len(held))  # pyright: ignore
        self._applied.sub_(up)
        self._known -= ok is None

    def _numbers(
        self, groups: Groups, rules: Sequence[Transform], plan: Plan, frame: Frame
    ) -> list[dict[str, Any]]:
        """What each group's rule sees: hyperparameters and scalars."""
        planned = self._planned(groups, plan)

        def number(value: Any, index: int, name: str, *place: int) -> Any:
            path = (index, name, *place)
            if path in planned:
                return frame.number(planned[path])
            if isinstance(value, tuple):
                parts = enumerate(cast("tuple[Any, ...]", value))
                return tuple(number(part, *path, i) for i, part in parts)
            factor = groups[index]["lr_factor"] if name == "lr" else 1.0
            if isinstance(value, Tensor) and value.device.type != "cpu":
                return frame.number(value.detach().double() * factor)
            known = float(value) * factor
            return frame.number(self._cell(path, known), known)

        found: list[dict[str, Any]] = []
        for index, (group, rule) in enumerate(zip(groups, rules, strict=True)):
            mine = {name: number(group[name], index, name) for name in rule.hyperparameters}
            for name in rule.scalars:
                if not isinstance(group[name], Tensor):
                    group[name] = self._number(group[name])
                # A copy: the group's own is written while rules still read it.
                mine[name] = frame.number(group[name].clone())

            def cell(name: str, factor: float, index: int = index) -> Number:
                return frame.number(self._cell((index, "factors", name), factor), factor)

            found.append(under_factors(mine, group["factors"], cell))
        return found

    def _cell(self, path: tuple[Any, ...], value: float) -> Tensor:
        known = self._cells.get(path)
        if known is not None and known[0] == value:
            return known[1]
        self._refuse_capture(f"a hyperparameter changed; {_FIRST}")
        cell = self._number(value) if known is None else known[1].fill_(value)
        self._cells[path] = (value, cell)
        return cell

    def _planned(self, groups: Groups, plan: Plan) -> dict[tuple[Any, ...], Tensor]:
        """What schedules say at the device's own count."""
        rows = windows.rows_of(groups, plan.schedules)
        if not rows:
            return {}
        now = int(groups[0]["updates"])  # at most: some may have been skipped
        window, length = self._window, windows.WINDOW
        if window is None or window.rows != rows or now >= window.start + length:
            if now >= self._known + length:  # nobody has looked for very long
                self.count()
            self._refuse_capture(f"the window of its schedules ended; {_FIRST}")
            window = self._window = Window.make(self._like, self._known, rows, window)
        return window.at(self._applied)

    def limit(self, norm: float | None) -> Tensor | None:
        """A limit of the gradient's norm, on the device."""
        return None if norm is None else self._cell(("limit",), norm)

    # -- CUDA graphs ----------------------------------------------------------------------------

    def refresh(self, groups: Groups, rules: Sequence[Transform], plan: Plan) -> None:
        """Bring hyperparameters that changed to the device, and the schedules' next values."""
        for group, name, value in self._captured.plain if self._captured else ():
            if group[name] != value:
                raise InputError(
                    f"refresh: {name} changed from {value!r} to {group[name]!r}, and the captured "
                    "graph of a fused kernel holds it; take a step, and capture it again"
                )
        if self._window is not None:
            self._window.rows = []  # another one is due
        self._numbers(groups, rules, plan, Frame(None))

    def _refuse_capture(self, why: str) -> None:
        if _capturing(self.device):
            raise InputError(f"step() in a CUDA graph: {why}")

    # -- what the host learns -------------------------------------------------------------------

    def outcome(self, look: Look, held: Sequence[Held], learn: Callable[[], None]) -> StepResult:
        """The result of this step, read when it is asked for; `learn` is called then."""
        assert look.squares is not None
        assert look.ok is not None
        assert look.parts is not None
        facts = torch.stack([look.squares.sum().sqrt(), look.ok.double(), self._applied])
        parts, found, names = look.parts, look.squares, [one.name for one in held]

        def read() -> Outcome:
            norm, applied, count = cast("list[float]", facts.tolist())
            learn()
            if applied:
                return True, int(count), None, norm
            fine = cast("list[bool]", parts.tolist())
            bad = told_apart(names, fine, cast("list[float]", found.tolist()))
            return False, int(count), reason_for(bad, norm, look.limit), norm

        return StepResult.later(read)

    def count(self) -> int:
        """Updates applied so far. Waits for the device."""
        self._refuse_capture(f"the count of its updates is needed; {_FIRST}")
        self._known, self._glance = int(self._applied.item()), None
        return self._known

    def glance(self) -> int | None:
        """Called after every step in doubt: updates applied so far, the last ones assumed, if an
        answer has come; None otherwise. Waits for nothing."""
        self._since += 1
        if _capturing(self.device):
            return None
        if self._glance is not None:
            self._glance.steps += 1
            found = self._glance.answer()
            if found is None:
                return None
            steps, self._glance, self._known = self._glance.steps, None, found
            return found + steps
        if self._since >= GLANCE:
            self._since, self._glance = 0, _Glance(self._applied)
        return None

    # -- the parameters' own counts -------------------------------------------------------------

    def count_from(self, updates: int) -> Tensor:
        """A parameter's own count, as torch's fused kernels read it: float32."""
        return self._one.new_full((), updates)

    def line(self) -> int:
        """A new line: parameters whose counts are the same and go up together."""
        self._lines += 1
        return self._lines

    def part(self, known: Sequence[Held], held: Sequence[Held]) -> None:
        """Parameters that take part without others of their line go on as a line of their own."""
        if len(held) == len(known):
            return
        taking = {id(one) for one in held}
        staying = {one.line for one in known if id(one) not in taking}
        new = {line: self.line() for line in staying}
        for one in held:
            one.line = new.get(one.line, one.line)


_FIRST = "take a step, or call refresh(), before the capture"


def _capturing(device: torch.device) -> bool:
    return (
        device.type == "cuda"
        and torch.cuda.is_available()
        and torch.cuda.is_current_stream_capturing()
    )


class _Glance:
    """A count on its way to the host, and how many steps were taken since it left."""

    def __init__(self, count: Tensor) -> None:
        self.steps = 0
        self._event: torch.cuda.Event | None = None
        if count.device.type == "cuda" and torch.cuda.is_available():
            self._copy = torch.empty((), dtype=count.dtype, pin_memory=True)
            self._copy.copy_(count, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(count.device))
        else:
            self._copy = count.clone()

    def answer(self) -> int | None:
        """The count, if it has arrived."""
        if self._event is not None and not self._event.query():
            return None
        return int(self._copy.item())
