"""What an observation was told of CUDA besides events: simulated libraries. Pure."""

from __future__ import annotations

from whyidle_daemon.facts import CudaFacts

_MAX_PROCESSES = 4096


class CudaKnown:
    """Takes :class:`CudaFacts`."""

    def __init__(self) -> None:
        self._simulated: dict[int, bool] = {}

    def add(self, facts: CudaFacts) -> None:
        if facts.pid in self._simulated or len(self._simulated) < _MAX_PROCESSES:
            self._simulated[facts.pid] = facts.simulated

    def simulated(self, pid: int) -> bool:
        return self._simulated.get(pid, False)
