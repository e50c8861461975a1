"""An optimizer's own schedules, seen as a torch scheduler: for frameworks that want one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from rheostat.core.errors import InputError

if TYPE_CHECKING:
    from rheostat.optimizers.loop import Optimizer


class SchedulerView(LRScheduler):
    """What `Optimizer.lr_scheduler()` gives. The schedules move with the applied updates alone:
    `step()` refreshes what is reported, and may be called once an update, or never, or twice.

    It has no state of its own, and patches nothing.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        # torch's constructor would wrap `optimizer.step` and take a first step.
        self.optimizer = optimizer
        self.base_lrs: list[float | Tensor] = [
            _rate(group.get("initial_lr", group["lr"])) for group in self._groups()
        ]
        self.step()

    def _groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def step(self, epoch: Any = None) -> None:
        """Refresh what is reported; `epoch`, or a metric, is not looked at."""
        del epoch
        self.last_epoch = int(self._groups()[0]["updates"])
        self._step_count = self.last_epoch + 1
        self._last_lr = self.get_lr()

    def get_lr(self) -> list[float | Tensor]:
        """The learning rate of each group, as the next update will use it."""
        return [_rate(group["lr"]) for group in self._groups()]

    def get_last_lr(self) -> list[float | Tensor]:
        """The same as `get_lr`: it never lags behind."""
        return self.get_lr()

    def state_dict(self) -> dict[str, Any]:
        """The count of applied updates, to be compared when it is loaded."""
        self.optimizer.refresh()  # an accelerator may know of fewer
        return {"last_epoch": int(self._groups()[0]["updates"])}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the optimizer, which holds the count, is where this state was saved.

        A fresh one is left as it is: frameworks load schedulers before optimizers, and after.

        Raises:
            InputError: both have counts, and they differ.
        """
        saved, here = int(state_dict["last_epoch"]), int(self._groups()[0]["updates"])
        if here and saved and saved != here:
            raise InputError(
                f"lr_scheduler: saved after {saved} updates, and the optimizer has made {here}; "
                "load the optimizer's state of the same checkpoint"
            )
        self.step()


def _rate(value: Any) -> float:
    return float(value)
