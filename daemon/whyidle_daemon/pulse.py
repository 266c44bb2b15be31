"""The loop that keeps observations going.

It wakes twenty times a second while a client waits for an observation, four times a second while nothing in
it has code to read, or there are only the daemon's own and of these something new was read lately; twice a
second while there is nothing new to learn; at once for what the kernel marks urgent (an engine library being
mapped, a new program where there was nothing to read), and never when nothing is observed. A wake-up costs
more than most of what is done in it, so all is done in the same.
"""

from __future__ import annotations

import asyncio
import time

from whyidle_daemon import heap
from whyidle_daemon.access import Scope
from whyidle_daemon.history.keeper import Keeper
from whyidle_daemon.kernel import DEFAULT_GAP_NS, DEFAULT_SLICE_NS
from whyidle_daemon.sessions import Session, Sessions
from whyidle_daemon.subscribers import Subscribers
from whyidle_daemon.target import NS
from whyidle_daemon.targets import Targets
from whyidle_probes.events import Stat
from whyidle_wire.records import Progress

BEAT_S = 0.05
SLOW_BEAT_S = 0.25
CALM_BEAT_S = 0.5
TICK_S, SLOW_TICK_S = 0.1, 0.5  # at every beat stacks are read, at every tick the rest is done
LOOK_EVERY_S, SLOW_LOOK_EVERY_S = 0.25, 1.0
LIBRARY_RETRY_S = 0.002
TURN = 2000
BUSY_EVENTS, CALM_EVENTS, CALM_TICKS = 5000, 500, 20
MAX_SLICE_NS = 64_000_000
FINDINGS_EVERY_S = 0.25
FINDINGS_COST = 50  # a report takes longer the longer it has run: no more than 2 % of a core
MEMORY_EVERY_S, ALONE_MEMORY_EVERY_S = 0.25, 2.0
FLUSH_EVERY_S = 1.0
TRIM_EVERY_S = 60.0


class Pulse:
    """Reads the rings, samples what is observed, and sends what is due."""

    def __init__(
        self, targets: Targets, sessions: Sessions, subscribers: Subscribers, keeper: Keeper | None = None
    ) -> None:
        self._targets = targets
        self._sessions = sessions
        self._subscribers = subscribers
        self._keeper = keeper
        self.slice_ns = DEFAULT_SLICE_NS
        self._handled = 0
        self._lost = 0
        self._calm_ticks = 0.0
        self._attended = True
        self._beat_s = BEAT_S
        self._timer: asyncio.TimerHandle | None = None
        self._since_tick_s = 0.0
        self._next_memory = 0.0
        self._next_flush = 0.0
        self._next_trim = 0.0
        self._next_findings = 0.0

    def start(self) -> None:
        """Listen for the kernel's wake-ups."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._targets.kernel.control.fileno(), self._on_wakeup)
        loop.add_reader(self._targets.kernel.events.fileno(), self._consume)

    def close(self) -> None:
        """Stop reading and sampling."""
        for ring in (self._targets.kernel.control, self._targets.kernel.events):
            asyncio.get_running_loop().remove_reader(ring.fileno())
        if self._timer is not None:
            self._timer.cancel()

    def schedule(self) -> None:
        """Begin to beat, if there is something to beat for."""
        if not self._sessions:
            return
        self._attended = self._sessions.attended or bool(self._subscribers)
        beat_s = self._wanted_s()
        if self._timer is not None and beat_s < self._beat_s:
            self._timer.cancel()
            self._timer = None
        self._beat_s = beat_s
        self._targets.kernel.rest(self._attended and beat_s == SLOW_BEAT_S)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(beat_s, self._on_beat)

    def _wanted_s(self) -> float:
        """Seconds between beats, as things are."""
        if self._attended:
            return BEAT_S if self._eventful else SLOW_BEAT_S
        # Probes on launches may be dear until it is noticed how many there are.
        slow = self._targets.launch_kernels or any(session.target.learning for session in self._sessions)
        return SLOW_BEAT_S if slow else CALM_BEAT_S

    @property
    def _eventful(self) -> bool:
        """Whether there is code to be read in a wait, or a client that is told of waits while they last."""
        return (
            bool(self._subscribers)
            or self._targets.have_engines
            or any(session.target.has_work(SLOW_BEAT_S) for session in self._sessions)
        )

    def _on_wakeup(self) -> None:
        self._consume()
        if self._beat_s == (SLOW_BEAT_S if self._attended else CALM_BEAT_S):
            self.schedule()  # there may be a new program
        waiting = [target.retry_libraries() for target in self._targets]
        if any(waiting):
            asyncio.get_running_loop().call_later(LIBRARY_RETRY_S, self._on_wakeup)

    def _consume(self) -> None:
        handled = self._targets.kernel.consume(TURN)
        self._handled += handled
        if handled >= TURN:  # a storm: let clients have their turn, then go on
            asyncio.get_running_loop().call_soon(self._consume)

    def _on_beat(self) -> None:
        self._timer = None
        self.schedule()
        self._targets.limit_probes()
        look_every_s = LOOK_EVERY_S if self._beat_s == BEAT_S else SLOW_LOOK_EVERY_S
        for session in self._sessions:
            session.target.sample_stacks(look_every_s)
        self._since_tick_s += self._beat_s
        if self._since_tick_s >= self._tick_s:
            self._since_tick_s = 0.0
            self._tick()

    @property
    def _tick_s(self) -> float:
        return TICK_S if self._beat_s == BEAT_S else SLOW_TICK_S

    def _tick(self) -> None:
        self._on_wakeup()
        self._targets.gpus.drain()
        self._adapt()
        now = asyncio.get_running_loop().time()
        memory = now >= self._next_memory
        if memory:
            self._next_memory = now + (MEMORY_EVERY_S if self._attended else ALONE_MEMORY_EVERY_S)
        flush = now >= self._next_flush
        if flush:
            self._next_flush = now + FLUSH_EVERY_S
            self._targets.drain_waits()
            self._targets.gpus.look()
        self._trim(now)
        findings = bool(self._subscribers) and now >= self._next_findings
        spent_ns = 0
        alive = self._targets.kernel.alive()
        for session in self._sessions:
            if memory:
                session.target.sample_memory()
            if flush:
                session.target.flush_recording()
            if session.progress_s and now >= session.next_progress:
                session.next_progress = now + session.progress_s
                self._send_progress(session)
            if self._subscribers:
                self._subscribers.publish_stalls(session)
            if findings:
                began = time.thread_time_ns()  # not by the clock, which goes on when others run
                self._subscribers.publish(session, session.target.findings())
                spent_ns += time.thread_time_ns() - began
            if not session.ended and session.target.number not in alive:
                self._sessions.over(session)
        if self._keeper is not None:
            self._keeper.tick()
        if findings:
            self._next_findings = now + max(FINDINGS_EVERY_S, FINDINGS_COST * spent_ns / NS)

    def _trim(self, now: float) -> None:
        if now >= self._next_trim:
            self._next_trim = now + TRIM_EVERY_S
            heap.give_back()
            self._targets.prune()
        else:
            self._targets.go_on_pruning()

    def _adapt(self) -> None:
        """Under a storm only longer intervals become events; the shorter ones are still in the totals."""
        lost = self._targets.kernel.stat(Stat.SLICES_LOST)
        wanted = self.slice_ns
        ticks = self._tick_s / TICK_S
        if lost != self._lost or self._handled > BUSY_EVENTS * ticks:
            wanted = min(wanted * 4, MAX_SLICE_NS)
            self._calm_ticks = 0
        elif self._handled < CALM_EVENTS * ticks:
            self._calm_ticks += ticks
            if self._calm_ticks >= CALM_TICKS:  # slowly: a storm that only became invisible would come back
                wanted, self._calm_ticks = max(wanted // 2, DEFAULT_SLICE_NS), 0.0
        self._handled, self._lost = 0, lost
        if wanted != self.slice_ns:
            self.slice_ns = wanted
            self._targets.kernel.configure(wanted, max(wanted, DEFAULT_GAP_NS))

    def _send_progress(self, session: Session) -> None:
        client = session.client
        if client is None:
            return
        p = session.target.progress()
        lost = session.target.loss().events_lost
        number = session.target.number
        # It may be of a process of the tree that is not his.
        wait = p.wait if client.scope is Scope.ALL else None
        gpus = tuple(
            {"id": gpu.gpu, "busy_share": gpu.busy_share, "simulated": gpu.simulated} for gpu in p.gpus
        )
        sent = Progress(
            number, p.elapsed_s, p.engine_busy_share, wait, p.processes, p.threads, lost, gpus=gpus
        )
        client.stream(sent)
