"""What a subscriber is told, and when again."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from whyidle_daemon.access import Peer, Scope
from whyidle_daemon.sessions import Session
from whyidle_daemon.subscribers import Subscribers
from whyidle_probes.events import NO_PEER, Event, Exit, Fork, Slice, Wait
from whyidle_probes.syscalls import syscall_name
from whyidle_wire.records import FindingEvent, ProcessEvent, Record, SliceEvent, StallEvent, Subscribe


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3 << 8, 3), (9, 137), (11 | 0x80, 139)])
def test_the_status_of_a_process_is_a_shells(code: int, status: int) -> None:
    """128 + the signal that killed it, as everywhere else."""
    subscribers = Subscribers.__new__(Subscribers)
    session = cast(Any, SimpleNamespace(target=SimpleNamespace(number=1)))
    told = subscribers._event_record(session, Exit(1, 5, 42, code, 0, "sh"))
    assert isinstance(told, ProcessEvent)
    assert told.exit_status == status


MS = 1_000_000


@pytest.mark.parametrize(
    ("blocked_ns", "said"),
    [(5 * MS, ("network", 5, "recvfrom")), (300, ("runqueue", 7, "")), (0, ("runqueue", 7, ""))],
)
def test_who_hardly_slept_waited_for_a_cpu(blocked_ns: int, said: tuple[str, int, str]) -> None:
    """Woken on the way to sleep: the time is not of what it would have slept in."""
    subscribers = Subscribers.__new__(Subscribers)
    subscribers._proc = cast(Any, SimpleNamespace(thread_name=lambda pid, tid: "t"))
    session = cast(Any, SimpleNamespace(target=SimpleNamespace(number=1, start_ns=0)))
    peer = NO_PEER._replace(family=2, remote_port=80)
    recvfrom = next(number for number in range(1000) if syscall_name(number) == "recvfrom")
    wait = Slice(1, 5, 6, 0, blocked_ns, 7 * MS, 0, 0, 0, 0, int(Wait.TCP), recvfrom, 3, peer)
    told = subscribers._event_record(session, wait)
    assert isinstance(told, SliceEvent)
    assert (told.state, round(told.duration_s * 1e3), told.syscall) == said
    assert (told.peer is None) == (told.state == "runqueue")


class FakeClient:
    """Keeps what it is sent. ``uid``: 0 sees all."""

    def __init__(self, uid: int = 0) -> None:
        self.scope = Scope.OWN if uid else Scope.ALL
        self.peer = Peer(1, uid, uid)
        self.told: list[Record] = []

    def stream(self, record: Record) -> None:
        self.told.append(record)


class FakeTarget:
    """All of it is user 1000's, unless ``users`` says whose each process is."""

    number, start_ns = 1, 0

    def __init__(self, users: dict[int, int] | None = None) -> None:
        self.users = users
        self.listeners: list[Callable[[Event], None]] = []
        self.wait_listeners: list[Callable[[Event], None]] = []
        self.changes: list[StallEvent] = []

    def stalls(self, threshold_ns: int) -> list[StallEvent]:
        changes, self.changes = self.changes, []
        return changes

    def owned_by(self, pid: int, uid: int) -> bool:
        return uid == (1000 if self.users is None else self.users.get(pid))

    def partly_owned_by(self, uid: int) -> bool:
        return uid == 1000 if self.users is None else uid in self.users.values()

    def wholly_owned_by(self, uid: int) -> bool:
        return uid == 1000


class Scene:
    """One observation, and whoever watches."""

    def __init__(self, users: dict[int, int] | None = None) -> None:
        self.target = FakeTarget(users)
        self.session = Session(None, cast("Any", self.target))
        self.names_read: list[int] = []
        self.subscribers = Subscribers(cast("Any", [self.session]), cast("Any", self), 1.0)

    def thread_name(self, pid: int, tid: int) -> str:
        self.names_read.append(pid)
        return "t"

    def command(self, pid: int) -> tuple[str, ...]:
        return ("x",)

    def wait(self, pid: int) -> None:
        for listener in self.target.wait_listeners:
            listener(Slice(1, pid, pid, 0, 5 * MS, 0, 0, 0, 0, 0, int(Wait.TCP), 0, 3, NO_PEER))

    def happen(self, event: Event) -> None:
        for listener in self.target.listeners:
            listener(event)

    def watch(self, client: FakeClient, **wanted: Any) -> FakeClient:
        self.subscribers.add(cast("Any", client), Subscribe(1, **wanted))
        return client

    def change(self, *changes: StallEvent) -> None:
        self.target.changes.extend(changes)
        self.subscribers.publish_stalls(self.session)

    def find(self, count: int = 1) -> None:
        finding = {
            "kind": "lock_contention",
            "pid": 10,
            "tid": 10,
            "peer": None,
            "blocked_s": 1.0,
            "count": count,
            "severity": "low",
        }
        self.subscribers.publish(self.session, [finding])


def stall(tid: int, *, ended: bool = False, lasted_s: float = 1.0) -> StallEvent:
    return StallEvent(1, 10, tid, "x", "network", 0.0, lasted_s, "recv", ended=ended)


def stalls(client: FakeClient) -> list[tuple[int, bool]]:
    return [(one.tid, one.ended) for one in client.told if isinstance(one, StallEvent)]


def findings(client: FakeClient) -> list[int]:
    return [one.finding["count"] for one in client.told if isinstance(one, FindingEvent)]


def test_who_comes_later_is_told_of_a_hang_that_lasts() -> None:
    """With how long it has lasted, once, and of its end."""
    scene = Scene()
    first = scene.watch(FakeClient())
    scene.change(stall(10), stall(11))
    scene.change(stall(11, ended=True))
    event, since_s = scene.session.stalls[10]
    scene.session.stalls[10] = (event, since_s - 5)
    own, other, picky = (scene.watch(FakeClient(uid)) for uid in (1000, 1001, 0))
    (told,) = own.told
    assert isinstance(told, StallEvent)
    assert told.duration_s == pytest.approx(6, abs=0.5)
    scene.watch(own)
    scene.watch(picky, kinds=("lock_contention",))
    scene.change(stall(10, ended=True, lasted_s=9.0))
    assert stalls(first) == [(10, False), (11, False), (11, True), (10, True)]
    assert stalls(own) == [(10, False), (10, True)]
    assert stalls(other) == []
    assert stalls(picky) == [(10, False)]  # it does not want to know any more


def test_what_ended_while_nobody_watched_is_not_told() -> None:
    scene = Scene()
    first = scene.watch(FakeClient())
    scene.change(stall(10), stall(11))
    scene.subscribers.remove(cast("Any", first))
    scene.target.changes = [stall(10, ended=True), stall(12)]
    assert stalls(scene.watch(FakeClient())) == [(11, False), (12, False)]


def test_each_is_told_a_finding_once() -> None:
    """Whoever was told before; who may not see it takes it from nobody."""
    scene = Scene()
    other = scene.watch(FakeClient(1001))
    scene.find()
    first = scene.watch(FakeClient())
    scene.find()
    second = scene.watch(FakeClient(1000))
    scene.watch(first)
    scene.find()
    scene.find(count=2)
    assert (findings(other), findings(first), findings(second)) == ([], [1, 2], [1, 2])
    assert len(scene.session.sent) == 3
    scene.subscribers.remove(cast("Any", other))
    assert len(scene.session.sent) == 2


def seen(client: FakeClient) -> list[tuple[str, int]]:
    return [
        (type(one).__name__, one.pid) for one in client.told if isinstance(one, SliceEvent | ProcessEvent)
    ]


def test_waits_of_others_are_not_looked_at_for_who_may_not_see_them() -> None:
    """Whoever has no process there costs it nothing, and where he has one, of the others' nothing is read."""
    scene = Scene({10: 0, 11: 0})
    alice = scene.watch(FakeClient(1000), events=True)
    scene.wait(10)
    assert scene.target.wait_listeners == []
    scene.target.users = {10: 0, 11: 0, 12: 1000}
    scene.happen(Fork(1, 1, 10, 12, "x"))
    for pid in (10, 11, 12):
        scene.wait(pid)
    assert seen(alice) == [("ProcessEvent", 12), ("SliceEvent", 12)]
    assert scene.names_read == [12]
    scene.happen(Exit(1, 5, 11, 0, 0, "x"))
    assert len(seen(alice)) == 2


def test_who_listens_is_looked_at_again_when_that_changes() -> None:
    """Whoever comes, goes, or may see more after a reload."""
    scene = Scene({10: 0})
    alice, root = FakeClient(1000), FakeClient()
    scene.watch(alice, events=True)
    scene.watch(root)
    assert len(scene.target.wait_listeners) == 0
    scene.watch(root, events=True)
    scene.wait(10)
    assert seen(root) == [("SliceEvent", 10)]
    scene.subscribers.remove(cast("Any", root))
    assert (len(scene.target.listeners), len(scene.target.wait_listeners)) == (1, 0)
    alice.scope = Scope.ALL
    scene.subscribers.listen()
    scene.wait(10)
    assert seen(alice) == [("SliceEvent", 10)]
    scene.subscribers.remove(cast("Any", alice))
    assert (scene.target.listeners, scene.target.wait_listeners) == ([], [])
