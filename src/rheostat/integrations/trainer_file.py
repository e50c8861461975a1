"""The Hugging Face Trainer's `optimizer.pt`: in which order it holds the parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

from torch import nn

from rheostat.core.naming import bare

_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names whose parameters Trainer does not decay, as transformers 5.23 has them."""


def trainer_names(model: nn.Module) -> list[str]:
    """The names of a model's trained parameters in the order of Trainer's optimizer, for
    `states.import_state(…, names=…)`: first those that it decays, then norms and biases."""
    modules = dict(cast("Iterable[tuple[str, nn.Module]]", model.named_modules()))
    norms = [name for name, module in modules.items() if isinstance(module, nn.LayerNorm)]
    trained = [name for name, param in model.named_parameters() if param.requires_grad]
    undecayed = {
        name
        for name in trained
        if _UNDECAYED.search(name.lower()) or any(name.startswith(f"{norm}.") for norm in norms)
    }
    decayed = [name for name in trained if name not in undecayed]
    return bare(model, [*decayed, *(name for name in trained if name in undecayed)])
