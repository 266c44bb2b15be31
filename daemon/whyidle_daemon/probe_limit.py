"""How long the probes on what is called often may stay: a pure decision.

A call costs a microsecond or a few more while it has a probe, and a job may launch tens of thousands of
kernels per second, or a tiny model decode five thousand tokens. So the probes of each kind live on a budget:
a hundredth of the time that passes, of which a little can be saved up. When it is spent they come off, and go
on again when there is enough for a look at the rate.
"""

from __future__ import annotations

SHARE = 0.01
HIT_NS = {"launch": 5_000, "decode": 5_000}
"""The dearest that was measured of one call, in a virtual machine; bare metal needs 0.5 to 1 us."""
SAVED_NS = 10_000_000  # 2000 launches at once, for nothing
NS = 1_000_000_000


class ProbeLimit:
    """Whether calls may have probes. ``hits`` are those of the whole host, whoever is observed."""

    def __init__(self, now_ns: int, hits: int, hit_ns: int) -> None:
        self._hit_ns = hit_ns
        self.attached = True
        self.rate = 0.0  # calls per second, when last seen
        self._balance_ns = SAVED_NS
        self._now_ns = now_ns
        self._hits = hits

    def update(self, now_ns: int, hits: int) -> bool:
        """Take the counter of probe hits at ``now_ns``; true when ``attached`` has changed."""
        passed, new = now_ns - self._now_ns, hits - self._hits
        if passed <= 0:
            return False
        self._now_ns, self._hits = now_ns, hits
        self._balance_ns = min(SAVED_NS, self._balance_ns + int(passed * SHARE)) - new * self._hit_ns
        if self.attached:
            self.rate = new * NS / passed
            if self._balance_ns < 0:
                self.attached = False
                return True
        elif self._balance_ns >= SAVED_NS:
            self.attached = True
            return True
        return False
