"""torch: its optimizers, and its schedulers as schedules."""

from __future__ import annotations

from torch import optim

from rheostat.integrations.foreign import adopt_library

adopt_library("torch", {**vars(optim), **vars(optim.lr_scheduler)})
