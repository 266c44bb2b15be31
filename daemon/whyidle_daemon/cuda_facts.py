"""What an observation was told of CUDA besides events: simulated libraries, times without probes. Pure."""

from __future__ import annotations

from whyidle_daemon.facts import CudaFacts, LaunchesSeen

_MAX_PROCESSES = 4096
_MAX_BLIND = 4096


class CudaKnown:
    """Takes :class:`CudaFacts` and :class:`LaunchesSeen`."""

    def __init__(self) -> None:
        self._simulated: dict[int, bool] = {}
        self._blind: list[tuple[int, int]] = []  # launches had no probes
        self._blind_before_ns = 0  # of those that had no room
        self._blind_since: int | None = None

    def add(self, facts: CudaFacts) -> None:
        if facts.pid in self._simulated or len(self._simulated) < _MAX_PROCESSES:
            self._simulated[facts.pid] = facts.simulated

    def launches(self, seen: LaunchesSeen) -> None:
        if not seen.seen:
            if self._blind_since is None:
                self._blind_since = seen.ns
        elif self._blind_since is not None:
            self._blind.append((self._blind_since, max(seen.ns, self._blind_since)))
            self._blind_since = None
            if len(self._blind) > _MAX_BLIND:
                start, end = self._blind.pop(0)
                self._blind_before_ns += end - start

    def simulated(self, pid: int) -> bool:
        return self._simulated.get(pid, False)

    def unseen_ns(self, start_ns: int, end_ns: int) -> int:
        """For how long of an engine's life its launches had no probes, since there were too many."""
        blind = list(self._blind)
        if self._blind_since is not None:
            blind.append((self._blind_since, end_ns))
        found = sum(max(0, min(end, end_ns) - max(start, start_ns)) for start, end in blind)
        return min(found + self._blind_before_ns, max(0, end_ns - start_ns))
