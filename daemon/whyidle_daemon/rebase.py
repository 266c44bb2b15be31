"""A new observation of processes that are tracked already: what the kernel counted before is taken off.

The kernel side counts from when it first saw a thread or an engine, and goes on counting. An observation that
is to run for months is cut into parts, so that its report is of some minutes and not of all time and each
part can be recorded in a file of its own. A part begins with the totals at one instant (:class:`Base`); every
record is told to it as if the kernel had begun to count there. Pure. Sums stay exact: a thread's states still
add up to its time since the cut, an engine's busy and idle time to the same.
"""

from __future__ import annotations

from typing import Any

from whyidle_daemon.facts import EngineSpan, LoopTasks, Snapshot, StackSample
from whyidle_probes.events import Engine, Gap, Inference, Slice, Thread, is_cuda

_COUNTED = ("prompt_tokens", "decode_tokens", "prompt_ns", "decode_ns", "inferences", "failed")


class Base:
    """Where the kernel's totals stood at ``snapshot.ns``."""

    def __init__(self, snapshot: Snapshot, decodes_unseen_ns: int | None = None) -> None:
        """``decodes_unseen_ns``: since when llama.cpp's calls have no probes, and count for nothing."""
        self.start_ns = snapshot.ns
        self._unseen_ns = decodes_unseen_ns
        self._threads = {(thread.tid, thread.first_ns): thread for thread in snapshot.threads}
        self._by_tid = {thread.tid: thread for thread in snapshot.threads}
        self._engines = {(engine.pid, engine.context): engine for engine in snapshot.engines}

    def record(self, record: Any) -> Any:
        """A record as the new observation is told it; ``None`` for what was over before it began."""
        if isinstance(record, Slice):
            return self._slice(record)
        if isinstance(record, Gap):
            return self._gap(record)
        if isinstance(record, Thread):
            # One that ended while the totals were read is in none of them: all its time was before.
            return self.thread(record) if not 0 < record.end_ns <= self.start_ns else None
        if isinstance(record, Inference):  # one that was under way at the cut took as long as it took
            return record if record.end_ns > self.start_ns else None
        if isinstance(record, StackSample | LoopTasks):
            return record._replace(since_ns=max(record.since_ns, self.start_ns))
        if isinstance(record, EngineSpan):
            return record.within(self.start_ns, record.end_ns)
        return record

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Later totals, from the cut on."""
        return Snapshot(
            snapshot.ns,
            tuple(self.thread(thread) for thread in snapshot.threads),
            tuple(self.engine(engine) for engine in snapshot.engines),
        )

    def thread(self, thread: Thread) -> Thread:
        """Its time since the cut; one that began later is as it is."""
        base = self._threads.get((thread.tid, thread.first_ns))
        if base is None:
            return thread
        moved = thread.last_ns > self.start_ns or bool(thread.end_ns)
        before = base.totals_at(self.start_ns) if moved else base.ns
        return thread._replace(
            first_ns=self.start_ns,
            last_ns=max(thread.last_ns, self.start_ns),
            ns=difference(thread.ns, before),
            count=tuple(max(0, now - then) for now, then in zip(thread.count, base.count, strict=True)),
            clock_samples=max(0, thread.clock_samples - base.clock_samples),
            polling_samples=max(0, thread.polling_samples - base.polling_samples),
        )

    def engine(self, engine: Engine) -> Engine:
        """Its busy and idle time since the cut; a call or a gap that was under way is cut there."""
        seen = self._seen(engine)
        base = self._engines.get((engine.pid, engine.context))
        if base is None or base.first_ns != engine.first_ns:
            return engine._replace(seen=seen)
        busy, idle = engine.busy_ns - base.busy_ns, engine.idle_ns - base.idle_ns
        if engine.last_ns > base.last_ns:  # what was under way at the cut has ended, and was counted whole
            under_way = max(0, min(self.start_ns, engine.last_ns) - base.last_ns)
            if self._unseen_ns is not None and not is_cuda(engine.context):
                under_way = 0  # it was in no total
            busy, idle = (busy - under_way, idle) if base.busy else (busy, idle - under_way)
        return engine._replace(
            first_ns=self.start_ns,
            last_ns=max(engine.last_ns, self.start_ns),
            busy_ns=max(0, busy),
            idle_ns=max(0, idle),
            calls=max(0, engine.calls - base.calls),
            gaps=max(0, engine.gaps - base.gaps),
            short_ns=max(0, min(engine.short_ns - base.short_ns, idle)),
            seen=seen,
            **{name: max(0, getattr(engine, name) - getattr(base, name)) for name in _COUNTED},
            run_end_ns=engine.run_end_ns if engine.run_end_ns > self.start_ns else 0,  # else told before
        )

    def _seen(self, engine: Engine) -> tuple[int, ...]:
        """The driver's totals at the end of its last call, or at the cut if that came later."""
        driver = self._by_tid.get(engine.driver)
        if driver is None or driver.pid != engine.pid:
            return engine.seen
        if engine.last_ns <= self.start_ns:
            return (0,) * len(engine.seen)
        before = driver.totals_at(self.start_ns)
        return tuple(max(0, now - then) for now, then in zip(engine.seen, before, strict=True))

    def _slice(self, slice_: Slice) -> Slice | None:
        cut = self.start_ns - slice_.start_ns
        if cut <= 0:
            return slice_
        if slice_.end_ns <= self.start_ns:
            return None
        blocked = max(0, slice_.blocked_ns - cut)
        waited = slice_.end_ns - self.start_ns - blocked
        return slice_._replace(start_ns=self.start_ns, blocked_ns=blocked, runqueue_ns=waited)

    def _gap(self, gap: Gap) -> Gap | None:
        if gap.start_ns >= self.start_ns:
            return gap
        if gap.end_ns <= self.start_ns:
            return None
        engine, driver = self._engines.get((gap.pid, gap.context)), self._by_tid.get(gap.tid)
        ns = None  # then the slices alone say where it went
        if gap.ns is not None and engine is not None and driver is not None and engine.driver == gap.tid:
            then = driver.totals_at(self.start_ns)
            before = [max(0, now - seen) for now, seen in zip(then, engine.seen, strict=True)]
            ns = difference(gap.ns, before)
        return gap._replace(start_ns=self.start_ns, ns=ns)


def difference(after: tuple[int, ...], before: list[int] | tuple[int, ...]) -> tuple[int, ...]:
    """``after - before``, never negative, with the sum that the plain difference has (0 at least).

    An interval under way may be put down to another wait once it has ended.
    """
    parts = [now - then for now, then in zip(after, before, strict=True)]
    debt = -sum(part for part in parts if part < 0)
    parts = [max(0, part) for part in parts]
    while debt and any(parts):
        largest = max(range(len(parts)), key=parts.__getitem__)
        paid = min(debt, parts[largest])
        parts[largest] -= paid
        debt -= paid
    return tuple(parts)
