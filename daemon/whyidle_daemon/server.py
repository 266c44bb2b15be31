"""What clients may ask, and the answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from whyidle_daemon.access import Access, Scope
from whyidle_daemon.admission import Admission
from whyidle_daemon.clients import Client
from whyidle_daemon.config import Config, Metrics
from whyidle_daemon.discovery.watcher import Discovery
from whyidle_daemon.exporting import Exporting
from whyidle_daemon.gpus.devices import gpu_object
from whyidle_daemon.history.keeper import Keeper
from whyidle_daemon.listing import target_object
from whyidle_daemon.proc import Proc
from whyidle_daemon.pulse import Pulse
from whyidle_daemon.requests import Requests
from whyidle_daemon.sessions import Session, Sessions
from whyidle_daemon.subscribers import Subscribers
from whyidle_daemon.target import NS, host
from whyidle_daemon.targets import Targets
from whyidle_daemon.version import VERSION
from whyidle_wire.kinds import KIND_OF
from whyidle_wire.records import (
    PROTOCOL,
    FailureCode,
    Finish,
    Hello,
    ListTargets,
    Observe,
    Record,
    Status,
    StatusReply,
    Subscribe,
    Subscribed,
    TargetList,
    Unknown,
    Welcome,
)

log = logging.getLogger(__name__)


class Server:
    """Serves any number of clients over one set of probes."""

    def __init__(
        self,
        targets: Targets,
        proc: Proc,
        config: Config | None = None,
        on_idle: Callable[[], None] | None = None,
        state: Path | None = None,
    ) -> None:
        """``on_idle`` makes it a private server: it discovers nothing, and ends with its only client.

        ``state`` is the directory of the history; ``None``: there is none.
        """
        config = config or Config()
        self._targets = targets
        self._proc = proc
        self._on_idle = on_idle
        self._sessions = Sessions(targets)
        self._subscribers = Subscribers(self._sessions, proc, config.daemon.stall_threshold_s)
        self._keeper = Keeper(state, config.history, self._sessions) if state is not None else None
        self._pulse = Pulse(targets, self._sessions, self._subscribers, self._keeper)
        self._discovery: Discovery | None = None
        if on_idle is None:
            self._discovery = Discovery(
                config.discovery, targets, self._sessions, proc, os.getpid(), keeper=self._keeper
            )
            self._discovery.on_start = self._started
        access = Access(config.access, proc)
        self._admission = Admission(access)
        self._requests = Requests(targets, self._sessions, proc, access, self._discovery, keeper=self._keeper)
        self._targets.know_owners = config.access.others != "none"
        self._exporting = Exporting(targets, self._sessions, self._discovery, lambda: len(self._admission))

    async def export(self, config: Metrics) -> None:
        """Serve metrics as configured, or no more. What cannot be listened on is logged, and tried again."""
        if self._on_idle is None:
            await self._exporting.configure(config)

    def start(self) -> None:
        """Listen for the kernel's wake-ups, and look for what there is to observe."""
        self._pulse.start()
        if self._keeper is not None:
            self._keeper.start()
        if self._discovery is not None:
            self._discovery.start()

    def reload(self, config: Config) -> None:
        """Use another configuration from now on; connected clients stay, under its rules."""
        access = self._requests.access = Access(config.access, self._proc)
        self._know_owners(config.access.others != "none")
        self._subscribers.set_stall(config.daemon.stall_threshold_s)
        for client in self._admission.reload(access):
            client.abort()
            self._forget(client)  # now, and not only when the transport says that it has ended
        self._subscribers.listen()
        if self._keeper is not None:
            self._keeper.configure(config.history)
        if self._discovery is not None:
            self._discovery.reload(config.discovery)

    def _know_owners(self, wanted: bool) -> None:
        """What was seen before nobody asked whose it was is of an observation that ends here."""
        before, self._targets.know_owners = self._targets.know_owners, wanted
        if wanted and not before:
            for session in self._sessions:
                if session.client is None and not session.ended:
                    history = self._keeper.next_part(session) if self._keeper is not None else None
                    session.target.know_owners()
                    self._sessions.renew(session, history)

    def connection(self) -> Client:
        """A protocol for a new connection."""
        return Client(self._on_open, self._on_record, self._on_close, self._admission.charge)

    def close(self) -> None:
        """Stop everything; clients see the connection close."""
        self._pulse.close()
        if self._discovery is not None:
            self._discovery.close()
        for session in self._sessions:  # while the kernel side is still there to be told
            self._sessions.stop(session)
        self._exporting.close()
        if self._keeper is not None:
            self._keeper.close()
        for client in self._admission.clients:
            client.close()

    # --- clients ---------------------------------------------------------------------------------------

    def _on_open(self, client: Client) -> None:
        self._admission.admit(client)

    def _on_close(self, client: Client) -> None:
        self._admission.leave(client)
        self._forget(client)
        if not len(self._admission) and self._on_idle is not None:
            self._on_idle()

    def _forget(self, client: Client) -> None:
        self._subscribers.remove(client)
        self._sessions.stop_all_of(client)

    def _on_record(self, client: Client, record: Record) -> None:
        if not self._admission.spend(client):
            return
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
            session = self._requests.observe(client, record)
            if session is not None:
                self._started(session)
        elif isinstance(record, Finish):
            session = self._requests.finish(client, record)
            if session is not None:
                self._subscribers.publish(session, session.findings)
                self._sessions.stop(session)
        elif isinstance(record, Subscribe):
            client.answer(Subscribed(record.request))
            self._subscribers.add(client, record)
            self._pulse.schedule()
        elif isinstance(record, Status):
            client.answer(StatusReply(record.request, self._status(client)))
        elif isinstance(record, ListTargets):
            client.answer(TargetList(record.request, self._listing(client)))
        else:
            kind = record.kind if isinstance(record, Unknown) else KIND_OF[type(record)]
            message = f"a client may not send records of kind {kind}"
            client.fail(0, FailureCode.BAD_REQUEST, message, "see whyidle schema")

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
            self._admission.greeted(client)
            client.name = record.client[:64]
            client.answer(Welcome(PROTOCOL, VERSION, os.getpid(), _host_json(self._targets)))

    def _listing(self, client: Client) -> tuple[dict[str, Any], ...]:
        rows = []
        for session in self._sessions:
            if client.scope is not Scope.ALL and not session.target.rooted_in(client.peer.uid):
                continue
            found = self._discovery.of(session) if self._discovery is not None else None
            row = target_object(session, found, self._proc)
            rows.append(row if client.scope is Scope.ALL else {**row, "wait": None})
        return tuple(rows)

    def _started(self, session: Session) -> None:
        self._subscribers.started(session)
        self._pulse.schedule()

    def _status(self, client: Client) -> dict[str, Any]:
        kernel = self._targets.kernel
        common = {"version": VERSION, "pid": os.getpid(), "missing": list(kernel.missing)}
        if client.scope is not Scope.ALL:  # the rest tells what others do
            return common
        return {
            **common,
            "observations": len(self._sessions),
            "clients": len(self._admission),
            "client_queues_bytes": sum(client.queued_bytes for client in self._admission.clients),
            "records_dropped": sum(client.dropped_total for client in self._admission.clients),
            "slice_threshold_s": self._pulse.slice_ns / NS,
            "engine_libraries": [entry.path for entry in self._targets.libraries.attached],
            "counters": {which.name.lower(): value for which, value in kernel.stats().items()},
        }


def _host_json(targets: Targets) -> dict[str, Any]:
    here = host()
    return {"kernel": here.kernel, "cpus": here.cpus, "gpus": [gpu_object(gpu) for gpu in targets.gpus.gpus]}
