"""Who gets what is found: findings, stalls, and the events of processes and threads."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from whyidle_daemon.access import Scope
from whyidle_daemon.clients import Client
from whyidle_daemon.kernel import DEFAULT_SLICE_NS
from whyidle_daemon.proc import Proc
from whyidle_daemon.redaction import redacted_finding
from whyidle_daemon.report import exit_status
from whyidle_daemon.sessions import Session, Sessions
from whyidle_daemon.states import peer_object, state_of
from whyidle_daemon.target import NS
from whyidle_probes.events import NO_PEER, NO_SYSCALL, Event, Exec, Exit, Fork, Slice, Wait
from whyidle_probes.syscalls import syscall_name
from whyidle_wire.records import FindingEvent, ProcessEvent, SliceEvent, StallEvent, Subscribe

GROWTH = 1.25


class Watch:
    """A subscription, and what its client may see."""

    def __init__(self, client: Client, request: Subscribe) -> None:
        self.client = client
        self.request = request
        self.stalls: WeakKeyDictionary[Session, set[int]] = WeakKeyDictionary()  # open, and told: threads

    def wants(self, session: Session, pid: int, kind: str | None = None) -> bool:
        """Whether something of a process, a finding of ``kind`` perhaps, is to be sent."""
        if self.request.pid not in (None, pid) or (
            kind and self.request.kinds and kind not in self.request.kinds
        ):
            return False
        return self.client.scope is Scope.ALL or session.target.owned_by(pid, self.client.peer.uid)

    def wants_stall(self, session: Session, event: StallEvent) -> bool:
        """Whether a wait that lasts is to be sent."""
        return not self.request.kinds and self.wants(session, event.pid)

    def sees_some(self, session: Session) -> bool:
        """Whether there may be something in this observation that the client may see."""
        return self.client.scope is Scope.ALL or session.target.partly_owned_by(self.client.peer.uid)

    def sees_all(self, session: Session) -> bool:
        """Whether nothing of this observation is to be kept from the client."""
        return self.client.scope is Scope.ALL or session.target.wholly_owned_by(self.client.peer.uid)


class Subscribers:
    """The subscription of each client that has one."""

    def __init__(self, sessions: Sessions, proc: Proc, stall_s: float) -> None:
        self._sessions = sessions
        self._proc = proc
        self._stall_ns = int(stall_s * NS)
        self._watches: dict[Client, Watch] = {}

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, client: Client, request: Subscribe) -> None:
        """Subscribe a client; a second subscription replaces its first, and repeats nothing.

        It is told of the waits that last already.
        """
        if not self._watches:  # nobody has looked for a while
            for session in self._sessions:
                self.publish_stalls(session)
        watch = self._watches.setdefault(client, Watch(client, request))
        watch.request = request
        for session in self._sessions:
            self._tell_stalls(watch, session, session.stalls)
        self.listen()

    def set_stall(self, stall_s: float) -> None:
        """How long a wait must last to be reported while it lasts."""
        self._stall_ns = int(stall_s * NS)

    def remove(self, client: Client) -> None:
        if self._watches.pop(client, None) is not None:
            self.listen()

    def started(self, session: Session) -> None:
        """A new observation: whoever wants events wants its events too."""
        self._listen(session)

    def listen(self) -> None:
        """Look again who wants events of what: what a client may see has changed, or what it wants."""
        for session in self._sessions:
            self._listen(session)

    def publish(self, session: Session, findings: list[dict[str, Any]]) -> None:
        """Send the findings that are new, that cost a quarter more than before, or whose wait has ended."""
        for finding in findings:
            key = (
                finding["kind"],
                finding["pid"],
                finding["tid"],
                str(finding["peer"]),
                finding.get("engine"),
            )
            size = int(math.log(max(finding["blocked_s"], 0.001), GROWTH))
            numbers = (finding["count"], size, finding["severity"], finding.get("open_s") is not None)
            for client, watch in self._watches.items():
                sent = session.sent.setdefault(watch, {})
                if sent.get(key) != numbers and watch.wants(session, finding["pid"], finding["kind"]):
                    sent[key] = numbers
                    seen = finding if watch.sees_all(session) else redacted_finding(finding)
                    client.stream(FindingEvent(session.target.number, seen))

    def publish_stalls(self, session: Session) -> None:
        """Send the waits that crossed the threshold, and the ends of those that did before."""
        for event in session.target.stalls(self._stall_ns):
            if not event.ended:
                session.stalls[event.tid] = (event, time.monotonic())
                for watch in self._watches.values():
                    self._tell_stalls(watch, session, (event.tid,))
                continue
            session.stalls.pop(event.tid, None)
            for client, watch in self._watches.items():
                told = watch.stalls.get(session, set())
                if event.tid in told:
                    told.discard(event.tid)
                    if watch.wants_stall(session, event):
                        client.stream(event)

    def _tell_stalls(self, watch: Watch, session: Session, threads: Iterable[int]) -> None:
        """Of the open stalls of these threads those that the client may see and was not told of."""
        told = watch.stalls.setdefault(session, set())
        for tid in threads:
            event, since_s = session.stalls[tid]
            if tid not in told and watch.wants_stall(session, event):
                told.add(tid)
                lasted_s = event.duration_s + time.monotonic() - since_s
                watch.client.stream(replace(event, duration_s=lasted_s))

    def _listen(self, session: Session) -> None:
        """Be told of waits, which are many, only where somebody may see some; of processes everywhere."""
        watchers = [watch for watch in self._watches.values() if watch.request.events]
        seen = any(watch.sees_some(session) for watch in watchers)
        target = session.target
        target.listeners = [partial(self._on_process, session)] if watchers else []
        target.wait_listeners = [partial(self._on_event, session)] if seen else []

    def _on_process(self, session: Session, event: Event) -> None:
        if not session.target.wait_listeners and not isinstance(event, Exit):  # it may be somebody's now
            self._listen(session)
        self._on_event(session, event)

    def _on_event(self, session: Session, event: Event) -> None:
        if not isinstance(event, Slice | Fork | Exec | Exit):
            return
        wanted = [
            client
            for client, watch in self._watches.items()
            if watch.request.events and watch.wants(session, event.pid)
        ]
        if not wanted:  # what follows reads /proc, and most of it may be of others
            return
        record = self._event_record(session, event)
        for client in wanted:
            client.stream(record)

    def _event_record(self, session: Session, event: Slice | Fork | Exec | Exit) -> SliceEvent | ProcessEvent:
        number = session.target.number
        if isinstance(event, Slice):
            if event.blocked_ns < DEFAULT_SLICE_NS <= event.runqueue_ns:  # it hardly slept, or not at all
                event = event._replace(blocked_ns=0, state=Wait.RUNQUEUE, syscall=NO_SYSCALL, peer=NO_PEER)
            state = state_of(event.state, event.syscall, event.peer)
            start = (event.start_ns - session.target.start_ns) / NS
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
        status = exit_status(event.code)
        return ProcessEvent(number, "exited", event.pid, 0, (event.comm,), status)
