"""Reads the Python stacks of sleeping threads, so that a wait has a line of code.

A thread that sleeps is looked at without stopping it. The reading counts only if the thread's record in the
kernel says afterwards that it is still in the same sleep; what cannot be trusted is dropped and counted. A
wait is read once, a loop's again if its tasks could not be told yet, one whose reading failed when it has
lasted twice as long. A target gets a bounded number of readings per second, fewer where they are dear, and
waits in between are attributed by the ones that were read.

A wait may be shorter than a reading takes. Of those it is enough that the thread is in a wait of the same
kind afterwards: they are many and alike, or they would not matter.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from traceback import walk_tb

from whyidle_daemon.awaits import awaited, loop_of
from whyidle_daemon.facts import LoopTasks, StackSample
from whyidle_daemon.loop_reader import LoopReader, Reading, site_of
from whyidle_daemon.pystack import Frame, StackError, StackReader
from whyidle_daemon.reading_guard import UNGUARDED, Guard, Process
from whyidle_daemon.reading_turns import ReadingTurns, wait_and_peer
from whyidle_daemon.recent import Recent
from whyidle_probes.events import Glance, Thread, Wait

log = logging.getLogger(__name__)

NS = 1_000_000_000
SHORT_TRIES = 3
LOOKS = 8  # 3 µs each
LEARNING_NS = 10 * NS  # nothing new for so long: what is going on is known
STEADY_NS = 1_000_000  # on a CPU for so long already: it hardly falls asleep within so many looks
LOOKS_AFTER = 32  # only once for each read: of a wait of 60 µs the next may be as far away
DISCOVER_AT_S = (0.0, 0.1, 0.4, 1.5, 5.0)  # after an exec: libpython is mapped some time into it
DISCOVER_PER_TURN = 8
MAX_READERS = 512
MAX_DONE = 20_000
# Size of _PyRuntime, in bytes, by minor version: readelf of the interpreters; the last for newer ones.
RUNTIME_BYTES = {
    **{8: 1464, 9: 656, 10: 672, 11: 0x28B20, 12: 0x704A8},
    **{13: 0x452B8, 14: 0x4D4C8, 15: 0x549C8},
}
_NEWER_RUNTIME_BYTES = 0x80000

Look = Callable[[int], Glance | None]
Read = StackSample | LoopTasks
Frames = tuple[Frame, ...]


class StackSampler:
    """Stacks for one target. ``look`` says what a thread is doing, ``on_gil`` gets (pid, start, end).

    ``loops`` reads what sleeping event loops wait for; ``cpu_ns`` is a clock of the CPU time that this takes.
    Whoever has it read gives ``guard`` its rest afterwards.
    """

    def __init__(
        self,
        look: Look,
        on_gil: Callable[[int, int, int], None],
        loops: LoopReader,
        cpu_ns: Callable[[], int] = time.thread_time_ns,
        guard: Guard = UNGUARDED,
    ) -> None:
        self._look = look
        self._cpu_ns = cpu_ns
        self._loops = loops
        self._guard = guard
        self._on_gil = on_gil
        self._readers: dict[int, StackReader] = {}
        self._whose: dict[int, Process] = {}  # of these
        self._pending: dict[int, tuple[int, int]] = {}  # pid -> (due_ns, attempt)
        self._latest: Recent[StackSample] = Recent()
        self._latest_loops: Recent[LoopTasks] = Recent()
        self._done: dict[int, int] = {}  # tid -> since_ns of the wait that was read
        self._late: dict[int, int] = {}  # tid -> since_ns of the wait that shall be read once more
        self._failed: dict[int, tuple[int, int]] = {}  # tid -> since_ns, and when it is tried again
        self._turns = ReadingTurns()
        self.running: Container[int] = ()  # threads that never sleep: read while they run
        self.reads = 0
        self.dropped = 0

    def started(self, pid: int, now_ns: int) -> None:
        """A process is new, or is another program now."""
        self.forget(pid)
        self._turns.ended(pid)
        self._pending[pid] = now_ns, 0

    def forget(self, pid: int) -> None:
        """A process has ended, or its memory is another program's."""
        self._pending.pop(pid, None)
        reader = self._readers.pop(pid, None)
        if reader is not None:
            reader.close()
            self._whose.pop(pid)
            self._loops.forget(pid)

    def ended(self, tid: int) -> None:
        """A thread has ended; its number may be another's soon."""
        self._latest.ended(tid)
        self._latest_loops.ended(tid)
        for kept in (self._done, self._late, self._failed):
            kept.pop(tid, None)
        self._turns.ended(tid)

    def has_work(self, by_ns: int) -> bool:
        """Whether there is Python code to read, or it is due to look for some before then."""
        return bool(self._readers) or any(due <= by_ns for due, _ in self._pending.values())

    def learning(self, now_ns: int) -> bool:
        """Whether a wait of a kind that was not known was read lately, or there may soon be code to read."""
        return bool(self._pending) or now_ns - self._turns.learned_ns < LEARNING_NS

    def discover(self, now_ns: int) -> None:
        """Find the interpreters of processes that are due for a look."""
        due = [pid for pid, (due_ns, _) in self._pending.items() if due_ns <= now_ns]
        for pid in due[:DISCOVER_PER_TURN]:
            _, attempt = self._pending.pop(pid)
            if not self._opened(pid) and attempt + 1 < len(DISCOVER_AT_S):
                later = int((DISCOVER_AT_S[attempt + 1] - DISCOVER_AT_S[attempt]) * NS)
                self._pending[pid] = now_ns + later, attempt + 1

    def latest(self, thread: Thread) -> StackSample | None:
        """What was read of a thread last."""
        return self._latest.get(thread)

    def latest_loop(self, thread: Thread) -> LoopTasks | None:
        """What the event loop of a thread was seen to wait for last."""
        return self._latest_loops.get(thread)

    def sample(self, tids: Iterable[int], now_ns: int) -> list[Read]:
        """Read those that sleep in a wait that has not been read yet, as far as the budget goes."""
        self._turns.begin(now_ns)
        found: list[Read] = []
        long, others = self._in_turn(() if self._turns.over else tids)
        for thread in long:
            if self._turns.may(thread):
                found += self._tried(thread.tid)
        for tid in others:
            if self._turns.scarce:
                break
            found += self._tried(tid)
        if len(self._done) > MAX_DONE:
            self._done.clear()
            self._late.clear()
            self._failed.clear()
        return found

    def close(self) -> None:
        for pid in list(self._readers):
            self.forget(pid)

    def _caught(self, tid: int) -> Glance | None:
        """A thread that sleeps in a wait not read yet; one that woke up just now gets a few more looks.

        One that was woken and waits for a CPU, perhaps this one, is where it slept until it gets it.
        """
        for _ in range(LOOKS):
            thread = self._look(tid)
            if thread is None:
                return None
            if self._wanted(thread):
                return thread
            if thread.state > Wait.RUNQUEUE or self._computes(thread):
                return None
        return None

    def _computes(self, thread: Glance) -> bool:
        """Of one that is awake: whether it is for longer than a few looks take."""
        return thread.state == Wait.RUNQUEUE or self._turns.now_ns - thread.last_ns >= STEADY_NS

    def _in_turn(self, tids: Iterable[int]) -> tuple[list[Glance], list[int]]:
        """The long waits, in the order in which they may be read, and who else there is."""
        long: list[Glance] = []
        others: list[int] = []
        for tid in tids:
            thread = self._look(tid)
            if thread is None:
                continue
            if not self._wanted(thread):
                others += [tid] if thread.state <= Wait.RUNQUEUE else []
            elif self._turns.long(thread):
                long.append(thread)
            else:
                others.append(tid)
        return sorted(long, key=self._turns.order), others

    def _tried(self, tid: int) -> list[Read]:
        """What is read of a thread as it is by now, which may be nothing."""
        thread = self._caught(tid)
        if thread is None or not self._turns.may(thread):
            return []
        long = self._turns.long(thread)
        for _ in range(1 if long else SHORT_TRIES):
            read = self._charged(thread, long)
            if read or self._turns.dear:
                return read
        return []

    def _again(self, thread: Glance) -> bool:
        """Whether a thread is, or soon is, in a wait of the same kind again."""
        for _ in range(LOOKS_AFTER):
            after = self._look(thread.tid)
            if after is not None and after.wait == thread.wait:
                return True
        return False

    def _wanted(self, thread: Glance) -> bool:
        return (
            (thread.state > Wait.RUNQUEUE or thread.tid in self.running)
            and not thread.end_ns
            and thread.pid in self._readers
            and (
                self._done.get(thread.tid) != thread.last_ns
                or thread.state == Wait.RUNNING
                or self._due_again(thread)
                or (self._late.get(thread.tid) == thread.last_ns and not self._loops.paused(thread.pid))
            )
        )

    def _due_again(self, thread: Glance) -> bool:
        since_ns, due_ns = self._failed.get(thread.tid, (-1, 0))
        return since_ns == thread.last_ns and due_ns <= self._turns.now_ns

    def _charged(self, thread: Glance, long: bool) -> list[Read]:
        """Read, and count what that takes."""
        began = self._cpu_ns()
        try:
            if (whose := self._whose.get(thread.pid)) is not None:
                self._guard.begin(whose)
            return self._read(thread, long)
        except Exception as error:
            self._broken(thread.pid, error)
            return []
        finally:
            self._turns.charge(self._cpu_ns() - began)

    def _read(self, thread: Glance, long: bool) -> list[Read]:
        if long:  # what is short as yet may last, and then be worth more than a look
            self._done[thread.tid] = thread.last_ns
        self._latest.pop(thread.tid)
        self._latest_loops.pop(thread.tid)
        self._late.pop(thread.tid, None)
        self._failed.pop(thread.tid, None)
        reader = self._readers.get(thread.pid)
        if reader is None:  # it ended at the try before this one
            return []
        self.reads += 1
        reading = Reading((), None)
        try:
            frames = reader.read(thread.tid).frames
            loop = loop_of(frames, thread.state)
            if loop == "waiting":
                frames, loop, reading = self._awaited(reader, frames, thread if long else None)
        except StackError as error:
            self._turns.tried(thread, settled=error.reason == "no_thread")
            self._unreadable(thread, error.reason, long)
            return []
        if long:
            after = self._look(thread.tid)
            if after is None or after.last_ns != thread.last_ns or after.state != thread.state:
                # It ran meanwhile: the stack may be of two moments. If it was woken before, that is no loss.
                self.dropped += thread.wake_ns < thread.last_ns
                self._turns.tried(thread, settled=False)
                if reading.fact is not None:
                    self._loops.failed(thread.pid)
                return []
            if reading.fact is not None:
                self._loops.settled(thread.pid)
                self._latest_loops.put(reading.fact)
            if reading.late:
                self._late[thread.tid] = thread.last_ns
        elif not self._again(thread):
            self._turns.tried(thread, settled=False)
            return []
        self._turns.tried(thread, settled=not reading.late)
        site = site_of(frames)
        if site is None:
            return []
        wait, peer = wait_and_peer(thread)
        name = self._name(reader, thread.tid)
        sample = StackSample(thread.pid, thread.tid, thread.last_ns, site, loop, wait, peer, name)
        self._latest.put(sample)
        return [sample] if reading.fact is None else [sample, reading.fact]

    def _broken(self, pid: int, error: Exception) -> None:
        """What its memory made a reader raise concerns one process alone: it is not read any more.

        Not before it executes another program. Nothing that it holds is logged.
        """
        *_, (frame, line) = walk_tb(error.__traceback__)
        what = f"{type(error).__name__} at {Path(frame.f_code.co_filename).name}:{line}"
        log.warning("process %d: no stacks, reading it failed: %s", pid, what)
        self.forget(pid)

    def _name(self, reader: StackReader, tid: int) -> str:
        """What Python calls a thread, ``""`` where that is not known."""
        try:
            return reader.name(tid)
        except StackError:
            return ""

    def _unreadable(self, thread: Glance, reason: str, long: bool) -> None:
        if reason == "gone":
            self.forget(thread.pid)
        elif reason != "no_thread" and long:
            self.dropped += 1
            self._failed[thread.tid] = thread.last_ns, 2 * self._turns.now_ns - thread.last_ns

    def _awaited(
        self, reader: StackReader, frames: Frames, thread: Glance | None
    ) -> tuple[Frames, str, Reading]:
        """In place of a selector's frames those of the tasks that it waits for, if they can be told.

        ``thread`` is given if it sleeps for long enough to look at what each task waits for.
        """
        reading = self._loops.read(reader, thread)
        found = awaited(reading.tasks)
        if found is None:
            return frames, "waiting", reading
        return found.frames, "awaiting" if found.alone else "waiting", reading

    def _opened(self, pid: int) -> bool:
        """True when there is nothing more to look for."""
        try:
            return self._open(pid)
        except Exception as error:
            self._broken(pid, error)
            return True

    def _open(self, pid: int) -> bool:
        if len(self._readers) >= MAX_READERS:
            return True
        whose = self._guard.admit(pid)
        if whose is None:
            return True
        self._guard.begin(whose)
        try:
            reader = StackReader(pid)
        except StackError as error:
            if error.reason == "unsupported":
                log.info("process %d: no stacks: %s", pid, error)
            return error.reason in ("gone", "unsupported")
        self._readers[pid], self._whose[pid] = reader, whose
        python = reader.python
        size = RUNTIME_BYTES.get(python.version[1], _NEWER_RUNTIME_BYTES)
        self._on_gil(pid, python.runtime, python.runtime + size)
        return True
