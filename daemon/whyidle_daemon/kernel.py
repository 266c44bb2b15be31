"""The kernel side as seen from the daemon: maps, counters and the two ring buffers.

Owns the descriptors that the loader handed over; when this process ends, however it ends, the kernel
closes them and the probes are gone.
"""

from __future__ import annotations

import logging
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from whyidle_daemon import libbpf
from whyidle_probes import structs
from whyidle_probes.events import Engine, Event, Glance, NotesWanted, Notice, ShortWaits, Stat, Thread
from whyidle_probes.loader import Probes

log = logging.getLogger(__name__)

DEFAULT_SLICE_NS = 1_000_000
DEFAULT_GAP_NS = 1_000_000
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_TARGET_OFFSET, _END_OFFSET = 16, 48  # of wi_thread.target, wi_thread.end_ns
_TORN_TRIES = 100
ENTRY_ONLY = ("launch", "copy", "current", "pushed", "popped")
_FAMILY = ("wi_fork", "wi_exec", "wi_exit")
_NEVER = 2**64 - 1
_ITERATIONS = 32
_FORGETTINGS = 16
_CONTROL_TURN = 4096
_FIRST_TURN = 256
_GLANCES = 1024


class Kernel:
    """Loaded probes, ready to track processes. ``on_event`` gets every decoded ring-buffer record."""

    def __init__(self, probes: Probes, on_event: Callable[[Event], None]) -> None:
        sizes = structs.SIZES
        self._probes = probes
        self._threads = libbpf.Map(probes.map("threads"), 4, sizes["wi_thread"])
        self._processes = libbpf.Map(probes.map("processes"), 4, 4)
        self._engines = libbpf.Map(probes.map("engines"), sizes["wi_engine_key"], sizes["wi_engine"])
        self._waits = libbpf.Map(probes.map("waits"), sizes["wi_wait_key"], sizes["wi_wait"])
        self._gils = libbpf.Map(probes.map("gils"), 4, sizes["wi_range"])
        self._config = libbpf.Map(probes.map("config"), 4, sizes["wi_config"])
        self._stats = libbpf.Map(probes.map("stats"), 4, 8)
        self._noticed = libbpf.Map(probes.map("noticed"), 4, 4)
        self._notes_wanted = libbpf.Map(probes.map("notes_wanted"), 4, 4)
        self._notes: int | None = None  # the link of the program that makes them
        self._notice = libbpf.Map(probes.map("notice"), 4, 4)
        self._on_event = on_event
        self.events = libbpf.RingBuffer(probes.map("events"), self._handle)
        self.control = libbpf.RingBuffer(probes.map("control"), self._handle)
        self.first_writes = libbpf.RingBuffer(probes.map("first_writes"), self._handle)
        self.bad_events = 0
        self._slice_ns, self._gap_ns = DEFAULT_SLICE_NS, DEFAULT_GAP_NS
        self._often_ns, self._run_ns = -1, 0
        self._launches_ns = self._decodes_ns = 0
        self._resting = False
        self._glanced: dict[int, tuple[bytes, Glance]] = {}  # by TID, and what of the entry it was made of
        self.configure(DEFAULT_SLICE_NS, DEFAULT_GAP_NS)

    @property
    def missing(self) -> tuple[str, ...]:
        """What this kernel does not have: optional attach points, and what else ``Probes.missing`` names."""
        return self._probes.missing

    def configure(self, slice_ns: int, gap_ns: int) -> None:
        """Intervals at least this long become events; shorter ones are only summed."""
        self._slice_ns, self._gap_ns = slice_ns, gap_ns
        self._write_config()

    def launches_seen(self, since_ns: int | None) -> None:
        """Since when CUDA launches have probes (ns on CLOCK_MONOTONIC); ``None``: they have none."""
        self._launches_ns = _NEVER if since_ns is None else since_ns
        self._write_config()

    def decodes_seen(self, since_ns: int) -> None:
        """Since when llama_decode has probes without a break; to be said before they are there again."""
        self._decodes_ns = since_ns
        self._write_config()

    def rest(self, resting: bool) -> None:
        """Whether the rings are read so rarely that a new program of a target is to wake the reader."""
        if resting != self._resting:
            self._resting = resting
            self._write_config()

    def _write_config(self) -> None:
        value = structs.CONFIG.pack(
            self._slice_ns, self._gap_ns, self._launches_ns, self._decodes_ns, self._resting
        )
        self._config.set(_U32.pack(0), value)

    def track(self, pids: Iterable[int], target: int) -> None:
        """Track these processes with all their threads and descendants, those to come included.

        One that has ended is not, nor one none of whose threads there is room for. Raises :class:`OSError`
        (E2BIG) when the process table is full.
        """
        roots = set(pids)
        for pid in roots:
            self._processes.set(_U32.pack(pid), _U32.pack(target))
        before = -1
        for _ in range(_ITERATIONS):
            found = self.stat(Stat.ITER_NEW)
            if found == before:
                break
            before = found
            libbpf.run_iterator(self._probes.link("wi_tasks"))
        gone = {pid for pid in roots if self._threads.get(_U32.pack(pid)) is None}
        if gone:  # perhaps only their first threads
            gone -= {pid for pid, *_ in self.briefs()}
        for pid in gone:
            self._processes.delete(_U32.pack(pid))

    def target_of(self, pid: int) -> int | None:
        """The target that a process belongs to, as one of its roots or by descent."""
        value = self._processes.get(_U32.pack(pid))
        return _U32.unpack(value)[0] if value is not None else None

    def notice(self, on: bool) -> None:
        """Notice processes that nobody observes when they call exec or map an engine's library."""
        self._notice.set(_U32.pack(0), _U32.pack(Notice.ARMED if on else Notice.OFF))

    def noticed(self) -> list[int]:
        """Take the processes noticed since the last call that are alive; the next one sends Noticed again.

        At most 4096 are kept; of more, the latest.
        """
        self.notice(True)  # before they are taken: what comes meanwhile is in these or is announced
        return [_U32.unpack(key)[0] for key, _ in self._noticed.drain()]

    def set_gil(self, pid: int, start: int, end: int) -> None:
        """A futex of ``pid`` at an address in this range is the GIL; forgotten at exec and exit."""
        self._gils.set(_U32.pack(pid), structs.RANGE.pack(start, end))

    def untrack(self, target: int) -> None:
        """Forget a target: its processes, threads and engines. Raises nothing for what is already gone."""
        for _ in range(_FORGETTINGS):  # who is still there may make others behind the reader's back
            gone = _forget(self._processes, target)
            if not _forget(self._threads, target, _TARGET_OFFSET) + gone:
                break
        _forget(self._engines, target)
        if next(self._processes.items(), None) is None:  # nobody sleeps who needs them
            self._make_notes(False)

    @property
    def makes_notes(self) -> bool:
        """Whether the network stack notes for whom data arrived: a thread has slept in a poll of several."""
        return self._notes is not None

    def _make_notes(self, on: bool) -> None:
        if on and self._notes is None and "sk_data_ready" not in self.missing:
            try:
                self._notes = libbpf.attach_tracepoint(self._probes.program("wi_data_ready"))
            except OSError as error:
                log.warning("what wakes a poll of several stays unknown: sk_data_ready: %s", error.strerror)
        elif not on:
            self._close_notes()
            self._notes_wanted.set(_U32.pack(0), _U32.pack(0))  # after: who asks meanwhile asks again

    def _close_notes(self) -> None:
        if self._notes is not None:
            os.close(self._notes)
            self._notes = None

    def processes(self, target: int) -> list[int]:
        """Live processes of a target."""
        wanted = _U32.pack(target)
        return [_U32.unpack(key)[0] for key, value in self._processes.items() if value == wanted]

    def alive(self) -> set[int]:
        """Targets that have a live process."""
        return {_U32.unpack(value)[0] for _, value in self._processes.items()}

    def threads(self, target: int) -> list[Thread]:
        """All threads in the map, also those that ended while the ring was full (``end_ns`` is set)."""
        found = []
        alike: dict[tuple[int, ...], tuple[int, ...]] = {}
        for key, value in self._threads.items():
            if _U32.unpack_from(value, _TARGET_OFFSET)[0] != target:
                continue
            thread = structs.decode_thread(value, alike=alike) or self.thread(_U32.unpack(key)[0])
            if thread is not None:
                found.append(thread)
        return found

    def thread(self, tid: int) -> Thread | None:
        """One thread, or ``None`` when it is not tracked (or changes faster than it can be copied)."""
        key = _U32.pack(tid)
        for _ in range(_TORN_TRIES):
            value = self._threads.get(key)
            if value is None:
                return None
            thread = structs.decode_thread(value)
            if thread is not None:
                return thread
        return None

    def glances(self, target: int) -> Iterator[Glance]:
        """What each thread of a target is doing: one at a time, at a fifth of the cost of :meth:`threads`."""
        wanted = _U32.pack(target)
        place = slice(_TARGET_OFFSET, _TARGET_OFFSET + 4)
        return (structs.decode_glance(value) for _, value in self._threads.items() if value[place] == wanted)

    def briefs(self) -> Iterator[tuple[int, int, int, int, int, int]]:
        """``(pid, tid, target, last_ns, end_ns, state)`` of every thread of every target."""
        return (brief for values in self._threads.values() for brief in structs.decode_briefs(values))

    def glance(self, tid: int) -> Glance | None:
        """What a thread is doing, ``None`` when it is not tracked."""
        value = self._threads.get(_U32.pack(tid))
        if value is None:
            return None
        seen = value[structs.GLANCED]
        before = self._glanced.get(tid)
        if before is not None and before[0] == seen:  # it sleeps: nearly all of them
            return before[1]
        if len(self._glanced) >= _GLANCES:
            self._glanced.clear()
        glance = structs.decode_glance(value)
        self._glanced[tid] = seen, glance
        return glance

    def sweep_exited(self, target: int) -> list[Thread]:
        """Take threads out of the map that ended while the ring was full: nothing of them is lost."""
        tids = [
            _U32.unpack(key)[0]
            for key, value in self._threads.items()
            if _U32.unpack_from(value, _TARGET_OFFSET)[0] == target
            and _U64.unpack_from(value, _END_OFFSET)[0]
        ]
        ended = [thread for tid in tids if (thread := self.thread(tid)) is not None and thread.end_ns]
        for thread in ended:
            self._threads.delete(_U32.pack(thread.tid))
        return ended

    def engines(self, target: int) -> list[Engine]:
        """All model contexts of a target, with totals."""
        wanted = _U32.pack(target)
        return [
            structs.decode_engine(key, value) for key, value in self._engines.items() if value[:4] == wanted
        ]

    def forget_engines(self, which: Iterable[tuple[int, int]]) -> None:
        """Contexts of programs that ended, by PID and context: nothing else makes room for others."""
        for pid, context in which:
            self._engines.delete(structs.engine_key(pid, context))

    def drain_waits(self) -> list[ShortWaits]:
        """Short socket waits since the last call, of all targets."""
        return [structs.decode_wait(key, value) for key, value in self._waits.drain()]

    def stat(self, which: Stat) -> int:
        """One counter since the probes were loaded."""
        value = self._stats.get(_U32.pack(which))
        return _U64.unpack(value)[0] if value else 0

    def stats(self) -> dict[Stat, int]:
        """All of them, at the cost of two."""
        counted = {_U32.unpack(key)[0]: _U64.unpack(value)[0] for key, value in self._stats.items()}
        return {which: counted.get(which, 0) for which in Stat}

    def run_ns(self) -> int:
        """Nanoseconds the programs have run; grows only while kernel.bpf_stats_enabled is on."""
        often_ns = libbpf.program_info(self._probes.program("wi_sched_switch")).run_ns
        if often_ns != self._often_ns:  # it runs all the time: where it has not, nothing is counted
            self._often_ns = often_ns
            programs = [fd for name, fd in self._probes.descriptors.items() if name.startswith("program:")]
            self._run_ns = sum(libbpf.program_info(fd).run_ns for fd in programs)
        return self._run_ns

    def skipped(self) -> int:
        """Forks, execs and exits that their program did not see: it was preempted on that CPU (7.x)."""
        return sum(libbpf.program_info(self._probes.program(name)).skipped for name in _FAMILY)

    def consume(self, limit: int) -> int:
        """Handle control records, then at most ``limit`` of the others; returns how many of these."""
        self.control.consume(_CONTROL_TURN)
        self.first_writes.consume(_FIRST_TURN)
        return self.events.consume(limit)

    def attach_clock(self, tid: int, hertz: int) -> int | None:
        """Ask so often of a thread's CPU time what it does; closing the descriptor ends it.

        ``None`` when the kernel has no such clock, or the thread is gone.
        """
        try:
            return libbpf.attach_clock(self._probes.program("wi_oncpu"), tid, hertz)
        except (KeyError, OSError):
            return None

    def attach_functions(self, kind: str, path: str, offsets: Sequence[int]) -> tuple[int, ...]:
        """Uprobes on entry and return of functions of a file; closing the descriptors detaches.

        ``kind`` is that of :data:`whyidle_daemon.libraries.KNOWN`; some have no return probe.
        Raises :class:`KeyError` when the kernel refused it, :class:`OSError` when it cannot be attached.
        """
        enter = self._probes.program(f"wi_{kind}_enter")
        # The return first: an entry without a return would look like an endless call.
        programs = [] if kind in ENTRY_ONLY else [(self._probes.program(f"wi_{kind}_return"), True)]
        programs.append((enter, False))
        if self._probes.uprobe_multi:
            return tuple(libbpf.link_uprobes(p, path, offsets, returns=returns) for p, returns in programs)
        return tuple(
            libbpf.attach_uprobe(p, path, offset, returns=returns)
            for p, returns in programs
            for offset in offsets
        )

    def _handle(self, data: bytes) -> None:
        try:
            event = structs.decode_event(data)
        except structs.BadEventError:
            self.bad_events += 1
            return
        if isinstance(event, NotesWanted):
            self._make_notes(True)
        else:
            self._on_event(event)

    def close(self) -> None:
        """Detach everything."""
        self._close_notes()
        self.events.close()
        self.control.close()
        self.first_writes.close()
        self._probes.close()


def _forget(entries: libbpf.Map, target: int, offset: int = 0) -> int:
    """Remove the entries whose value has this target at an offset; returns how many there were."""
    keys = [key for key, value in entries.items() if _U32.unpack_from(value, offset)[0] == target]
    return sum(map(entries.delete, keys))


def monotonic_ns() -> int:
    """The clock that the kernel side stamps with."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)
