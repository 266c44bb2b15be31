"""How much memory the processes of a target hold, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable

from whyidle_daemon.facts import LimitSample, MemorySample
from whyidle_daemon.kernel import monotonic_ns
from whyidle_daemon.limits import Limits
from whyidle_daemon.proc import Proc

_PROCESSES = 256
_COSTS = 200  # half a percent of a core at most
# Samples are as far apart as a part of what was seen: a trend shows as well by fewer of them. Not too few:
# where they get rare, fewer are in a stretch, the least of them is less low, and what is level seems to rise.
_OFTEN = 240
_RARELY_NS = 2_000_000_000
_MAX_LIMITS = 32


class MemorySampler:
    """Samples of one target; ``tell`` gets each."""

    def __init__(
        self, proc: Proc, tell: Callable[[MemorySample | LimitSample], None], limits: Limits
    ) -> None:
        """``limits`` may be shared: what bounds one target bounds the next as well."""
        self._proc = proc
        self._tell = tell
        self._limits = limits
        self._began_ns = monotonic_ns()
        self._next_ns = 0

    @property
    def due(self) -> bool:
        """Whether the last look is long enough ago."""
        return monotonic_ns() >= self._next_ns

    def sample(self, pids: list[int]) -> None:
        """Look at the first 256 processes."""
        now = monotonic_ns()
        groups: dict[tuple[str, str], LimitSample] = {}
        for pid in pids[:_PROCESSES]:
            memory = self._proc.memory(pid)
            if memory:
                self._tell(MemorySample(pid, now, *memory))
            if len(groups) < _MAX_LIMITS:
                for one in self._limits.cgroups(pid):
                    sample = LimitSample(one.scope, one.name, now, one.used_bytes, one.limit_bytes)
                    groups.setdefault((one.scope, one.name), sample)
        for sample in groups.values():
            self._tell(sample)
        if (host := self._limits.host()) is not None:
            self._tell(LimitSample(host.scope, host.name, now, host.used_bytes, host.limit_bytes))
        apart = min((now - self._began_ns) // _OFTEN, _RARELY_NS)
        self._next_ns = now + max(_COSTS * (monotonic_ns() - now), apart)
