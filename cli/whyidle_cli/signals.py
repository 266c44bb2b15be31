"""Signals as something to wait for, beside sockets and processes."""

from __future__ import annotations

import contextlib
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Final, Self

IGNORED_CHILDREN: Final = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
"""Whether whyidle was started so: a child's status is lost then, so ``main`` undoes it."""


class Signals:
    """While the block runs, the given signals do nothing but make :meth:`fileno` readable.

    A signal that was ignored when whyidle was started (nohup) stays ignored. Main thread only.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._numbers = numbers
        self._previous: dict[signal.Signals, Any] = {}
        self._pending: list[int] = []

    def fileno(self) -> int:
        """Readable when :meth:`take` has something to give."""
        return self._read

    def take(self) -> list[int]:
        """The signals that came since the last call, in order."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        taken, self._pending = self._pending, []
        return taken

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._read)
        os.close(self._write)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pending.append(number)
