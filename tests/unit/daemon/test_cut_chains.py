"""A part of the history that begins in the middle: who serves and who waits for whom is known from before."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import timeline
from timeline import FUTEX, MS, PID, START, S, Step, asleep, infer, life

from whyidle_daemon import target as module
from whyidle_daemon.facts import Site, StackSample, Tie
from whyidle_daemon.recording.output import Output, wait_for_all
from whyidle_daemon.recording.reader import report
from whyidle_daemon.target import Target
from whyidle_daemon.wakes import MAX_TOLD
from whyidle_probes.events import Peer, Slice, Stat, Wait

DRIVER, AGENT = PID + 1, PID + 100
LOCAL, FAR = bytes([127, 0, 0, 1]).ljust(16, b"\0"), timeline.peer()
LISTENS = Peer(LOCAL, bytes(16), 8080, 0, 2, 1, 10)
SERVED = Peer(LOCAL, LOCAL, 8080, 50000, 2, 1, 1)
CALLING = Peer(LOCAL, LOCAL, 50000, 8080, 2, 1, 1)
WORKER = Site("_worker", "/usr/lib/python3.12/concurrent/futures/thread.py", 90, ())
WAITING = [infer(200 * MS), asleep(Wait.FUTEX, 20 * S)]  # of the driver


class Cut:
    """A target whose threads did this, all still in their last steps; it is cut while they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, lives: list[timeline.Life]) -> None:
        pids = sorted({each.thread.pid for each in lives})
        self.now = max(each.thread.last_ns for each in lives) + S
        monkeypatch.setattr(module, "monotonic_ns", lambda: self.now)
        kernel = SimpleNamespace(
            track=lambda *_: None,
            untrack=lambda *_: None,
            consume=lambda _: 0,
            sweep_exited=lambda _: [],
            forget_engines=lambda _: None,
            glance=lambda _: None,
            processes=lambda _: pids,
            threads=lambda _: [each.thread for each in lives],
            engines=lambda _: [each.engine for each in lives if each.engine is not None],
            stats=lambda: dict.fromkeys(Stat, 0),
            stat=lambda _: 0,
            run_ns=lambda: 0,
            skipped=lambda: 0,
        )
        proc = SimpleNamespace(
            command=lambda pid: (f"program-{pid}",),
            parent=lambda _: 1,
            cgroup=lambda _: None,
            netns=lambda _: 0,
        )
        libraries = SimpleNamespace(scan=lambda _: False, forget=lambda _: None, cuda={})
        self.target = Target(1, cast(Any, kernel), cast(Any, libraries), cast(Any, proc))
        begun, self.now = self.now, START
        self.target.start((PID,), ("server",))
        self.now = begun
        for event in sorted((e for each in lives for e in each.events), key=lambda e: e.end_ns):
            self.target.handle(event)
        self.samples = [sample for each in lives for sample in each.samples]
        for sample in self.samples:
            self.target.tell(sample)
        self.before = self.target.report()
        self.file = folder / "part"
        self.target.renew(Output(str(self.file)))

    def after(self) -> dict[str, Any]:
        """The report of the part after the cut, which its recording says as well."""
        for sample in self.samples:
            self.target.tell(sample)
        self.now += 5 * S
        live = self.target.finish(None)
        wait_for_all(10.0)  # for the part nobody waits otherwise
        replayed = report(self.file)
        assert replayed.pop("recording")["complete"]
        assert replayed == live
        return live


def causes(said: dict[str, Any]) -> set[tuple[str, int]]:
    return {(cause["cause"], cause["pid"]) for cause in said["idle_by_cause"] if cause["seconds"] > 0.5}


def worker() -> timeline.Life:
    """The thread that drives the model: it computed, and waits for something to do."""
    each = life(WAITING, tid=DRIVER, open_last=True)
    began = each.thread.last_ns
    return each._replace(samples=(StackSample(PID, DRIVER, began, WORKER, "", Wait.FUTEX),))


def test_a_loop_that_accepted_before_the_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No wait for a socket ends any more: its worker still waits for nobody's call, and for no lock."""
    loop = life([Step(Wait.EPOLL, 100 * MS, peer=LISTENS), asleep(Wait.EPOLL, 20 * S)], open_last=True)
    cut = Cut(monkeypatch, tmp_path, [loop, worker()])
    assert causes(cut.before) == {("no_demand", PID)}
    assert causes(cut.after()) == {("no_demand", PID)}


def test_an_accept_that_lasts_over_the_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody has called since the daemon began, nor does anybody."""
    accept = life([timeline.run(MS), Step(Wait.TCP, 20 * S, peer=LISTENS)], open_last=True)
    cut = Cut(monkeypatch, tmp_path, [accept, worker()])
    assert causes(cut.before) == {("no_demand", PID)}
    assert causes(cut.after()) == {("no_demand", PID)}


def test_the_agent_that_hangs_is_to_blame_after_the_cut_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server waits for it on a connection that nothing came over since."""
    steps = [Step(Wait.TCP, 100 * MS, peer=LISTENS), infer(200 * MS), Step(Wait.TCP, 20 * S, peer=SERVED)]
    agent = [Step(Wait.TCP, 300 * MS, peer=CALLING), timeline.call(20 * S, FAR)]
    lives = [life(steps, open_last=True), life(agent, pid=AGENT, open_last=True)]
    cut = Cut(monkeypatch, tmp_path, lives)
    assert causes(cut.before) == {("network", AGENT)}
    assert causes(cut.after()) == {("network", AGENT)}


def test_who_woke_the_worker_last_is_who_it_waits_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A thread that hands over work hangs in a search: so it is after the cut."""
    given = asleep(Wait.FUTEX, 100 * MS)._replace(waker=PID)
    driver = life([given, *WAITING], tid=DRIVER, open_last=True)
    events = [e._replace(waker_syscall=FUTEX) if isinstance(e, Slice) else e for e in driver.events]
    main = life([timeline.run(200 * MS), timeline.call(20 * S, FAR)], open_last=True)
    cut = Cut(monkeypatch, tmp_path, [main, driver._replace(events=events)])
    assert causes(cut.before) == {("network", PID)}
    after = cut.after()
    assert causes(after) == {("network", PID)}
    assert after["idle_by_cause"][0]["tid"] == PID


def test_what_is_told_is_bounded_and_of_the_living(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Connections come and go by the thousand, and threads that ended end nobody's wait."""
    lives = [worker(), life([timeline.run(MS), asleep(Wait.SLEEP, 20 * S)], open_last=True)]
    cut = Cut(monkeypatch, tmp_path, lives)
    for port in range(2 * MAX_TOLD):
        peer = SERVED._replace(remote_port=1 + port)
        for pid in (PID, AGENT):
            event = Slice(1, pid, pid, START, MS, 0, 0, 0, 0, 0, int(Wait.TCP), 0, 3, peer)
            cut.target.observation.add(event._replace(peer=peer._replace(local_port=pid)))
    ties = list(cut.target.observation.ties({(PID, PID)}))
    assert len(ties) == MAX_TOLD
    assert {(tie.pid, tie.tid) for tie in ties if isinstance(tie, Tie)} == {(PID, PID)}


@pytest.mark.parametrize("finished", [True, False])
def test_an_end_does_not_wait_for_the_disk_of_the_history(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, finished: bool
) -> None:
    """The loop stood still for it, for each observation by itself; what is queued is written all the same."""
    cut = Cut(monkeypatch, tmp_path, [worker()])
    slow = threading.Event()

    def stuck(descriptor: int, data: memoryview) -> int:
        slow.wait(20)
        return os.write(descriptor, data)

    cut.target.renew(Output(str(tmp_path / "slow"), write=stuck))
    began = time.monotonic()
    if finished:
        cut.target.finish(0)
    cut.target.close()
    assert time.monotonic() - began < 0.5
    slow.set()
    wait_for_all(10.0)
    assert report(tmp_path / "slow")["recording"] == {"complete": True, "reason": None}
