"""`Monitor`: the signals of a training run, measured in one pass around each update."""

from __future__ import annotations

import math
import warnings
from collections import ChainMap, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any, cast

from torch import Tensor, nn
from torch.optim import Optimizer

from rheostat.core.errors import InputError, nearest
from rheostat.core.signal import Reading, Signal
from rheostat.signals.accounts import open_accounts, union
from rheostat.signals.activations import Activations
from rheostat.signals.dues import IDLE, Due, Dues, on_report
from rheostat.signals.late import Numbers
from rheostat.signals.observation import Observation, Per
from rheostat.signals.order import Signals, named
from rheostat.signals.products import Cells, Part
from rheostat.signals.sums import compiled
from rheostat.signals.wanted import LAST, needs_both

LAG = 4
"""Steps after which numbers on an accelerator are read."""


@dataclass
class Attempt:
    """One step whose numbers have not been read. `at` is the update that it tried to make, 0 where
    nothing was due in it."""

    at: int
    reported: tuple[str, ...]
    lengths: list[list[int]]
    """Part by part, product by product: of how many numbers it is the sum."""
    numbers: Numbers
    """Whether there was an update, the loss, what was reported, and all products' addends."""


class Monitor:
    """Measures signals around each update of an optimizer, any of torch's kind.

    Call `before_step()` once the gradients are there (clipped, unscaled, as the optimizer will see
    them), and `after_step(loss)` once it has stepped; that returns the latest values. On an
    accelerator nothing waits: they are those of `lag` steps ago.

    Args:
        signals: names of signals, or signals; as a mapping, under names of your own.
        model, optimizer: whose they are; neither is needed for what lives on the loss alone.
        per: besides over all parameters, measure what is made of inner products by param "group"
            or by "parameter": values "gradient_norm[0]", "gradient_norm[head.weight]".
        lag: steps between taking numbers and reading them; by default 0 where all parameters are
            on the CPU, else 4.

    Raises:
        InputError: an unknown signal, a name given twice, one that needs what is not there, a
            circle, inner products without an optimizer, activations without a model.
    """

    def __init__(
        self,
        signals: Signals,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        *,
        per: Per = "all",
        lag: int | None = None,
    ) -> None:
        if lag is not None and lag < 0:
            raise InputError(f"lag={lag!r}: should be a number of steps from 0 on")
        if per not in ("all", "group", "parameter"):
            raise InputError(f"per={per!r}: should be 'all', 'group' or 'parameter'")
        self.signals: Mapping[str, Signal] = named(signals)
        self.step = 0
        """Updates applied, of those steps that have been read."""
        self.fresh: frozenset[str] = frozenset()
        """The signals that were measured in the step that was read last."""
        self.reading = Reading(0, applied=False)
        """What the last step with a measurement had to say, over all parameters."""
        self.values: Mapping[str, float] = {}
        """The latest value of each signal; another mapping after each measurement."""
        self._optimizer = optimizer
        self._observed = None if optimizer is None else Observation(optimizer, model)
        self._per: Per = per
        self._trained: list[bool] = []
        """Which parameters were not frozen, when the parts were made."""
        self._summed: list[bool] = []
        """Which parts count for all parameters together: those with something to train."""
        self._parts = self._make_parts()
        self._host = all(part.layout.host for part in self._parts.values())
        self.lag = (0 if self._host else LAG) if lag is None else lag
        self._one_pass = False
        """Whether sums are taken in one pass of C++; a resumed monitor goes on as it began."""
        if self._host and self._parts:
            self._sum_in_one(compiled())
        self._accounts = open_accounts(self.signals, self._sizes())
        self._dues = Dues(self.signals)
        self._idle_before = 0
        """The first update in which something may be due; nothing is in those before it."""
        self._attempts: deque[Attempt] = deque()
        self._present: tuple[int, Due, list[list[Cells]]] | None = None
        self._activations = self._watch(model)
        self._show()

    def _make_parts(self) -> dict[str, Part]:
        products = union(self.signals.values())
        if not products:
            return {}
        seen = self._observed
        if seen is None:
            name = next(name for name, signal in self.signals.items() if signal.products)
            raise InputError(f"the signal {name} is made of inner products; give optimizer=")
        apart, parts, trained = needs_both(products), seen.parts(self._per), seen.trained
        counted = [any(trained[i] for i in at) for at in parts.values()]
        self._trained, self._summed = trained, counted if any(counted) else [True] * len(parts)
        return {
            key: Part([seen.params[i] for i in at], seen.moments(at), apart)
            for key, at in parts.items()
        }

    def _sizes(self) -> dict[str, int]:
        """Elements of all parameters that are trained, and of each part."""
        sizes = {key: part.layout.size for key, part in self._parts.items()}
        return {"": sum(compress(sizes.values(), self._summed)), **sizes}

    def _notice_freezing(self) -> None:
        """Look at others where some were frozen or thawed, or a param group came; nothing is known
        of their past."""
        seen = self._observed
        if seen is None or (seen.trained == self._trained and not seen.grown):
            return
        if seen.grown:
            seen.look()
        self._parts = self._make_parts()
        if self._one_pass:
            self._sum_in_one(compiled())
        sizes = self._sizes()
        before = {account.key: account for account in self._accounts}
        opened = open_accounts(self.signals, sizes)
        self._accounts = [before.get(account.key, account) for account in opened]
        for account in self._accounts:
            account.size = sizes[account.key]

    def _sum_in_one(self, take: Callable[[int, int, int], None] | None) -> None:
        self._one_pass = take is not None
        for part in self._parts.values():
            part.sum_in_one(take)

    def _watch(self, model: nn.Module | None) -> Activations | None:
        names = [n for n, s in self.signals.items() if {*s.reported} & {*Activations.REPORTS}]
        if not names:
            return None
        if model is None:
            raise InputError(f"the signal {names[0]} looks at activations; give model=")
        return Activations(model, lambda: any(self.due(name) for name in names))

    # -- what is due -----------------------------------------------------------------------------

    @property
    def coming(self) -> int:
        """The update that the next step makes, if all before it are applied."""
        return self.step + len(self._attempts) + 1

    def due(self, name: str) -> bool:
        """Whether a signal is measured in the coming update. Raises InputError for one that is not
        among those of the monitor."""
        if name not in self.signals:
            raise InputError(f"the monitor has no signal {name!r}; {nearest(name, self.signals)}")
        return self.signals[name].due(self.coming)

    # -- around a step ---------------------------------------------------------------------------

    def before_step(self) -> None:
        """Look at gradients, weights and moments, as far as something is due."""
        self._present = None
        coming = self.step + len(self._attempts) + 1
        if coming < self._idle_before:
            return
        due = self._dues.at(coming)
        if due.idle:
            self._idle_before = self._dues.next_end(coming) - 1  # what an end needs is kept then
            return
        if self._parts:
            self._notice_freezing()
        taken = [part.before(due.wanted) for part in self._parts.values()]
        self._present = coming, due, taken

    def after_step(
        self,
        loss: Tensor | float = math.nan,
        *,
        applied: Tensor | bool | None = None,
        reported: Mapping[str, Tensor | float] | None = None,
    ) -> Mapping[str, float]:
        """Look at the update, measure what is due, and return the latest value of every signal.

        Args:
            loss: of this step.
            applied: whether there was an update; by default what the optimizer's `last_step` says
                where it can be read without waiting, and else yes.
            reported: what else the loop knows: {"validation": 0.31}.
        """
        present, self._present = self._present, None
        if applied is None:
            last = None if self.lag else getattr(self._optimizer, "last_step", None)
            applied = True if last is None else bool(last.applied)
        if present is None and not (reported or self.lag or self._activations):
            self.step += bool(applied)
            self.fresh = frozenset()
            return self.values
        said = dict(reported) if reported else {}
        if self._activations is not None:
            said |= self._activations.reading()
        at, due, taken = present or (0, IDLE, [])
        if taken:
            for cells, part in zip(taken, self._parts.values(), strict=True):
                cells.extend(part.after(due.wanted))
        if self.lag:
            addends = [[*map(_addends, cells)] for cells in taken]
            flat = [addend for cells in addends for product in cells for addend in product]
            lengths = [[len(product) for product in cells] for cells in addends]
            numbers = Numbers([applied, loss, *said.values(), *flat])
            self._attempts.append(Attempt(at, tuple(said), lengths, numbers))
            if len(self._attempts) > self.lag:
                self._read(self._attempts.popleft())
        else:
            if not self._host:
                taken = [[sum(map(_number, _addends(c))) for c in cells] for cells in taken]
            self._conclude(due, applied, loss, said, taken)
        return self.values

    def _read(self, attempt: Attempt) -> None:
        numbers = iter(attempt.numbers.read())
        applied, loss, *said = islice(numbers, 2 + len(attempt.reported))
        sums = [[sum(islice(numbers, n)) for n in lengths] for lengths in attempt.lengths]
        due = self._dues.at(attempt.at) if attempt.at else IDLE
        self._conclude(due, applied, loss, dict(zip(attempt.reported, said, strict=True)), sums)

    def _conclude(
        self,
        due: Due,
        applied: Tensor | float,
        loss: Tensor | float,
        said: Mapping[str, Tensor | float],
        sums: list[list[float]],
    ) -> None:
        """One step's numbers, all of which the host has, become signals."""
        self.step += bool(applied)
        signals = due.silent
        if said:
            signals = [
                (name, one)
                for name, one in self.signals.items()
                if said.keys() >= {*one.reported} and (name in due.signals or on_report(one))
            ]
        self.fresh = due.fresh if not said else frozenset([name for name, _ in signals])
        if not signals and not sums:
            return
        if "" not in self._parts and sums:
            counted = compress(sums, self._summed)
            sums = [[sum(column) for column in zip(*counted, strict=True)], *sums]
        facts = self.step, bool(applied), _number(loss)
        reported = {name: _number(value) for name, value in said.items()}
        whole = self._accounts[0].values = dict(self._accounts[0].values)
        for at, account in enumerate(self._accounts):
            products = account.products(due.wanted, sums[at]) if sums else {}
            if at == 0:
                reading = Reading(*facts, account.size, products, reported, whole)
                account.measure(signals, reading)
                self.reading = reading
            else:
                seen = ChainMap(account.values, whole)
                reading = Reading(*facts, account.size, products, reported, seen)
                account.measure([pair for pair in signals if pair[1].products], reading)
        self._show()

    def _show(self) -> None:
        self.values = self._accounts[0].values
        if len(self._accounts) > 1:
            self.values = {
                account.label(name): value
                for account in self._accounts
                for name, value in account.values.items()
            }

    # -- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """What a monitor of the same signals goes on from, to the same bits.

        "memory" holds plain values, whatever JSON can; "tensors" those of the last update that the
        coming one needs, as "last_update.NAME". On an accelerator it waits for what is on its way.
        """
        waiting = [
            {
                "at": attempt.at,
                "reported": list(attempt.reported),
                "lengths": attempt.lengths,
                "numbers": attempt.numbers.read(),
            }
            for attempt in self._attempts
        ]
        accounts = {account.key: account.written() for account in self._accounts}
        memory: dict[str, Any] = {"step": self.step, "fresh": sorted(self.fresh)}
        memory |= {"one_pass": self._one_pass, "accounts": accounts}
        tensors: dict[str, Tensor] = {}
        wanted = self._dues.at(self.coming - 1).wanted
        for names, part in self._named_parts():
            for vector, found in part.kept(wanted).items():
                pairs = zip(names, found, strict=True)
                tensors |= {f"{vector}.{name}": tensor.clone() for name, tensor in pairs}
        return {"memory": {**memory, "waiting": waiting}, "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            InputError: it is of other signals, parts or parameters.

        Warns where its sums were taken in one pass of C++, which cannot be had here: those to come
        differ from them by about 1e-6.
        """
        memory = state["memory"]
        known = {account.key: account for account in self._accounts}
        if set(memory["accounts"]) != set(known):
            raise InputError("the saved monitor measured other parts; give it the same per=")
        for key, saved in memory["accounts"].items():
            known[key].put_back(saved)
        saved_in_one = memory.get("one_pass", False)  # not before it came to be
        if saved_in_one and not self._one_pass:
            warnings.warn(
                "the saved monitor took its sums in one pass of C++, which this one cannot: its "
                "values go on with a difference of about 1e-6",
                stacklevel=2,
            )
        elif self._one_pass and not saved_in_one:
            self._sum_in_one(None)
        self.step, self.fresh = memory["step"], frozenset(memory["fresh"])
        self._idle_before = 0
        self._attempts = deque(
            Attempt(one["at"], tuple(one["reported"]), one["lengths"], Numbers(one["numbers"]))
            for one in memory["waiting"]
        )
        tensors: Mapping[str, Tensor] = state["tensors"]
        for names, part in self._named_parts():
            part.put_back({v: [tensors.get(f"{v}.{name}") for name in names] for v in LAST})
        self._show()

    def _named_parts(self) -> list[tuple[list[str], Part]]:
        seen = self._observed
        if seen is None:
            return []
        name_of = {id(param): name for param, name in zip(seen.params, seen.names, strict=True)}
        return [([name_of[id(p)] for p in part.params], part) for part in self._parts.values()]

    def close(self) -> None:
        """Take the hooks off the model."""
        if self._activations is not None:
            self._activations.close()


def _addends(cell: Cells) -> list[Any]:
    return cast("list[Any]", cell) if isinstance(cell, list) else [cell]


def _number(value: Tensor | float) -> float:
    return value.item() if isinstance(value, Tensor) else float(value)
