"""Keeps the history going: a part for every observation, a new one when it is long or large enough.

The daemon's own observations are cut (:mod:`whyidle_daemon.rebase`): they may run for months. One that a
client asked for has one report, and so one part, which ends early if it takes too much room.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from whyidle_daemon.config import History
from whyidle_daemon.history.heartbeat import Heartbeat
from whyidle_daemon.history.store import Store
from whyidle_daemon.recording.output import Output
from whyidle_daemon.sessions import Session, Sessions

PRUNE_EVERY_S: Final = 60.0
IDLE_PRUNE_S: Final = 3600.0
TICK_S: Final = 1.0


class Keeper:
    """The history of a running daemon."""

    def __init__(self, state: Path, config: History, sessions: Sessions) -> None:
        self._store = Store(state, config)
        self._heartbeat = Heartbeat(state)
        self._sessions = sessions
        self._next_prune = 0.0
        self._next_tick = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self.last_seen_ns = self._heartbeat.last_ns()

    def start(self) -> None:
        """Remove what is too old, now and from time to time: also while nothing is observed."""
        self._timer = asyncio.get_running_loop().call_later(IDLE_PRUNE_S, self.start)
        self._store.prune()

    def configure(self, config: History) -> None:
        """Use another configuration from now on."""
        self._store.config = config
        self._next_prune = 0.0
        self._store.prune()

    def part(self, pid: int, whole: bool = False) -> Output | None:
        """A file for an observation that is about to begin; ``whole``: it will not be cut."""
        return self._store.new(pid, whole)

    def next_part(self, session: Session) -> Output | None:
        """A file for an observation that is being cut."""
        session.next_part = asyncio.get_running_loop().time() + self._store.config.part_minutes * 60
        return self._store.new(session.target.roots[0])

    def tick(self) -> None:
        """Called while something is observed: beat, cut what is due, prune now and then."""
        now = asyncio.get_running_loop().time()
        if now < self._next_tick:
            return
        self._next_tick = now + TICK_S
        self._heartbeat.beat()
        for session in self._sessions:
            if session.client is None and not session.ended and self._due(session, now):
                self._sessions.renew(session, self.next_part(session))
        if now >= self._next_prune:
            self._next_prune = now + PRUNE_EVERY_S
            self._store.prune()

    def close(self) -> None:
        """The daemon ends; what it observed is closed by then."""
        if self._timer is not None:
            self._timer.cancel()
        self._heartbeat.beat()

    def _due(self, session: Session, now: float) -> bool:
        if not session.next_part:
            session.next_part = now + self._store.config.part_minutes * 60
        return now >= session.next_part or session.target.history_bytes >= self._store.part_bytes
