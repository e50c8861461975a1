"""SIGTERM and SIGINT as a wish: the step in hand is finished first."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Remembers a signal to stop until the run is ready for it. A second one acts at once.

    Handlers are installed only in the main thread (Python allows no other) and put back by
    `restore`.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._remember)

    @property
    def exit_code(self) -> int:
        """What a process that the signal ends returns: 143 for SIGTERM, 130 for SIGINT; else 0."""
        return 0 if self.received is None else 128 + self.received

    def restore(self) -> None:
        """Put back the handlers that were there before; twice is allowed."""
        while self._before:
            number, handler = self._before.popitem()
            # None: one that C code installed, which Python cannot put back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _remember(self, number: int, _: FrameType | None) -> None:
        if self.received is not None:
            self.restore()
            signal.raise_signal(number)
        self.received = number
