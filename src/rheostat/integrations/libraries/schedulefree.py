"""schedulefree: the authors' schedule-free optimizers."""

from __future__ import annotations

import schedulefree

from rheostat.integrations.foreign import adopt_library

adopt_library("schedulefree", vars(schedulefree))
