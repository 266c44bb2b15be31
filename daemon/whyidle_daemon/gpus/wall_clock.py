"""CLOCK_REALTIME, with which a driver stamps, beside CLOCK_MONOTONIC: it may be set at any time."""

from __future__ import annotations

import time

_STEP_NS = 1_000_000_000


def to_monotonic_ns() -> int:
    """CLOCK_MONOTONIC minus CLOCK_REALTIME, now: it changes whenever the clock is set."""
    before = time.monotonic_ns()
    real = time.time_ns()
    return (before + time.monotonic_ns()) // 2 - real


class WallClock:
    """Notices that the clock was set back. Set ahead, it makes no new stamp look like an old one. Pure."""

    def __init__(self) -> None:
        self._least_ns: int | None = None

    def was_set_back(self, offset_ns: int) -> bool:
        """By more than a second from where it was furthest ahead; said once."""
        back = self._least_ns is not None and offset_ns - self._least_ns > _STEP_NS
        if self._least_ns is None or back or offset_ns < self._least_ns:
            self._least_ns = offset_ns
        return back
