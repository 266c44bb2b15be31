"""Looks at processes as they appear, and observes those that a rule names.

At the start, and after a new configuration, all of /proc is looked at once. From then on the kernel side
notices execs and the mapping of engine libraries and wakes us at most once per look, a second after the
first: by then the short-lived are gone. What does not match is looked at again a few times, later and later,
as a program may open its GPU long after it began; mapping an engine's library starts that anew.

A look costs about 0.1 ms, and some milliseconds if a process makes it hard. There are at most ``LOOKS`` or
``LOOKING_S`` in one turn and, but for what was there at the start, one turn per ``TURN_S``, so that a host
that starts thousands of processes per second costs a bounded share of one core; the queue is bounded too, and
when it overflowed /proc is looked through instead, in as many parts as it takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from whyidle_daemon.config import Discovery as DiscoveryConfig
from whyidle_daemon.discovery.candidate import Candidate, user_name
from whyidle_daemon.discovery.found import Found
from whyidle_daemon.discovery.mistakes import Mistakes
from whyidle_daemon.discovery.rules import Rules
from whyidle_daemon.history.heartbeat import blind_ns
from whyidle_daemon.history.keeper import Keeper
from whyidle_daemon.proc import Proc
from whyidle_daemon.sessions import Session, Sessions
from whyidle_daemon.subordinates import Subordinates
from whyidle_daemon.target import TargetGoneError
from whyidle_daemon.targets import Targets

log = logging.getLogger(__name__)

SETTLE_S: Final = 1.0
TURN_S: Final = 0.25
LOOKS: Final = 25
LOOKING_S: Final = 0.02
AGAIN_S: Final = (4.0, 15.0, 60.0)
MAX_QUEUE: Final = 4096
RESCAN_S: Final = 10.0
_BEGINNING: Final = (-1, -1)


class Discovery:
    """Keeps an observation of every process that the rules name, as long as it lives."""

    def __init__(
        self,
        config: DiscoveryConfig,
        targets: Targets,
        sessions: Sessions,
        proc: Proc,
        own_pid: int,
        *,
        keeper: Keeper | None = None,
    ) -> None:
        self._keeper = keeper
        self._early: set[int] = set()  # there when the daemon started, and not looked at yet
        self._targets, self._sessions, self._proc, self._own_pid = targets, sessions, proc, own_pid
        self._found: dict[int, tuple[Found, Session]] = {}  # by the observation's number
        self._queue: dict[int, tuple[float, int]] = {}  # PID -> when to look, how often it was looked at
        self._timer: asyncio.TimerHandle | None = None
        self._when = 0.0  # it is due
        self._missed = False  # something had no room in the queue: all of /proc is to be looked through
        self._up_to = _BEGINNING  # start and PID of the last process queued, while a part of /proc is left
        self._next_rescan = 0.0
        self._full = False
        self._mistakes = Mistakes()
        self._closed = self._started = False
        self._subordinates = Subordinates()
        self.on_start: Callable[[Session], None] = lambda session: None
        self._set(config)

    def _set(self, config: DiscoveryConfig) -> None:
        self._config, self._rules = config, Rules(config)

    def start(self) -> None:
        """Look at what runs, and from now on at what comes."""
        first, self._started = not self._started, True
        if not self._config.enabled:
            return
        if not self._proc.initial_namespace():
            log.warning("in a PID namespace of its own the daemon cannot discover anything")
            return
        self._targets.on_noticed = self._on_noticed
        self._targets.kernel.notice(True)
        self._up_to = _BEGINNING
        there = self._look_through()
        if first:
            self._early = there
        self._turn()

    def reload(self, config: DiscoveryConfig) -> None:
        """Use other rules from now on: what they no longer name is let go, what they name now is found."""
        before = self._rules
        self._set(config)
        for found, session in list(self._found.values()):
            if not config.enabled or not self._still_named(found, before):
                self._sessions.stop(session)
        if config.enabled:
            self.start()
        else:
            self._targets.kernel.notice(False)
            self._queue.clear()

    def _still_named(self, found: Found, before: Rules) -> bool:
        """Of one whose root is gone, and descendants live on: whether the rule that named it is as it was."""
        root = self._candidate(found.pid)
        if root.executable and self._proc.started(found.pid) == found.started:
            return self._rules.match(root) is not None
        rule = self._rules.named(found.rule)
        return rule is not None and rule == before.named(found.rule)

    def close(self) -> None:
        """Look no more."""
        self._closed = True
        self._targets.kernel.notice(False)
        if self._timer is not None:
            self._timer.cancel()

    @property
    def found(self) -> list[tuple[Found, Session]]:
        return list(self._found.values())

    def of(self, session: Session) -> Found | None:
        """How an observation came about; ``None`` for one that a client asked for."""
        entry = self._found.get(session.target.number)
        return entry[0] if entry is not None else None

    def look_at(self, pids: list[int]) -> None:
        """Look at these soon, as if they had just appeared: a client no longer observes them."""
        if self._config.enabled and not self._closed:
            for pid in pids:
                self._put(pid, 0.0, 0)
            self._schedule(0.0)

    # --- looking ---------------------------------------------------------------------------------------

    def _on_noticed(self) -> None:
        self._schedule(SETTLE_S)

    def _put(self, pid: int, due: float, looks: int) -> None:
        if len(self._queue) >= MAX_QUEUE:
            self._missed = True
            return
        self._queue[pid] = (due, looks)

    def _schedule(self, delay_s: float) -> None:
        if self._closed:
            return
        when = asyncio.get_running_loop().time() + delay_s
        if self._timer is not None:
            if self._when <= when:
                return
            self._timer.cancel()
        self._when = when  # uvloop's handle of what is due at once does not know it
        self._timer = asyncio.get_running_loop().call_at(when, self._turn)

    @property
    def _rescan(self) -> bool:
        return self._missed or self._up_to != _BEGINNING

    def _look_through(self) -> set[int]:
        """Queue all processes, the oldest first: a parent is then observed before its descendants.

        Where the queue is full it ends, and the next one goes on there. Returns those that run.
        """
        started = ((self._proc.program_started(pid), pid) for pid in self._proc.pids())
        processes = sorted((since, pid) for since, pid in started if since is not None)
        if self._up_to == _BEGINNING:
            self._missed = False
        for process in processes:
            pid = process[1]
            if process <= self._up_to or pid in self._queue:
                continue
            if len(self._queue) >= MAX_QUEUE:
                self._missed = self._missed or self._up_to == _BEGINNING
                break
            self._put(pid, 0.0, 0)
            self._up_to = process
        else:
            self._up_to = _BEGINNING
        return {pid for _, pid in processes}

    def _turn(self) -> None:
        if self._timer is not None:  # a reload looks at once: the turn that was due must not go on beside it
            self._timer.cancel()
        self._timer = None
        if self._closed or not self._config.enabled:
            return
        try:
            self._look_at_due()
            self._schedule_next()
        except Exception as error:  # what was noticed may be lost with it
            self._missed = True
            self._mistakes.say(error)
            self._schedule(TURN_S)

    def _look_at_due(self) -> None:
        now = asyncio.get_running_loop().time()
        for pid in self._targets.kernel.noticed():
            self._put(pid, now, 0)
        if self._rescan and now >= self._next_rescan and len(self._queue) < MAX_QUEUE // 2:
            self._next_rescan = now + RESCAN_S
            self._look_through()
        due = [pid for pid, (when, _) in self._queue.items() if when <= now]
        until = time.monotonic() + LOOKING_S
        for pid in due[:LOOKS]:
            _, looks = self._queue.pop(pid)
            try:
                again = self._look(pid)
            except Exception as error:  # a mistake with one process must not cost the others
                again = True
                self._mistakes.say(error)
            if again and looks < len(AGAIN_S):
                self._put(pid, now + AGAIN_S[looks], looks + 1)
            if time.monotonic() >= until:
                break

    def _schedule_next(self) -> None:
        now = asyncio.get_running_loop().time()
        due = [when for when, _ in self._queue.values() if when <= now]
        if due or self._rescan:
            self._schedule(0.0 if 0.0 in due else TURN_S)
        elif self._queue:
            self._schedule(max(TURN_S, min(when for when, _ in self._queue.values()) - now))

    def _candidate(self, pid: int) -> Candidate:
        return Candidate(pid, self._proc, self._targets.guard)

    def _look(self, pid: int) -> bool:
        """Observe a process if a rule names it. True: it does not now, and may later."""
        early = pid in self._early
        self._early.discard(pid)
        if pid == self._own_pid or self._targets.kernel.target_of(pid) is not None:
            return False
        candidate = self._candidate(pid)
        if not candidate.executable:  # gone, or a kernel thread
            return False
        rule = self._rules.match(candidate)
        if rule is not None:
            self._observe(candidate, rule, early)
        return rule is None

    def _has_room(self, uid: int | None) -> bool:
        """Nobody but root may have more than half of the targets, nor all others together the last eighth.

        Anybody can start what a rule names, and act as many users in a name space of his own.
        """
        most = self._config.max_targets
        if uid == 0:
            return len(self._found) < most
        users = [self._subordinates.owner(found.uid) for found, _ in self._found.values() if found.uid]
        theirs = users.count(self._subordinates.owner(uid)) if uid is not None else 0
        return (
            len(self._found) < most and len(users) < max(1, most - most // 8) and theirs < max(1, most // 2)
        )

    def _observe(self, candidate: Candidate, rule: str, early: bool) -> None:
        if not self._has_room(candidate.uid):
            if not self._full:
                log.warning(
                    "%d targets are observed already: process %d is not (discovery.max_targets)",
                    len(self._found),
                    candidate.pid,
                )
            self._full = True
            return
        history = self._keeper.part(candidate.pid) if self._keeper is not None else None
        try:
            target, _, _ = self._targets.start((candidate.pid,), candidate.command, None, history)
        except (TargetGoneError, OSError):
            return
        if early:
            target.blind_ns = self._blind_ns(candidate.pid, target.start_ns)
        uid = candidate.uid
        user = user_name(uid) if uid is not None else "?"
        started = self._proc.started(candidate.pid)
        found = Found(candidate.pid, uid, user, candidate.command, candidate.placement, rule, started)
        session = Session(None, target, on_end=self._on_end)
        self._found[target.number] = (found, session)
        self._sessions.add(session)
        self.on_start(session)
        log.info("observing process %d of %s: rule %r", found.pid, found.user, rule)

    def _blind_ns(self, pid: int, began_ns: int) -> int:
        """For how long it lived while no daemon did: it would have been observed."""
        seen = self._keeper.last_seen_ns if self._keeper is not None else None
        started = self._proc.started_ns(pid)
        return blind_ns(started, seen, began_ns) if seen is not None and started is not None else 0

    def _on_end(self, session: Session) -> None:
        self._found.pop(session.target.number, None)
        if self._full:
            self._full, self._missed = False, True
            self._schedule(TURN_S)
