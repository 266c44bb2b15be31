"""Observations on a client's request: what is refused and why, what is begun, and the report at the end."""

from __future__ import annotations

import os

from whyidle_daemon.access import Access, Scope
from whyidle_daemon.clients import Client
from whyidle_daemon.discovery.watcher import Discovery
from whyidle_daemon.history.keeper import Keeper
from whyidle_daemon.proc import Proc
from whyidle_daemon.recording.errors import CannotRecord
from whyidle_daemon.recording.output import Output
from whyidle_daemon.redaction import redacted
from whyidle_daemon.sessions import Session, Sessions
from whyidle_daemon.target import Target, TargetGoneError
from whyidle_daemon.targets import Targets
from whyidle_wire.records import FailureCode, Finish, Observe, Observing, Report

MAX_TARGETS = 64
MAX_UNPRIVILEGED = 48  # of them; the rest is root's
MAX_ROOTS = 64

Refusal = tuple[str, str, str]
"""Code, message, hint."""


class Requests:
    """Begins and ends what clients ask for."""

    def __init__(
        self,
        targets: Targets,
        sessions: Sessions,
        proc: Proc,
        access: Access,
        discovery: Discovery | None,
        *,
        keeper: Keeper | None = None,
    ) -> None:
        self._targets, self._sessions, self._proc = targets, sessions, proc
        self.access = access
        self._discovery = discovery
        self._keeper = keeper

    def observe(self, client: Client, request: Observe) -> Session | None:
        """Begin to observe, or say why not. A process that discovery observes is handed over."""
        roots = tuple(dict.fromkeys((request.pid, *request.pids)))
        if len(roots) > MAX_ROOTS:
            message = f"{len(roots)} processes in one observation, and {MAX_ROOTS} are the most"
            client.fail(
                request.request, FailureCode.LIMIT, message, "give their parent, whose tree is observed"
            )
            return None
        if not self._proc.initial_namespace():
            message = (
                "the daemon runs in a PID namespace, where processes have other numbers than in the kernel"
            )
            hint = "run it on the host, or its container in the host's PID namespace (docker run --pid=host)"
            client.fail(request.request, FailureCode.HOST, message, hint)
            return None
        refusal = self._refuse_process(roots) or self._refuse_client(client, request, roots)
        if refusal:
            client.fail(request.request, *refusal)
            return None
        try:
            output = Output(request.record_path, client.owner) if request.record_path is not None else None
        except CannotRecord as error:
            code = FailureCode.PERMISSION if error.denied else FailureCode.BAD_REQUEST
            client.fail(request.request, code, str(error), error.hint)
            return None
        handed_over = self._sessions.of(roots)
        for session in handed_over:
            self._sessions.stop(session)
        again = [pid for session in handed_over for pid in session.target.roots]
        started = self._start(client, request, roots, output)
        if started is None:
            self._look_again(again)
            return None
        target, processes, threads = started
        session = Session(
            client,
            target,
            request.progress_interval_s,
            on_end=lambda ended: self._look_again([*again, *ended.target.roots]),
        )
        self._sessions.add(session)
        client.answer(Observing(request.request, target.number, target.started_at, processes, threads))
        return session

    def finish(self, client: Client, request: Finish) -> Session | None:
        """End an observation with its report. The session is still there; the caller stops it."""
        session = self._sessions.get(request.observation)
        if session is None or session.client is not client:
            message = f"there is no observation {request.observation} on this connection"
            client.fail(0, FailureCode.BAD_REQUEST, message, "send Observe first")
            return None
        self._targets.drain_waits()
        report = session.target.finish(request.exit_status)
        session.findings = report["findings"]
        uid = client.peer.uid
        if client.scope is not Scope.ALL and not session.target.wholly_owned_by(uid):
            report = redacted(report, lambda pid: session.target.owned_by(pid, uid))
        client.answer(Report(request.observation, report))
        return session

    def _start(
        self, client: Client, request: Observe, roots: tuple[int, ...], output: Output | None
    ) -> tuple[Target, int, int] | None:
        try:
            history = self._keeper.part(roots[0], whole=True) if self._keeper is not None else None
            started = self._targets.start(roots, request.command, output, history)
        except TargetGoneError:
            client.fail(
                request.request,
                FailureCode.NO_PROCESS,
                f"process {request.pid} ended before it could be observed",
                "check the PID with ps, or start the program with whyidle run -- CMD",
            )
            return None
        except OSError as error:
            client.fail(
                request.request,
                FailureCode.INTERNAL,
                f"the kernel refused to track process {request.pid}: {error.strerror}",
                "end other observations, or raise the limits of the daemon",
            )
            return None
        # The PID may have been given to another process since it was looked at.
        refusal = self._refuse_owner(client, roots)
        if refusal:
            self._targets.stop(started[0])
            client.fail(request.request, *refusal)
            return None
        return started

    def _look_again(self, pids: list[int]) -> None:
        if self._discovery is not None:
            self._discovery.look_at(pids)

    def _refuse_process(self, roots: tuple[int, ...]) -> Refusal | None:
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

    def _refuse_client(self, client: Client, request: Observe, roots: tuple[int, ...]) -> Refusal | None:
        refusal = self._refuse_owner(client, roots)
        if refusal:
            return refusal
        if client.scope is not Scope.ALL and request.record_path is not None:
            message = "only root and the daemon's group may record"
            return FailureCode.PERMISSION, message, f"join the group {self.access.config.group}"
        asked = [session for session in self._sessions if session.client is not None]
        theirs = sum(s.client is not None and s.client.user == client.user for s in asked)
        if theirs >= self.access.config.observations_per_user:
            message = f"{theirs} observations of this user are running already"
            return FailureCode.LIMIT, message, "end one first"
        if len(asked) >= (MAX_TARGETS if client.scope is Scope.ALL else MAX_UNPRIVILEGED):
            message = f"{len(asked)} observations are running already"
            return FailureCode.LIMIT, message, "wait until one ends"
        for session in self._sessions.of(roots):
            if session.client is not None:
                message = f"process {session.target.roots[0]} is being observed for another client"
                return FailureCode.LIMIT, message, "wait until it is done; whyidle ps shows it"
            uid, target = client.peer.uid, session.target  # not who they are now: roots may have ended
            if client.scope is not Scope.ALL and not (target.rooted_in(uid) or target.wholly_owned_by(uid)):
                message = "this process is observed as part of a tree of another user"
                return FailureCode.PERMISSION, message, "ask root to attach to it"
        return None

    def _refuse_owner(self, client: Client, roots: tuple[int, ...]) -> Refusal | None:
        if client.scope is Scope.ALL:
            return None
        for pid in roots:
            if client.scope is Scope.NONE or self.access.owner(pid) != client.peer.uid:
                message = f"process {pid} is not yours to observe"
                hint = f"give a process of your own, or join the group {self.access.config.group}"
                return FailureCode.PERMISSION, message, hint
        return None
