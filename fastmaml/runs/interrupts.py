"""SIGINT and SIGTERM as a wish to stop, so that a run can finish its iteration and save."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_NOTICE = b"\nstopping after this iteration; once more aborts at once\n"


class Interrupts:
    """While it is entered, a first SIGINT (Ctrl-C) or SIGTERM sets `signal`; a second one aborts at once.

    The second raises KeyboardInterrupt, or SystemExit(143) for SIGTERM. The former handlers are restored on leaving.
    Outside the main thread, where Python takes no handlers, it does nothing; a signal that the process ignores
    (as under nohup) stays ignored.

    Attributes:
        signal: the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):  # None: a handler that is not Python's
                    self._former[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former = {}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
        self.signal = int(number)
        os.write(2, _NOTICE)  # not print, which a signal may have interrupted
