"""All targets under observation: routes what the kernel side sends to the one that it is of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

from whyidle_daemon.facts import LaunchesSeen
from whyidle_daemon.gpus.watch import GpuWatch
from whyidle_daemon.kernel import Kernel, monotonic_ns
from whyidle_daemon.libraries import EngineLibraries
from whyidle_daemon.limits import Limits
from whyidle_daemon.probe_limit import HIT_NS, ProbeLimit
from whyidle_daemon.proc import Proc
from whyidle_daemon.reading_guard import UNGUARDED, Guard
from whyidle_daemon.recording.output import Output
from whyidle_daemon.target import Target
from whyidle_probes.events import Event, Inference, Noticed, Stat

log = logging.getLogger(__name__)

_COUNTERS = {"launch": Stat.LAUNCHES, "decode": Stat.DECODES}


class Targets:
    """All targets; routes records to them by number."""

    def __init__(
        self,
        make_kernel: Callable[[Callable[[Event], None]], Kernel],
        proc: Proc,
        guard: Guard = UNGUARDED,
    ) -> None:
        self._targets: dict[int, Target] = {}
        self._next = 1
        self._proc = proc
        self.guard = guard
        self.know_owners = False
        self.on_noticed: Callable[[], None] = lambda: None
        self.on_inference: Callable[[Inference], None] | None = None
        self.kernel = make_kernel(self._dispatch)
        self.libraries = EngineLibraries(self.kernel.attach_functions, proc, guard)
        self._limits: dict[str, ProbeLimit] = {}
        self._memory_limits = Limits(proc)
        self.gpus = GpuWatch(self.kernel.target_of, self.kernel.processes)

    def __len__(self) -> int:
        return len(self._targets)

    def __iter__(self) -> Iterator[Target]:
        return iter(list(self._targets.values()))

    def start(
        self,
        roots: tuple[int, ...],
        command: tuple[str, ...],
        output: Output | None = None,
        history: Output | None = None,
    ) -> tuple[Target, int, int]:
        """Observe processes and their descendants. Raises :class:`TargetGoneError`; no file remains then."""
        target = Target(
            self._next,
            self.kernel,
            self.libraries,
            self._proc,
            know_owners=self.know_owners,
            guard=self.guard,
            limits=self._memory_limits,
        )
        off = [what for what, limit in self._limits.items() if not limit.attached]
        self._next += 1
        self._targets[target.number] = target
        try:
            processes, threads = target.start(roots, command, output, history)
        except BaseException:
            del self._targets[target.number]
            for file in (output, history):
                if file is not None:
                    file.discard()
            self.prune()
            raise
        for what in off:
            target.calls_seen(LaunchesSeen(monotonic_ns(), False, round(self._limits[what].rate), what))
        target.gpus = self.gpus
        self.gpus.add(target.number, target.tell)
        return target, processes, threads

    def stop(self, target: Target) -> None:
        target.close()
        self._targets.pop(target.number, None)
        self.gpus.remove(target.number)
        self.prune()

    def prune(self) -> None:
        """Take the probes off libraries that nobody who is observed maps any more."""
        self.libraries.prune(self._observed)

    def go_on_pruning(self) -> None:
        """At every tick: what one call had no time for."""
        if self.libraries.pruning:
            self.prune()
        if self.libraries.missed():
            for target in self:
                target.look_again()

    def _observed(self) -> list[int]:
        return [pid for number in self._targets for pid in self.kernel.processes(number)]

    def close(self) -> None:
        """The daemon ends."""
        self.gpus.close()
        self.libraries.close()
        self.kernel.close()

    @property
    def have_engines(self) -> bool:
        """Whether calls that drive an engine have probes, on or off."""
        return any(self.libraries.has(what) for what in _COUNTERS)

    @property
    def launch_kernels(self) -> bool:
        """Whether what launches a GPU's kernels has probes, on or off."""
        return self.libraries.has("launch")

    def limit_probes(self) -> None:
        """At every beat: keep the probes on what is called often within their budgets."""
        for what, counter in _COUNTERS.items():
            if self.libraries.has(what):
                self._limit_probes(what, self.kernel.stat(counter))

    def _limit_probes(self, what: str, hits: int) -> None:
        now = monotonic_ns()
        limit = self._limits.get(what)
        if limit is None:
            limit = self._limits[what] = ProbeLimit(now, hits, HIT_NS[what])
        if not limit.update(now, hits):
            return
        if what == "decode" and limit.attached:
            self.kernel.decodes_seen(now)
        elif what == "launch" and not limit.attached:
            self.kernel.launches_seen(None)
        self.libraries.set_probes(what, limit.attached)
        if what == "launch" and limit.attached:
            now = monotonic_ns()
            self.kernel.launches_seen(now)
        log.info("probes on calls (%s): %s at %.0f/s", what, "on" if limit.attached else "off", limit.rate)
        for target in self._targets.values():
            target.calls_seen(LaunchesSeen(now, limit.attached, round(limit.rate), what))

    def drain_waits(self) -> None:
        """Waits too short for events, summed by the kernel since the last call."""
        for waits in self.kernel.drain_waits():
            target = self._targets.get(waits.target)
            if target is not None:
                target.observation.add(waits)

    def _dispatch(self, event: Event) -> None:
        target = self._targets.get(event.target)
        if target is not None:
            target.handle(event)
            if self.on_inference is not None and isinstance(event, Inference):
                self.on_inference(event)
        elif isinstance(event, Noticed):
            self.on_noticed()
