"""What looking at one target's processes may cost.

They decide how often there is something to look at, and how long a look takes: a program may map the same
library all day, and have a hundred thousand mappings to search.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from whyidle_daemon.access import Account


class Looks:
    """The daemon's CPU time for one target: a tenth of it, and 0.4 s at once."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cpu: Callable[[], float] = time.thread_time
    ) -> None:
        self._clock, self._cpu = clock, cpu
        self._account = Account()
        self._again_s = 0.0

    @property
    def spent(self) -> bool:
        """Nothing may be looked at now."""
        return self._clock() < self._again_s

    @contextmanager
    def charged(self) -> Iterator[bool]:
        """Whether there is time for a look, which is then done within; what it takes is put down."""
        if self.spent:
            yield False
            return
        began_s = self._cpu()
        try:
            yield True
        finally:
            now_s = self._clock()
            self._again_s = now_s + self._account.charge(self._cpu() - began_s, now_s)
