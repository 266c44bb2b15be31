"""The model and CUDA contexts of a target, and the threads that drive them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from whyidle_daemon.cuda_facts import CudaKnown
from whyidle_daemon.facts import CudaFacts, EngineFacts, LaunchesSeen
from whyidle_daemon.gaps import Driver, EngineActivity
from whyidle_daemon.llama import MAX_PENDING, SETTLE_NS, LlamaEngine
from whyidle_daemon.naming import Naming
from whyidle_daemon.processes import Process, ProcessTable
from whyidle_daemon.timelines import Record
from whyidle_daemon.unseen import Unseen
from whyidle_probes.events import Engine, Gap, Inference, Thread, is_cuda

MAX_ENGINES = 4096  # that nothing but their making is known of
Lines = Callable[[int], list[Record]]
Walk = Callable[..., Any]  # of a walker


class Engines:
    """Every context seen. ``drivers`` are the threads that called one, also those that drive a GPU."""

    def __init__(self, processes: ProcessTable) -> None:
        self._processes = processes
        self._known: dict[tuple[Process, int], LlamaEngine] = {}
        self._cuda = CudaKnown()
        self._unseen = {"launch": Unseen(), "decode": Unseen()}
        self.drivers: set[int] = set()

    # --- in --------------------------------------------------------------------------------------------

    def gap(self, gap: Gap) -> LlamaEngine:
        """A context was idle; returns it."""
        engine = self._at(gap.pid, gap.context, gap.start_ns)
        engine.process.keep = True
        engine.add(gap)
        self.drivers.add(gap.tid)
        return engine

    def inference(self, one: Inference) -> None:
        """A context has computed an answer."""
        self._at(one.pid, one.context, one.start_ns).log.add(one)

    def facts(self, facts: EngineFacts) -> None:
        """The parameters of a context were read."""
        if len(self._known) < MAX_ENGINES:
            self._at(facts.pid, facts.context, facts.ns).log.facts = facts

    def cuda(self, facts: CudaFacts) -> None:
        """A process's libcuda was looked at."""
        self._cuda.add(facts)

    def seen(self, seen: LaunchesSeen) -> None:
        """Probes on calls of one kind went on or off."""
        if seen.what in self._unseen:
            self._unseen[seen.what].add(seen)

    # --- out -------------------------------------------------------------------------------------------

    def driver_of(self, process: Process) -> int | None:
        """The thread that drives the model or the CUDA context of a process, if it has one."""
        driven = (engine.drivers for (of, _), engine in self._known.items() if of is process)
        return min((tid for drivers in driven for tid in drivers), default=None)

    def activity(
        self,
        engine: Engine,
        now_ns: int,
        threads: list[Thread],
        *,
        waiting: dict[tuple[int, int], Record],
        lines: Lines,
        naming: Naming,
        walk: Walk,
    ) -> EngineActivity:
        """A context's busy and idle time up to ``now_ns``, by the kernel's totals of it."""
        process = self._processes.find(engine.pid, engine.first_ns)
        process = process or Process(engine.pid, engine.first_ns, provisional=True)
        known = self._known.get((process, engine.context))
        known = known or LlamaEngine(process, engine.context, self._unseen["decode"])
        record = waiting.get((engine.pid, engine.driver))
        driver = Driver(_driver(engine, threads), (record,) if record is not None else ())
        activity = known.activity(engine, now_ns, driver, lines, naming.known, walk=walk)
        cuda_context = is_cuda(engine.context)
        unseen = self._unseen["launch" if cuda_context else "decode"]
        return activity._replace(
            simulated=cuda_context and self._cuda.simulated(engine.pid),
            unseen_ns=unseen.ns(activity.first_ns, activity.end_ns),
        )

    # --- making room -----------------------------------------------------------------------------------

    def settle(self, lines: Lines, horizon_ns: int, walk: Walk) -> None:
        """Account for good for all gaps that ended before then."""
        for engine in self._known.values():
            engine.settle(lines, horizon_ns, walk)

    def settled(self, tid: int) -> list[int]:
        """Up to when the gaps of each context that a thread drives are accounted for; ns."""
        driven = [engine for engine in self._known.values() if tid in engine.drivers]
        return [engine.settled_ns.get(tid, 0) for engine in driven]

    def latest_settled(self) -> list[int]:
        """Of each context, up to when the gaps of some driver are accounted for; ns."""
        return [max(engine.settled_ns.values(), default=0) for engine in self._known.values()]

    def _at(self, pid: int, context: int, ns: int) -> LlamaEngine:
        process = self._processes.at(pid, ns)
        engine = self._known.get((process, context))
        if engine is None:
            engine = self._known[process, context] = LlamaEngine(process, context, self._unseen["decode"])
        return engine


def settle_crowded(engine: LlamaEngine, lines: Lines, newest_ns: int, walk: Walk) -> None:
    """Account for good for the gaps of a context that has many: the old ones, if need be all of them."""
    engine.settle(lines, newest_ns - SETTLE_NS, walk)
    if len(engine.pending) > MAX_PENDING:
        engine.settle(lines, newest_ns, walk)


def _driver(engine: Engine, threads: list[Thread]) -> Thread | None:
    """The thread that drove a context last, as it was then."""
    for thread in threads:
        same = (thread.pid, thread.tid) == (engine.pid, engine.driver)
        if (
            same
            and thread.first_ns <= engine.last_ns
            and (not thread.end_ns or thread.end_ns >= engine.last_ns)
        ):
            return thread
    return None
