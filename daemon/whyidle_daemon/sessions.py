"""The observations that run, by number: those that clients asked for, and those that discovery began."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

from whyidle_daemon.clients import Client
from whyidle_daemon.recording.output import Output
from whyidle_daemon.target import Target
from whyidle_daemon.targets import Targets
from whyidle_wire.records import Ended, StallEvent

MIN_PROGRESS_S = 0.05


class Session:
    """An observation, and the client that it is for; ``None``: the daemon's own, which serves all.

    ``on_end`` is called once, when it has ended or was stopped.
    """

    def __init__(
        self,
        client: Client | None,
        target: Target,
        progress_s: float = 0.0,
        on_end: Callable[[Session], None] | None = None,
    ) -> None:
        self.client = client
        self.target = target
        self.progress_s = max(progress_s, MIN_PROGRESS_S) if progress_s > 0 else 0.0
        self.on_end = on_end
        self.next_progress = 0.0
        self.next_part = 0.0  # of the history; 0: not known yet
        self.ended = False
        self.findings: list[dict[str, Any]] = []  # of its report
        # Of its findings, by who was told: what each was like then. And its waits that last, by thread: what
        # was said of each, and when.
        self.sent: WeakKeyDictionary[Any, dict[tuple[Any, ...], tuple[Any, ...]]] = WeakKeyDictionary()
        self.stalls: dict[int, tuple[StallEvent, float]] = {}


class Sessions:
    """All of them. Iterating survives sessions that start or stop meanwhile."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._sessions: dict[int, Session] = {}
        self.on_cut: Callable[[Session, bool], None] = lambda session, goes_on: None

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def add(self, session: Session) -> None:
        self._sessions[session.target.number] = session

    def get(self, number: int) -> Session | None:
        return self._sessions.get(number)

    def stop(self, session: Session) -> None:
        """End the observation; nothing happens if it has ended already."""
        if self._sessions.pop(session.target.number, None) is not None:
            self.on_cut(session, False)
            self._targets.stop(session.target)
            if session.on_end is not None:
                session.on_end(session)

    def renew(self, session: Session, history: Output | None) -> None:
        """Cut an observation that goes on: ``on_cut`` sees what ends here, as it does at the end."""
        self._targets.drain_waits()  # those up to here belong to what ends
        self.on_cut(session, True)
        session.sent.clear()
        session.target.renew(history)

    def over(self, session: Session) -> None:
        """All its processes have gone: tell the client, who still wants the report; nobody else does."""
        session.ended = True
        if session.client is not None:
            session.client.answer(Ended(session.target.number))
        else:
            self.stop(session)

    def of(self, pids: Iterable[int]) -> list[Session]:
        """Those that observe one of these processes."""
        numbers = {self._targets.kernel.target_of(pid) for pid in pids}
        return [session for session in self if session.target.number in numbers]

    @property
    def attended(self) -> bool:
        """Whether a client waits for one of them."""
        return any(session.client is not None for session in self._sessions.values())

    def stop_all_of(self, client: Client) -> None:
        """End what was observed for a client that is gone."""
        for session in self:
            if session.client is client:
                self.stop(session)
