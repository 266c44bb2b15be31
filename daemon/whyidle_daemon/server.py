"""What clients may ask, and the loop that keeps observations going.

The loop wakes ten times a second while something is observed, at once for what the kernel marks urgent
(an engine library being mapped), and never when nothing is observed.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from whyidle_daemon.clients import Client
from whyidle_daemon.kernel import DEFAULT_GAP_NS, DEFAULT_SLICE_NS
from whyidle_daemon.proc import Proc
from whyidle_daemon.recording.errors import CannotRecord
from whyidle_daemon.recording.output import Output
from whyidle_daemon.states import peer_object, state_of
from whyidle_daemon.targets import NS, Target, TargetGoneError, Targets, host
from whyidle_probes.events import Event, Exec, Exit, Fork, Slice, Stat
from whyidle_probes.syscalls import syscall_name
from whyidle_wire.records import (
    PROTOCOL,
    Ended,
    FailureCode,
    FindingEvent,
    Finish,
    Hello,
    Observe,
    Observing,
    ProcessEvent,
    Progress,
    Record,
    Report,
    SliceEvent,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
    Welcome,
)

log = logging.getLogger(__name__)

VERSION = "0.1.0"
TICK_S = 0.1
STACKS_EVERY_S = 0.05
LIBRARY_RETRY_S = 0.002
TURN = 2000
BUSY_EVENTS, CALM_EVENTS, CALM_TICKS = 5000, 500, 20
MAX_SLICE_NS = 64_000_000
FINDINGS_EVERY_S = 2.0
MEMORY_EVERY_S = 1.0
MAX_CLIENTS = 64
DEFAULT_STALL_S = 1.0
MAX_TARGETS = 64
MIN_PROGRESS_S = 0.05


class Watch:
    """A subscription."""

    def __init__(self, request: Subscribe) -> None:
        self.request = request

    def wants(self, kind: str, pid: int) -> bool:
        kinds = self.request.kinds
        return (not kinds or kind in kinds) and self.request.pid in (None, pid)


class Session:
    """An observation that a client asked for."""

    def __init__(self, client: Client, target: Target, progress_s: float) -> None:
        self.client = client
        self.target = target
        self.progress_s = max(progress_s, MIN_PROGRESS_S) if progress_s > 0 else 0.0
        self.next_progress = 0.0
        self.ended = False
        self.sent: dict[tuple[Any, ...], tuple[Any, ...]] = {}


class Server:
    """Serves any number of clients over one set of probes."""

    def __init__(
        self,
        targets: Targets,
        proc: Proc,
        on_idle: Callable[[], None] | None = None,
        stall_s: float = DEFAULT_STALL_S,
    ) -> None:
        self._stall_ns = int(stall_s * NS)
        self._targets = targets
        self._proc = proc
        self._on_idle = on_idle
        self._clients: set[Client] = set()
        self._sessions: dict[int, Session] = {}
        self._watches: dict[Client, Watch] = {}
        self._slice_ns = DEFAULT_SLICE_NS
        self._handled = 0
        self._lost = 0
        self._calm_ticks = 0
        self._tick: asyncio.TimerHandle | None = None
        self._stacks: asyncio.TimerHandle | None = None
        self._next_memory = 0.0
        self._next_findings = 0.0

    def start(self) -> None:
        """Listen for the kernel's wake-ups."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._targets.kernel.control.fileno(), self._on_wakeup)
        loop.add_reader(self._targets.kernel.events.fileno(), self._consume)

    def connection(self) -> Client:
        """A protocol for a new connection."""
        return Client(self._on_open, self._on_record, self._on_close)

    def close(self) -> None:
        """Stop everything; clients see the connection close."""
        for ring in (self._targets.kernel.control, self._targets.kernel.events):
            asyncio.get_running_loop().remove_reader(ring.fileno())
        for timer in (self._tick, self._stacks):
            if timer is not None:
                timer.cancel()
        for number in list(self._sessions):  # while the kernel side is still there to be told
            self._stop(number)
        for client in list(self._clients):
            client.close()

    # --- clients ---------------------------------------------------------------------------------------

    def _on_open(self, client: Client) -> None:
        self._clients.add(client)
        if len(self._clients) > MAX_CLIENTS:
            client.fail(
                0, FailureCode.LIMIT, f"{MAX_CLIENTS} clients are connected already", "close one first"
            )
            client.close()

    def _on_close(self, client: Client) -> None:
        self._clients.discard(client)
        self._watches.pop(client, None)
        for number, session in list(self._sessions.items()):
            if session.client is client:
                self._stop(number)
        if not self._clients and self._on_idle is not None:
            self._on_idle()

    def _on_record(self, client: Client, record: Record) -> None:
        try:
            self._dispatch(client, record)
        except Exception:  # a mistake of ours in one observation must not cost the others theirs
            log.exception("request %s failed", type(record).__name__)
            message = "the daemon made a mistake in this request, which is in its log"
            client.fail(getattr(record, "request", 0), FailureCode.INTERNAL, message, "report it, please")

    def _dispatch(self, client: Client, record: Record) -> None:
        if not client.greeted:
            self._greet(client, record)
        elif isinstance(record, Observe):
            self._observe(client, record)
        elif isinstance(record, Finish):
            self._finish(client, record)
        elif isinstance(record, Subscribe):
            self._watches[client] = Watch(record)
            client.answer(Subscribed(record.request))
            if record.events:
                for session in self._sessions.values():
                    self._listen(session)
        elif isinstance(record, Status):
            client.answer(StatusReply(record.request, self._status()))
        else:
            name = type(record).__name__
            client.fail(0, FailureCode.BAD_REQUEST, f"a client may not send {name}", "see whyidle schema")

    def _greet(self, client: Client, record: Record) -> None:
        if not isinstance(record, Hello):
            client.fail(0, FailureCode.PROTOCOL, "the first record must be Hello", "see whyidle schema")
            client.close()
        elif record.protocol != PROTOCOL:
            client.fail(
                0,
                FailureCode.PROTOCOL,
                f"this daemon speaks protocol {PROTOCOL}, the client {record.protocol}",
                "install the same version of whyidle on both ends, and restart the daemon",
            )
            client.close()
        else:
            client.greeted = True
            client.name = record.client[:64]
            client.answer(Welcome(PROTOCOL, VERSION, os.getpid(), _host_json()))

    # --- observations ----------------------------------------------------------------------------------

    def _observe(self, client: Client, request: Observe) -> None:
        roots = (request.pid, *request.pids)
        refusal = self._refuse(roots)
        if refusal:
            client.fail(request.request, *refusal)
            return
        try:
            output = Output(request.record_path, client.owner) if request.record_path is not None else None
        except CannotRecord as error:
            code = FailureCode.PERMISSION if error.denied else FailureCode.BAD_REQUEST
            client.fail(request.request, code, str(error), error.hint)
            return
        try:
            target, processes, threads = self._targets.start(roots, request.command, output)
        except TargetGoneError:
            client.fail(
                request.request,
                FailureCode.NO_PROCESS,
                f"process {request.pid} ended before it could be observed",
                "check the PID with ps, or start the program with whyidle run -- CMD",
            )
            return
        except OSError as error:
            client.fail(
                request.request,
                FailureCode.INTERNAL,
                f"the kernel refused to track process {request.pid}: {error.strerror}",
                "end other observations, or raise the limits of the daemon",
            )
            return
        session = Session(client, target, request.progress_interval_s)
        self._sessions[target.number] = session
        if any(watch.request.events for watch in self._watches.values()):
            self._listen(session)
        client.answer(Observing(request.request, target.number, target.started_at, processes, threads))
        self._schedule()

    def _refuse(self, roots: tuple[int, ...]) -> tuple[str, str, str] | None:
        if len(self._sessions) >= MAX_TARGETS:
            return FailureCode.LIMIT, f"{MAX_TARGETS} observations are running already", "end one first"
        for pid in roots:
            if pid <= 0 or not self._proc.exists(pid) or self._proc.state(pid) in ("Z", "X"):
                return FailureCode.NO_PROCESS, f"there is no process {pid}", "check the PID with ps"
            if self._proc.is_kernel_thread(pid):
                message = f"process {pid} is a kernel thread, which has no program to observe"
                return FailureCode.KERNEL_THREAD, message, "give the PID of a program"
            group = self._proc.thread_group(pid)
            if group is not None and group != pid:
                message = f"{pid} is a thread of process {group}"
                return FailureCode.NO_PROCESS, message, f"give the process: whyidle attach {group}"
            if pid == os.getpid():
                message = f"process {pid} is this daemon"
                return FailureCode.BAD_REQUEST, message, "give the PID of a program"
        return None

    def _finish(self, client: Client, request: Finish) -> None:
        session = self._sessions.get(request.observation)
        if session is None or session.client is not client:
            message = f"there is no observation {request.observation} on this connection"
            client.fail(0, FailureCode.BAD_REQUEST, message, "send Observe first")
            return
        self._targets.drain_waits()
        report = session.target.finish(request.exit_status)
        client.answer(Report(request.observation, report))
        self._publish(session, report["findings"])
        self._stop(request.observation)

    def _stop(self, number: int) -> None:
        session = self._sessions.pop(number, None)
        if session is not None:
            self._targets.stop(session.target)

    # --- the loop --------------------------------------------------------------------------------------

    def _on_wakeup(self) -> None:
        self._consume()
        waiting = [target.retry_libraries() for target in self._targets]
        if any(waiting):
            asyncio.get_running_loop().call_later(LIBRARY_RETRY_S, self._on_wakeup)

    def _consume(self) -> None:
        handled = self._targets.kernel.consume(TURN)
        self._handled += handled
        if handled >= TURN:  # a storm: let clients have their turn, then go on
            asyncio.get_running_loop().call_soon(self._consume)

    def _schedule(self) -> None:
        if self._tick is None and self._sessions:
            self._tick = asyncio.get_running_loop().call_later(TICK_S, self._on_tick)
        if self._stacks is None and self._sessions:
            self._stacks = asyncio.get_running_loop().call_later(STACKS_EVERY_S, self._on_stacks)

    def _on_stacks(self) -> None:
        self._stacks = None
        self._schedule()
        for session in list(self._sessions.values()):
            session.target.sample_stacks()

    def _on_tick(self) -> None:
        self._tick = None
        self._schedule()
        self._on_wakeup()
        self._adapt()
        now = asyncio.get_running_loop().time()
        memory = now >= self._next_memory
        if memory:
            self._next_memory = now + MEMORY_EVERY_S
            self._targets.drain_waits()
        findings = bool(self._watches) and now >= self._next_findings
        if findings:
            self._next_findings = now + FINDINGS_EVERY_S
        for session in list(self._sessions.values()):
            if memory:
                session.target.sample_memory()
                session.target.flush_recording()
            if session.progress_s and now >= session.next_progress:
                session.next_progress = now + session.progress_s
                self._send_progress(session)
            if self._watches:
                self._publish_stalls(session)
            if findings:
                self._publish(session, session.target.report()["findings"])
            if not session.ended and session.target.over:
                session.ended = True
                session.client.answer(Ended(session.target.number))

    def _adapt(self) -> None:
        """Under a storm only longer intervals become events; the shorter ones are still in the totals."""
        lost = self._targets.kernel.stat(Stat.SLICES_LOST)
        wanted = self._slice_ns
        if lost != self._lost or self._handled > BUSY_EVENTS:
            wanted = min(wanted * 4, MAX_SLICE_NS)
            self._calm_ticks = 0
        elif self._handled < CALM_EVENTS:
            self._calm_ticks += 1
            if self._calm_ticks >= CALM_TICKS:  # slowly: a storm that only became invisible would come back
                wanted, self._calm_ticks = max(wanted // 2, DEFAULT_SLICE_NS), 0
        self._handled, self._lost = 0, lost
        if wanted != self._slice_ns:
            self._slice_ns = wanted
            self._targets.kernel.configure(wanted, max(wanted, DEFAULT_GAP_NS))

    def _send_progress(self, session: Session) -> None:
        p = session.target.progress()
        lost = session.target.loss().events_lost
        number = session.target.number
        session.client.stream(
            Progress(number, p.elapsed_s, p.engine_busy_share, p.wait, p.processes, p.threads, lost)
        )

    # --- subscribers -----------------------------------------------------------------------------------

    def _publish(self, session: Session, findings: list[dict[str, Any]]) -> None:
        for finding in findings:
            key = (finding["kind"], finding["pid"], finding["tid"], str(finding["peer"]))
            numbers = (finding["count"], round(finding["blocked_s"], 1), finding["severity"])
            if session.sent.get(key) == numbers:
                continue
            session.sent[key] = numbers
            for client, watch in self._watches.items():
                if watch.wants(finding["kind"], finding["pid"]):
                    client.stream(FindingEvent(session.target.number, finding))

    def _publish_stalls(self, session: Session) -> None:
        for event in session.target.stalls(self._stall_ns):
            for client, watch in self._watches.items():
                if watch.request.pid in (None, event.pid) and not watch.request.kinds:
                    client.stream(event)

    def _listen(self, session: Session) -> None:
        if not session.target.listeners:
            session.target.listeners.append(lambda event: self._on_event(session, event))

    def _on_event(self, session: Session, event: Event) -> None:
        watchers = [client for client, watch in self._watches.items() if watch.request.events]
        if not watchers:
            session.target.listeners.clear()
            return
        record = self._event_record(session, event)
        if record is None:
            return
        for client in watchers:
            if self._watches[client].request.pid in (None, record.pid):
                client.stream(record)

    def _event_record(self, session: Session, event: Event) -> SliceEvent | ProcessEvent | None:
        number = session.target.number
        if isinstance(event, Slice):
            state = state_of(event.state, event.syscall, event.peer)
            start = (event.start_ns - session.target.observation.start_ns) / NS
            name = self._proc.thread_name(event.pid, event.tid)
            duration = (event.blocked_ns or event.runqueue_ns) / NS
            call = syscall_name(event.syscall) or ""
            peer: Any = peer_object(event.peer.family, event.peer.remote, event.peer.remote_port)
            return SliceEvent(number, event.pid, event.tid, name, state, start, duration, call, peer)
        if isinstance(event, Fork):
            return ProcessEvent(number, "started", event.pid, event.parent, self._proc.command(event.pid))
        if isinstance(event, Exec):
            command = self._proc.command(event.pid) or (event.path,)
            return ProcessEvent(number, "exec", event.pid, self._proc.parent(event.pid) or 0, command)
        if isinstance(event, Exit):
            status = os.waitstatus_to_exitcode(event.code)
            return ProcessEvent(number, "exited", event.pid, 0, (event.comm,), status)
        return None

    def _status(self) -> dict[str, Any]:
        kernel = self._targets.kernel
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "observations": len(self._sessions),
            "clients": len(self._clients),
            "client_queues_bytes": sum(client.queued_bytes for client in self._clients),
            "records_dropped": sum(client.dropped_total for client in self._clients),
            "slice_threshold_s": self._slice_ns / NS,
            "missing": list(kernel.missing),
            "engine_libraries": [entry.path for entry in self._targets.libraries.attached],
            "counters": {which.name.lower(): value for which, value in kernel.stats().items()},
        }


def _host_json() -> dict[str, Any]:
    here = host()
    return {"kernel": here.kernel, "cpus": here.cpus, "gpus": list(here.gpus)}
