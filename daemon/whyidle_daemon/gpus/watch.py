"""GPUs, as the daemon's loop sees them: started with the first target, emptied on its ticks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from whyidle_daemon.facts import GpuFacts
from whyidle_daemon.gpus.drm import Drm
from whyidle_daemon.gpus.nvidia import Nvidia
from whyidle_daemon.gpus.routing import Routes, Tell
from whyidle_daemon.gpus.sampler import GpuSampler, Source


def sources() -> list[Source]:
    """Every kind of GPU that can be read."""
    return [Nvidia(), Drm()]


class GpuWatch:
    """All GPUs, for all targets; ``processes`` are the PIDs of one, ``target_of`` is whose a PID is."""

    def __init__(
        self, target_of: Callable[[int], int | None], processes: Callable[[int], Iterable[int]]
    ) -> None:
        self._processes = processes
        self._sampler = GpuSampler(sources)
        self._routes = Routes(target_of)
        self._targets: set[int] = set()

    @property
    def gpus(self) -> list[GpuFacts]:
        """The host's, as far as they are known."""
        return self._routes.gpus

    def add(self, number: int, tell: Tell) -> None:
        """Tell a target of its GPUs from here on; one that was added already, from the beginning again."""
        self._targets.add(number)
        self._routes.add(number, tell)
        self._sampler.start()
        self.look()

    def remove(self, number: int) -> None:
        """A target ended; with the last one reading ends."""
        self._targets.discard(number)
        self._routes.remove(number)
        if not self._targets:
            self._sampler.stop()

    def drain(self) -> None:
        """Tell the targets what was read since the last call."""
        if self._sampler.running:
            self._routes.route(self._sampler.drain())

    def look(self) -> None:
        """Once a second: whose open files tell of a GPU."""
        if self._sampler.running:
            observed = [pid for number in self._targets for pid in self._processes(number)]
            self._sampler.pids = frozenset(observed)

    def close(self) -> None:
        """The daemon ends."""
        self._sampler.close()
