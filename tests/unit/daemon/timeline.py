"""Builders of synthetic targets: say what each thread did, get the records the kernel side would have sent.

A :class:`Script` is one thread's life as steps; the kernel side's rules are applied to it (totals, slices of
at least ``SLICE_NS``, gaps with exact decomposition), so that attribution is tested against a known truth.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from whyidle_daemon.facts import Host, Loss, Overhead, Site, Snapshot, StackSample
from whyidle_daemon.observation import Observation
from whyidle_probes.events import (
    NO_PEER,
    NO_SYSCALL,
    STATES,
    Engine,
    Exit,
    Fork,
    Gap,
    Peer,
    ShortWaits,
    Slice,
    Thread,
    Wait,
)

MS = 1_000_000
S = 1_000_000_000
START = 5_000 * S
SLICE_NS = MS
GAP_NS = MS
PID = 4711
CONTEXT = 0x7F00
RECV, POLL, CONNECT, FUTEX = 45, 7, 42, 202
HOST = Host("6.18.0", 2)
COST = Overhead(0.5, 30_000_000, None)


def peer(remote: str = "93.184.216.34", port: int = 443, local_port: int = 40000, tcp_state: int = 1) -> Peer:
    """A TCP or UDP peer, IPv4 or IPv6."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    raw = socket.inet_pton(family, remote).ljust(16, b"\0")
    return Peer(bytes(16), raw, local_port, port, int(family), 1, tcp_state)


class Step(NamedTuple):
    """``ns`` in ``wait``, then ``runqueue_ns`` waiting for a CPU; ``busy``: inside the engine."""

    wait: int
    ns: int
    runqueue_ns: int = 0
    peer: Peer = NO_PEER
    syscall: int = NO_SYSCALL
    busy: bool = False
    site: Site | None = None
    loop: str = ""
    arg: int = 0
    waker: int = 0
    waker_pid: int = 0  # of another process


def at(step: Step, function: str, line: int = 1, loop: str = "", inner: tuple[str, ...] = ()) -> Step:
    """A step whose stack is read while it lasts; ``inner`` are library frames below the user's own."""
    own = f"{function} (/app/agent.py:{line})"
    stack = (*inner, own, "<module> (/app/agent.py:99)")
    return step._replace(site=Site(function, "/app/agent.py", line, stack), loop=loop)


def run(ns: int) -> Step:
    """On a CPU."""
    return Step(Wait.RUNNING, ns)


def infer(ns: int) -> Step:
    """Inside llama_decode."""
    return Step(Wait.RUNNING, ns, busy=True)


def call(ns: int, to: Peer | None = None, syscall: int = RECV, runqueue_ns: int = 0) -> Step:
    """Waiting for an answer."""
    return Step(Wait.TCP, ns, runqueue_ns, to or peer(), syscall)


def asleep(wait: Wait, ns: int, runqueue_ns: int = 0) -> Step:
    """Any other wait."""
    return Step(wait, ns, runqueue_ns, NO_PEER, FUTEX if wait == Wait.FUTEX else NO_SYSCALL)


def queued(ns: int) -> Step:
    """Preempted."""
    return Step(Wait.RUNQUEUE, 0, ns)


class Life(NamedTuple):
    """What the kernel side makes of a thread's steps: its record, its slices and gaps, its engine."""

    thread: Thread
    events: list[Slice | Gap]
    shorts: list[ShortWaits]
    engine: Engine | None
    end_ns: int
    samples: tuple[StackSample, ...] = ()

    @property
    def records(self) -> list[Any]:
        """Everything that is not in a snapshot."""
        return [*self.events, *self.shorts]


def life(
    steps: list[Step],
    pid: int = PID,
    tid: int | None = None,
    start: int = START,
    ended: bool = False,
    name: str = "agent",
    open_last: bool = False,
) -> Life:
    """Apply the kernel side's rules; ``open_last``: the last step has not ended when the clock is read."""
    tid = pid if tid is None else tid
    ns, count, now = [0] * STATES, [0] * STATES, start
    events: list[Slice | Gap] = []
    shorts: list[ShortWaits] = []
    samples: list[StackSample] = []
    engine: Engine | None = None
    last = Step(Wait.RUNNING, 0)
    last_ns = start
    for index, step in enumerate(steps):
        if step.busy:
            engine = _enter(engine, events, pid, tid, now, ns)
        if step.site is not None:
            samples.append(StackSample(pid, tid, now, step.site, step.loop, step.wait, step.peer))
        if open_last and index == len(steps) - 1:
            last, last_ns = step, now
            now += step.ns + step.runqueue_ns
            break
        ns[step.wait] += step.ns
        ns[Wait.RUNQUEUE] += step.runqueue_ns
        count[step.wait] += 1
        if step.wait != Wait.RUNNING:
            shape = (
                1,
                pid,
                tid,
                now,
                step.ns,
                step.runqueue_ns,
                step.arg,
                0,
                step.waker_pid or (pid if step.waker else 0),
                step.waker,
            )
            if step.ns + step.runqueue_ns >= SLICE_NS:
                events.append(Slice(*shape, int(step.wait), step.syscall, 3, step.peer))
            elif step.peer is not NO_PEER:
                to = step.peer
                key = (pid, tid, to.remote, to.remote_port, int(step.wait), to.family)
                shorts.append(ShortWaits(*key, step.ns, 1, step.ns))
        now += step.ns + step.runqueue_ns
        last_ns = now
        if step.busy and engine is not None:
            calls, busy_ns = engine.calls + 1, engine.busy_ns + now - engine.last_ns
            seen = tuple(ns)
            engine = engine._replace(busy=False, busy_ns=busy_ns, calls=calls, last_ns=now, seen=seen)
    wake_ns = last_ns + last.ns if last.runqueue_ns and last.ns else 0
    thread = Thread(
        pid, tid, 1, 0, start, now if ended else last_ns, wake_ns, now if ended else 0, 0, 0, 0, 0, 0,
        int(last.wait), last.syscall, -1, last.peer, name, tuple(ns), tuple(count),
    )  # fmt: skip
    return Life(thread, events, shorts, engine, now, tuple(samples))


def _enter(
    engine: Engine | None, events: list[Slice | Gap], pid: int, tid: int, now: int, ns: list[int]
) -> Engine:
    if engine is None:
        return Engine(pid, CONTEXT, 1, tid, True, now, now, 0, 0, 0, 0, 0, (0,) * STATES)
    idle = now - engine.last_ns
    short = idle if idle < GAP_NS else 0
    if idle >= GAP_NS:
        exact = tuple(a - b for a, b in zip(ns, engine.seen, strict=True))
        events.append(Gap(1, pid, tid, CONTEXT, engine.last_ns, now, exact))
    return engine._replace(
        busy=True,
        idle_ns=engine.idle_ns + idle,
        gaps=engine.gaps + 1,
        short_ns=engine.short_ns + short,
        last_ns=now,
    )


def observe(
    lives: list[Life],
    extra: tuple[Any, ...] = (),
    loss: Loss | None = None,
    arrange: Callable[[list[Any]], list[Any]] = list,
    now: int | None = None,
    roots: tuple[int, ...] = (PID,),
) -> dict[str, Any]:
    """The report of these threads; those that did not end are in the snapshot."""
    observation = Observation(START, roots, ("python", "agent.py"), "2026-01-01T00:00:00Z")
    for each in lives:
        for sample in each.samples:
            observation.add(sample)
    records = [record for each in lives for record in each.records]
    records += [each.thread for each in lives if each.thread.end_ns]
    for record in arrange([*extra, *records]):
        observation.add(record)
    now = now or max(each.end_ns for each in lives)
    live = tuple(each.thread for each in lives if not each.thread.end_ns)
    engines = tuple(each.engine for each in lives if each.engine is not None)
    return observation.report(Snapshot(now, live, engines), HOST, loss or Loss(), COST, None)


def born(pid: int, parent: int, at: int) -> Fork:
    """A fork event."""
    return Fork(1, at, parent, pid, "child")


def died(pid: int, at: int, code: int = 0) -> Exit:
    """An exit event."""
    return Exit(1, at, pid, code, 1000, "child")
