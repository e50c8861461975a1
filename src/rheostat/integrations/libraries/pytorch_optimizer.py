"""pytorch_optimizer: more than a hundred optimizers, and some schedulers."""

from __future__ import annotations

import pytorch_optimizer

from rheostat.integrations.foreign import adopt_library

adopt_library("pytorch_optimizer", vars(pytorch_optimizer))
