"""A model's buffers, which a forward pass writes even where nothing is learnt from its batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LARGEST = 2**20
"""Elements of a buffer that is copied after every update: statistics are small."""


class Buffers:
    """The buffers of a model as they were after the last update, once `keep` was called.

    Running means and the like. What is not saved with the model, and what is larger than `LARGEST`,
    is left alone.
    """

    def __init__(self, model: nn.Module) -> None:
        saved = model.state_dict(keep_vars=True)
        self._buffers = [
            buffer
            for name, buffer in model.named_buffers()
            if name in saved and buffer.numel() <= LARGEST
        ]
        self._kept: list[Tensor] | None = None

    @property
    def watched(self) -> bool:
        """Whether there is something to put back."""
        return self._kept is not None

    @torch.no_grad()
    def keep(self) -> None:
        """What they hold now is what an update left behind."""
        if self._kept is None:
            self._kept = [buffer.clone() for buffer in self._buffers]
        elif self._kept:
            torch._foreach_copy_(self._kept, self._buffers)  # pyright: ignore

    @torch.no_grad()
    def put_back(self) -> None:
        """Undo what was written since."""
        if self._kept:
            torch._foreach_copy_(self._buffers, self._kept)  # pyright: ignore
