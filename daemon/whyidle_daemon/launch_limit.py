"""How long the probes on CUDA launches may stay: a pure decision.

A launch costs a microsecond or a few more while it has a probe, and a job may launch tens of thousands per
second. So probes live on a budget: a hundredth of the time that passes, of which a little can be saved up.
When it is spent they come off, and go on again when there is enough for a look at the rate.
"""

from __future__ import annotations

SHARE = 0.01
HIT_NS = 5_000  # the dearest that was measured, in a virtual machine; bare metal needs 0.5 to 1 us
SAVED_NS = 10_000_000  # 2000 launches at once, for nothing
NS = 1_000_000_000


class LaunchLimit:
    """Whether launches may have probes. ``hits`` are those of the whole host, whoever is observed."""

    def __init__(self, now_ns: int, hits: int) -> None:
        self.attached = True
        self.rate = 0.0  # launches per second, when last seen
        self._balance_ns = SAVED_NS
        self._now_ns = now_ns
        self._hits = hits

    def update(self, now_ns: int, hits: int) -> bool:
        """Take the counter of probe hits at ``now_ns``; true when ``attached`` has changed."""
        passed, new = now_ns - self._now_ns, hits - self._hits
        if passed <= 0:
            return False
        self._now_ns, self._hits = now_ns, hits
        self._balance_ns = min(SAVED_NS, self._balance_ns + int(passed * SHARE)) - new * HIT_NS
        if self.attached:
            self.rate = new * NS / passed
            if self._balance_ns < 0:
                self.attached = False
                return True
        elif self._balance_ns >= SAVED_NS:
            self.attached = True
            return True
        return False
